"""Keys: add, list, change, revoke, rotate. Each change raises the revision, by which the ledger and
through it every replica sees it; whether the service runs makes no difference."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from serve_app.access.credentials import Pepper, Secret, make_credential
from serve_app.access.database import Database, KeyStoreError, credentials, keys, service
from serve_app.core.access.access_key import (
    AccessKey,
    KeyLimits,
    KeyRecord,
    KeySnapshot,
    Priority,
)
from serve_app.core.tiers import Tier

# It is a label of metrics and a column of usage.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
# Larger limits are as good as none, and a day's sum still fits into the database's integers.
MAX_LIMIT = 10**12


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key, the public ids under which it is valid, and when it was made (Unix time)."""

    key: AccessKey
    key_ids: tuple[str, ...]
    created_at_s: float


class KeyStore:
    """Changes of keys. `pepper` is needed by what makes a secret."""

    def __init__(
        self,
        database: Database,
        pepper: Pepper | None = None,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._pepper = pepper
        self._now_s = now_s

    def add(self, key: AccessKey) -> Secret:
        """What its owner sends; it is shown nowhere again. Raises KeyStoreError for a name that is
        taken and for what no key may have."""
        _check(key)
        with self._database.transaction() as connection:
            if _has(connection, key.name):
                raise KeyStoreError(
                    f"There is a key {key.name} already: `tierserve keys rotate {key.name}` gives "
                    f"it a new secret, `change` other limits, and `revoke` ends it."
                )
            connection.execute(keys.insert().values(**_row(key), created_at_s=self._now_s()))
            presented = self._add_credential(connection, key.name)
            _raise_revision(connection)
        return presented

    def stored(self) -> list[StoredKey]:
        """By name."""
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(keys).order_by(keys.c.name)).mappings().all()
            ids = connection.execute(
                sa.select(credentials.c.name, credentials.c.key_id)
                .where(_valid(self._now_s()))
                .order_by(credentials.c.created_at_s)
            ).all()
        return [
            StoredKey(
                _key(row),
                tuple(id_ for name, id_ in ids if name == row["name"]),
                row["created_at_s"],
            )
            for row in rows
        ]

    def change(self, key: AccessKey) -> None:
        """Other limits, tiers, weight, priority or rights of the key of that name."""
        _check(key)
        with self._database.transaction() as connection:
            _require(connection, key.name)
            connection.execute(keys.update().where(keys.c.name == key.name).values(**_row(key)))
            _raise_revision(connection)

    def get(self, name: str) -> AccessKey:
        with self._database.reading() as connection:
            _require(connection, name)
            row = connection.execute(sa.select(keys).where(keys.c.name == name)).mappings().one()
        return _key(row)

    def revoke(self, name: str) -> None:
        """It is no key any more; its usage stays."""
        with self._database.transaction() as connection:
            _require(connection, name)
            connection.execute(credentials.delete().where(credentials.c.name == name))
            connection.execute(keys.delete().where(keys.c.name == name))
            _raise_revision(connection)

    def rotate(self, name: str, grace_s: float = 0.0) -> Secret:
        """A new secret; the old ones are valid for `grace_s` more. Limits and what was used of them
        stay."""
        now_s = self._now_s()
        ends_s = credentials.c.expires_at_s
        with self._database.transaction() as connection:
            _require(connection, name)
            old = credentials.c.name == name
            connection.execute(credentials.delete().where(old, ends_s <= now_s))
            if grace_s <= 0:
                connection.execute(credentials.delete().where(old))
            else:
                later = sa.or_(ends_s.is_(None), ends_s > now_s + grace_s)
                shortened = credentials.update().where(old, later)
                connection.execute(shortened.values(expires_at_s=now_s + grace_s))
            presented = self._add_credential(connection, name)
            _raise_revision(connection)
        return presented

    def snapshot(self) -> KeySnapshot:
        with self._database.reading() as connection:
            return read_snapshot(connection, self._now_s())

    def _add_credential(self, connection: Connection, name: str) -> Secret:
        assert self._pepper is not None, "a store that makes secrets has a pepper"
        made = make_credential(self._pepper)
        connection.execute(
            credentials.insert().values(
                key_id=made.key_id,
                name=name,
                secret_hash=made.secret_hash,
                expires_at_s=None,
                created_at_s=self._now_s(),
            )
        )
        return made.presented


