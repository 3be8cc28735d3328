"""The ledger's decisions over all keys and replicas, without its database.

A lease is drawn from the key's quota when it is granted. At a replica's death what its requests
had reserved counts as spent, and so does the prepaid part of what lay idle; the rest comes back.
Should the replica be alive after all, it learns of a later epoch and drops what was given to
others. Little is left of a key: nothing lies idle anywhere, each request asks for what it needs,
and what lies idle is recalled.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from serve_app.core.access.access_key import KeyLimits, KeySnapshot
from serve_app.core.access.lease import (
    NOTHING,
    Amounts,
    Claim,
    KeyBalance,
    KeyReport,
    LedgerAnswer,
    Refusal,
    ReplicaReport,
    Usage,
    UsageLabels,
)
from serve_app.core.access.quota import Quota, limited, new_quota, utc_day
from serve_app.core.access.replica_account import KeyAccount, ReplicaAccount, book

# After a request found leases of its key lying idle elsewhere, none are left to lie.
SHORT_S = 2.0
# A replica that reported within this time before its death has spent no more than its prepaid part
# without the ledger's knowledge.
OFFLINE_AFTER_S = 1.4
# A replica that answers from its leases while it reaches no ledger, and that nobody has seen die,
# counts as alive for so long.
OFFLINE_KEPT_S = 600.0
# A dead replica's account is kept this long, should it come back.
DEAD_KEPT_S = 2 * 86_400.0
# Streams that ended with their replicas, of which another one may ask.
MOST_LOST_STREAMS = 10_000


@dataclass(slots=True)
class Changes:
    """What differs from the database."""

    quotas: set[str] = field(default_factory=set[str])
    replicas: set[str] = field(default_factory=set[str])
    accounts: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    replica_usage: set[tuple[str, UsageLabels]] = field(
        default_factory=set[tuple[str, UsageLabels]]
    )
    usage: dict[UsageLabels, Usage] = field(default_factory=dict[UsageLabels, Usage])
    removed: set[str] = field(default_factory=set[str])

    def __bool__(self) -> bool:
        return bool(self.quotas or self.replicas or self.usage or self.removed)


class LedgerState:
    """One owner, one thread. Each change is named in `changes`, for whoever stores it."""

    def __init__(self, *, lease_ttl_s: float, offline_leases: bool) -> None:
        """`lease_ttl_s`: without a report for so long a replica is dead. `offline_leases`: replicas
        answer from their leases while the ledger is away, so that one that fell silent may have
        spent all of its idle lease, and its requests may still run: until somebody has seen it die
        (`forget`), or for OFFLINE_KEPT_S, all of it counts."""
        self.lease_ttl_s = OFFLINE_KEPT_S if offline_leases else lease_ttl_s
        self.offline_leases = offline_leases
        self.snapshot = KeySnapshot(revision=0)
        self.limits: dict[str, KeyLimits] = {}
        self.quotas: dict[str, Quota] = {}
        self.replicas: dict[str, ReplicaAccount] = {}
        self.changes = Changes()
        self._holders: dict[str, set[str]] = {}  # replicas that have an account, by key
        self._short_until_s: dict[str, float] = {}
        self._heard_s = 0.0  # Unix time of the last report
        # The replica that died with it, and the tokens that it had reserved.
        self._lost: dict[tuple[str, str], tuple[str, int]] = {}  # by key and request id
        self._covered: dict[tuple[str, Claim], None] = {}

    def load(self, quotas: dict[str, Quota], replicas: dict[str, ReplicaAccount]) -> None:
        """What a database has kept."""
        self.quotas, self.replicas = quotas, replicas
        for name, replica in replicas.items():
            for key in replica.keys:
                self._holders.setdefault(key, set()).add(name)

    def set_keys(self, snapshot: KeySnapshot, now_s: float) -> None:
        """Other keys or limits. What was drawn of a key stays drawn; a key that is gone grants
        nothing, and its leases are recalled."""
        self.snapshot = snapshot
        self.limits = {record.key.name: record.key.limits for record in snapshot.records}
        for name, limits in self.limits.items():
            quota = self.quotas.get(name)
            if quota is None:
                if not limits.unlimited:
                    self._set_quota(name, new_quota(limits, now_s))
            elif quota.limits != limits:
                refilled = quota.at(now_s, self.idle(name))
                resized = refilled.with_limits(limits, now_s)
                self._set_quota(name, resized.at(now_s, self.idle(name)))

    def report(self, report: ReplicaReport, now_s: float) -> LedgerAnswer:
        """Book a report, grant what it asks for, and say what it should know."""
        self.expire(now_s)
        replica = self._replica(report, now_s)
        is_back = not replica.alive
        if is_back:  # it settles its requests itself
            self._lost = {
                stream: lost for stream, lost in self._lost.items() if lost[0] != report.replica
            }
        replica.alive, replica.seen_s = True, now_s
        if is_back or replica.sequence == 0 or report.keys or report.usage:
            self.changes.replicas.add(report.replica)
        refusals: dict[str, Refusal] = {}
        recalling: set[str] = set()
        if report.epoch == replica.epoch and report.sequence > replica.sequence:
            replica.sequence = report.sequence
            for name, key_report in report.keys.items():
                refusal, recalls = self._book(report, name, key_report, now_s)
                if refusal is not None:
                    refusals[name] = refusal
                if recalls:
                    recalling.add(name)
            self._count(report, replica)
        names = replica.keys if report.epoch != replica.epoch or is_back else report.keys
        known = report.known_revision == self.snapshot.revision
        return LedgerAnswer(
            sequence=report.sequence,
            epoch=replica.epoch,
            day=utc_day(now_s),
            granted={name: replica.keys[name].granted for name in names if name in replica.keys},
            balances=dict(self._balances(report.keys, now_s)),
            recalled=self._recalled(replica, report.keys, now_s),
            recalling=frozenset(recalling),
            refusals=refusals,
            keys=None if known else self.snapshot,
            covered=frozenset(
                claim for claim in report.claims if self._covers(report.replica, claim)
            ),
        )

    def expire(self, now_s: float) -> None:
        """Declare replicas dead that have not reported for the lease's time. After a time in which
        the ledger itself heard nobody (it was away, its machine slept, its clock was set), all have
        that time anew."""
        was_deaf = abs(now_s - self._heard_s) > self.lease_ttl_s / 2
        self._heard_s = now_s
        for name, replica in list(self.replicas.items()):
            if replica.alive and was_deaf:
                replica.seen_s = now_s
            silent_s = now_s - replica.seen_s
            if replica.alive and silent_s >= self.lease_ttl_s:
                self._end_epoch(name, replica, now_s, spends_idle=self.offline_leases)
            elif not replica.alive and silent_s >= DEAD_KEPT_S:
                self._remove(name, replica)

    def forget(self, name: str, now_s: float) -> None:
        """Of a replica whose process has ended."""
        replica = self.replicas.get(name)
        if replica is None:
            return
        was_offline = now_s - replica.seen_s > OFFLINE_AFTER_S
        if replica.alive:
            for key, account in replica.keys.items():
                for request_id, tokens in account.followed.items():
                    self._lost[key, request_id] = name, tokens
            _keep_last(self._lost, MOST_LOST_STREAMS)
        self._end_epoch(name, replica, now_s, spends_idle=self.offline_leases and was_offline)

    def idle(self, key: str) -> Amounts:
        """What all replicas hold and no request has reserved."""
        total = NOTHING
        for name in self._holders.get(key, ()):
            total += self.replicas[name].keys[key].idle.at_least(NOTHING)
        return total

    def leased_concurrent(self, key: str) -> int:
        """What the living replicas hold, in use or not."""
        return sum(
            account.idle.concurrent + account.reserved.concurrent
            for name in self._holders.get(key, ())
            if self.replicas[name].alive
            for account in (self.replicas[name].keys[key],)
        )

    # A report.

    def _replica(self, report: ReplicaReport, now_s: float) -> ReplicaAccount:
        replica = self.replicas.get(report.replica)
        if replica is not None:
            return replica
        # Its first epoch, or after the loss of a database one in which no old lease is valid.
        replica = ReplicaAccount(epoch=report.epoch + 1, seen_s=now_s)
        self.replicas[report.replica] = replica
        return replica

    def _book(
        self, report: ReplicaReport, name: str, key_report: KeyReport, now_s: float
    ) -> tuple[Refusal | None, bool]:
        """(1) book what has ended, (2) grant asks, (3) grant what the replica would like."""
        account = self._account(report.replica, name, key_report)
        quota = self._quota(name, now_s)
        if quota is None:
            # A key without limits, or one that is not known any more.
            booked = book(account, key_report, report.day, utc_day(now_s))
            if name not in self.limits:
                return (Refusal("revoked", 0, None) if key_report.asks else None), False
            return self._grant_unlimited(account, key_report), False
        # (1)
        booked = book(account, key_report, report.day, quota.day)
        quota = quota.drawn(booked.overdrawn).used_unleased(booked.unleased)
        quota = quota.put_back(booked.back, day_tokens=booked.day_tokens)
        quota = quota.at(now_s, self.idle(name))
        if name not in self.limits:
            self._set_quota(name, quota)
            return (Refusal("revoked", 0, None) if key_report.asks else None), False
        # (2)
        leased = self.leased_concurrent(name)
        refusal, recalls, pool = None, False, account.idle
        for need in key_report.asks:
            missing = (limited(need, quota.limits) - pool).at_least(NOTHING)
            if quota.rest(leased).covers(missing):
                quota = quota.drawn(missing)
                account.granted += missing
                leased += missing.concurrent
                pool = pool + missing - need
                continue
            recallable = (self.idle(name) - account.idle).at_least(NOTHING)
            if (quota.rest(leased) + recallable).covers(missing):
                recalls = True
                self._short_until_s[name] = now_s + SHORT_S
            refusal = refusal or quota.refusal(need, missing, leased, now_s)
        # (3)
        if refusal is None and not self._is_short(name, quota, leased, now_s):
            alive = sum(replica.alive for replica in self.replicas.values())
            extra = quota.idle_lease(key_report.wanted, key_report.request, leased, alive)
            quota = quota.drawn(extra)
            account.granted += extra
        account.refresh()
        self._set_quota(name, quota)
        return refusal, recalls

    def _grant_unlimited(self, account: KeyAccount, key_report: KeyReport) -> None:
        for need in key_report.asks:
            account.granted += need
        account.refresh()

    def _account(self, replica_name: str, key: str, report: KeyReport) -> KeyAccount:
        self.changes.accounts.add((replica_name, key))
        accounts = self.replicas[replica_name].keys
        if key not in accounts:
            # What ended under a database that was lost is not drawn again; what runs is.
            accounts[key] = KeyAccount(
                granted=report.accounted - report.reserved,
                settled=report.settled,
                refunded=report.refunded,
                returned=report.returned,
                unleased=report.unleased,
            )
            self._holders.setdefault(key, set()).add(replica_name)
        return accounts[key]

    def _quota(self, name: str, now_s: float) -> Quota | None:
        quota = self.quotas.get(name)
        return quota and quota.at(now_s, self.idle(name))

    def _set_quota(self, name: str, quota: Quota) -> None:
        self.quotas[name] = quota
        self.changes.quotas.add(name)

    def _is_short(self, name: str, quota: Quota, leased: int, now_s: float) -> bool:
        return now_s < self._short_until_s.get(name, 0.0) or quota.scarce(leased)

    def _recalled(
        self, replica: ReplicaAccount, reported: Iterable[str], now_s: float
    ) -> frozenset[str]:
        held = {name for name, account in replica.keys.items() if account.idle != NOTHING}
        return frozenset(
            name
            for name in held.union(reported)
            if name not in self.limits
            or (
                name in self.quotas
                and self._is_short(name, self.quotas[name], self.leased_concurrent(name), now_s)
            )
        )

    def _balances(self, names: Iterable[str], now_s: float) -> Iterable[tuple[str, KeyBalance]]:
        for name in names:
            if name in self.quotas:
                yield name, self.quotas[name].balance(self.idle(name), now_s)

    def _count(self, report: ReplicaReport, replica: ReplicaAccount) -> None:
        for labels, usage in report.usage.items():
            added = usage.since(replica.usage.get(labels, Usage()))
            replica.usage[labels] = usage
            self.changes.replica_usage.add((report.replica, labels))
            self.changes.usage[labels] = self.changes.usage.get(labels, Usage()) + added

    # A death.

    def _end_epoch(
        self, name: str, replica: ReplicaAccount, now_s: float, *, spends_idle: bool
    ) -> None:
        """Reserved and prepaid is spent, idle comes back. Of a replica that is dead already there
        is nothing to do. One that lives after all and reports what it has spent of the prepaid part
        pays for it twice: so much was given up here."""
        if not replica.alive:
            return
        for key, account in replica.keys.items():
            idle, spent = account.idle, account.spent_at_death
            quota = self._quota(key, now_s)
            account.granted -= idle
            account.prepaid = NOTHING
            account.refresh()
            self.changes.accounts.add((name, key))
            if quota is not None and not spends_idle:
                back = idle - spent
                quota = quota.put_back(back, day_tokens=back.tokens)
                self._set_quota(key, quota.at(now_s, self.idle(key)))
        replica.alive = False
        replica.epoch += 1
        self.changes.replicas.add(name)

    def _covers(self, claimant: str, claim: Claim) -> bool:
        """Whether what the stream may use is spent for good, at a replica that has died with it.
        Should that one be alive after all, as much is drawn again before it settles the stream."""
        if (claimant, claim) in self._covered:
            return True
        name, tokens = self._lost.get((claim.key, claim.request_id), ("", 0))
        replica = self.replicas.get(name)
        if replica is None or replica.alive or tokens < claim.tokens:
            return False
        del self._lost[claim.key, claim.request_id]
        account = replica.keys[claim.key]
        account.granted -= Amounts(tokens=tokens)
        account.refresh()
        self.changes.accounts.add((name, claim.key))
        self.changes.replicas.add(name)
        self._covered[claimant, claim] = None
        _keep_last(self._covered, MOST_LOST_STREAMS)
        return True

    def _remove(self, name: str, replica: ReplicaAccount) -> None:
        for key in replica.keys:
            self._holders[key].discard(name)
        del self.replicas[name]
        self.changes.replicas.discard(name)
        self.changes.removed.add(name)


def _keep_last(of: dict[Any, Any], most: int) -> None:
    """Forget those that were added first."""
    while len(of) > most:
        del of[next(iter(of))]
