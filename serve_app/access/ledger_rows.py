"""The ledger's state as rows: read whole at its start, and written where it has changed."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection
from sqlalchemy.sql.compiler import SQLCompiler

from serve_app.access.database import leases, quotas, replica_usage, replicas, usage
from serve_app.core.access.access_key import KeyLimits
from serve_app.core.access.lease import Amounts, Usage, UsageLabels
from serve_app.core.access.ledger_state import LedgerState
from serve_app.core.access.quota import Quota
from serve_app.core.access.replica_account import KeyAccount, ReplicaAccount
from serve_app.core.access.token_bucket import TokenBucket
from serve_app.core.tiers import Tier

_COUNTERS = ("granted", "settled", "refunded", "returned", "reserved", "prepaid", "unleased")
_USAGE = ("requests", "refused", "prompt_tokens", "reasoning_tokens", "answer_tokens", "gpu_s")


def read_state(connection: Connection, state: LedgerState) -> None:
    """Into a state that is new."""
    accounts = {
        row["name"]: ReplicaAccount(row["epoch"], row["sequence"], row["seen_s"], row["alive"])
        for row in connection.execute(sa.select(replicas)).mappings()
    }
    for row in connection.execute(sa.select(leases)).mappings():
        accounts[row["replica"]].keys[row["key"]] = _account(row)
    for row in connection.execute(sa.select(replica_usage)).mappings():
        accounts[row["replica"]].usage[_labels(row)] = Usage(*(row[name] for name in _USAGE))
    read = connection.execute(sa.select(quotas)).mappings()
    state.load({row["key"]: _quota(row) for row in read}, accounts)


def write_changes(connection: Connection, state: LedgerState) -> None:
    """What the state names as changed, and of usage what was added."""
    changes = state.changes
    for name in changes.removed:
        connection.execute(replicas.delete().where(replicas.c.name == name))
        connection.execute(leases.delete().where(leases.c.replica == name))
        connection.execute(replica_usage.delete().where(replica_usage.c.replica == name))
    _upsert(connection, quotas, [_quota_row(key, state.quotas[key]) for key in changes.quotas])
    written = {name: state.replicas[name] for name in changes.replicas}
    _upsert(connection, replicas, [_replica_row(*item) for item in written.items()])
    living = (item for item in changes.accounts if item[0] in state.replicas)
    _upsert(
        connection,
        leases,
        [_account_row(name, key, state.replicas[name].keys[key]) for name, key in living],
    )
    _upsert(
        connection,
        replica_usage,
        [
            {"replica": name, **_usage_row(labels, state.replicas[name].usage[labels])}
            for name, labels in changes.replica_usage
            if name in state.replicas
        ],
    )
    _upsert(
        connection,
        usage,
        [_usage_row(labels, added) for labels, added in changes.usage.items()],
        adds=True,
    )


def _upsert(
    connection: Connection,
    table: sa.Table,
    rows: Sequence[Mapping[str, Any]],
    *,
    adds: bool = False,
) -> None:
    if not rows:
        return
    keys = [column.name for column in table.primary_key]
    # In one order everywhere, so that two writers cannot wait for one another.
    ordered = sorted(rows, key=lambda row: [row[key] for key in keys])
    sql, places = _upsert_sql(table, connection.dialect, adds=adds)
    given = ordered if places is None else [tuple(row[name] for name in places) for row in ordered]
    connection.exec_driver_sql(sql, given)


@functools.lru_cache(maxsize=32)
def _upsert_sql(
    table: sa.Table, dialect: sa.Dialect, *, adds: bool
) -> tuple[str, Sequence[str] | None]:
    """The statement, and the order of its parameters where they have no names. Compiled once:
    SQLAlchemy keeps no statement with ON CONFLICT, and compiling one takes longer than running
    it."""
    kind = postgresql if dialect.name == "postgresql" else sqlite
    statement = kind.insert(table)
    values = {
        column.name: column + statement.excluded[column.name]
        if adds
        else statement.excluded[column.name]
        for column in table.columns
        if not column.primary_key
    }
    keys = [column.name for column in table.primary_key]
    upsert = statement.on_conflict_do_update(index_elements=keys, set_=values)
    compiled = upsert.compile(dialect=dialect)
    assert isinstance(compiled, SQLCompiler)
    return str(compiled), compiled.positiontup


def _account(row: Any) -> KeyAccount:
    return KeyAccount(
        **{name: _amounts(row, name) for name in _COUNTERS},
        day=row["day"],
        day_refunded_tokens=row["day_refunded_tokens"],
    )


def _amounts(row: Any, name: str) -> Amounts:
    return Amounts(row[f"{name}_requests"], row[f"{name}_tokens"], row[f"{name}_concurrent"])


def _account_row(replica: str, key: str, account: KeyAccount) -> dict[str, Any]:
    row: dict[str, Any] = {"replica": replica, "key": key, "day": account.day}
    row["day_refunded_tokens"] = account.day_refunded_tokens
    for name in _COUNTERS:
        amounts: Amounts = getattr(account, name)
        row[f"{name}_requests"] = amounts.requests
        row[f"{name}_tokens"] = amounts.tokens
        row[f"{name}_concurrent"] = amounts.concurrent
    return row


def _replica_row(name: str, replica: ReplicaAccount) -> dict[str, Any]:
    return {
        "name": name,
        "epoch": replica.epoch,
        "sequence": replica.sequence,
        "seen_s": replica.seen_s,
        "alive": replica.alive,
    }


def _quota(row: Any) -> Quota:
    limits = KeyLimits(
        row["max_concurrent"], row["requests_limit"], row["tokens_limit"], row["day_limit"]
    )
    return Quota(
        limits, _bucket(row, "requests"), _bucket(row, "tokens"), row["day"], row["day_tokens"]
    )


def _bucket(row: Any, name: str) -> TokenBucket | None:
    if row[f"{name}_limit"] is None:
        return None
    return TokenBucket(row[f"{name}_limit"], row[f"{name}_level"], row[f"{name}_at_s"])


def _quota_row(key: str, quota: Quota) -> dict[str, Any]:
    row: dict[str, Any] = {
        "key": key,
        "max_concurrent": quota.limits.max_concurrent,
        "day_limit": quota.limits.tokens_per_day,
        "day": quota.day,
        "day_tokens": quota.day_tokens,
    }
    for name, bucket in (("requests", quota.requests), ("tokens", quota.tokens)):
        row[f"{name}_limit"] = bucket and bucket.limit
        row[f"{name}_level"] = bucket and bucket.level
        row[f"{name}_at_s"] = bucket and bucket.at_s
    return row


def _labels(row: Any) -> UsageLabels:
    return UsageLabels(row["key"], Tier(row["tier"]), row["model"], row["day"])


def _usage_row(labels: UsageLabels, used: Usage) -> dict[str, Any]:
    row: dict[str, Any] = {name: getattr(used, name) for name in _USAGE}
    return row | {
        "day": labels.day,
        "key": labels.key,
        "tier": labels.tier.value,
        "model": labels.model,
    }