def read_snapshot(connection: Connection, now_s: float) -> KeySnapshot:
    """All keys that are valid at `now_s`; a secret that ends before its key ends it for itself."""
    revision = connection.execute(sa.select(service.c.revision)).scalar_one()
    rows = connection.execute(sa.select(keys)).mappings().all()
    by_name = {row["name"]: _key(row) for row in rows}
    valid = connection.execute(sa.select(credentials).where(_valid(now_s))).mappings().all()
    records = (
        KeyRecord(row["key_id"], bytes(row["secret_hash"]), _until(by_name[row["name"]], row))
        for row in valid
        if row["name"] in by_name
    )
    return KeySnapshot(revision, tuple(records))


def _until(key: AccessKey, credential: Any) -> AccessKey:
    ends_s = [end for end in (key.expires_at_s, credential["expires_at_s"]) if end is not None]
    return replace(key, expires_at_s=min(ends_s, default=None))


def _valid(now_s: float) -> sa.ColumnElement[bool]:
    ends_s = credentials.c.expires_at_s
    return sa.or_(ends_s.is_(None), ends_s > now_s)


def _has(connection: Connection, name: str) -> bool:
    found = connection.execute(sa.select(keys.c.name).where(keys.c.name == name))
    return found.first() is not None


def _require(connection: Connection, name: str) -> None:
    if not _has(connection, name):
        raise KeyStoreError(f"There is no key {name}: `tierserve keys list` shows those there are.")


def _raise_revision(connection: Connection) -> None:
    connection.execute(service.update().values(revision=service.c.revision + 1))


def _check(key: AccessKey) -> None:
    if not NAME.fullmatch(key.name):
        raise KeyStoreError(
            f"{key.name!r} is no name for a key: up to 64 letters, digits and . _ @ + -, of which "
            "the first is a letter or digit."
        )
    if not key.tiers:
        raise KeyStoreError(f"A key needs a tier: {', '.join(Tier)}.")
    if not 0.01 <= key.weight <= 100:
        raise KeyStoreError("A weight is from 0.01 to 100; 2 gets twice the share of 1.")
    limits = key.limits
    for name, limit in (
        ("max-concurrent", limits.max_concurrent),
        ("requests-per-minute", limits.requests_per_minute),
        ("tokens-per-minute", limits.tokens_per_minute),
        ("tokens-per-day", limits.tokens_per_day),
    ):
        if limit is not None and not 1 <= limit <= MAX_LIMIT:
            raise KeyStoreError(
                f"--{name} is from 1 to {MAX_LIMIT:,}; leave it out for no limit, and revoke the "
                "key to allow nothing."
            )


def _row(key: AccessKey) -> dict[str, Any]:
    return {
        "name": key.name,
        "tiers": ",".join(sorted(key.tiers)),
        "weight": key.weight,
        "priority": key.priority.value,
        "max_concurrent": key.limits.max_concurrent,
        "requests_per_minute": key.limits.requests_per_minute,
        "tokens_per_minute": key.limits.tokens_per_minute,
        "tokens_per_day": key.limits.tokens_per_day,
        "admin": key.admin,
        "expires_at_s": key.expires_at_s,
    }


def _key(row: Any) -> AccessKey:
    return AccessKey(
        name=row["name"],
        tiers=frozenset(Tier(tier) for tier in row["tiers"].split(",")),
        weight=row["weight"],
        priority=Priority(row["priority"]),
        limits=KeyLimits(
            max_concurrent=row["max_concurrent"],
            requests_per_minute=row["requests_per_minute"],
            tokens_per_minute=row["tokens_per_minute"],
            tokens_per_day=row["tokens_per_day"],
        ),
        admin=row["admin"],
        expires_at_s=row["expires_at_s"],
    )
