"""A replica's leases: requests reserve from them and settle, and reports keep the ledger informed.

Nothing here waits or reads a clock. What was reserved and not used goes back to the ledger and not
into the lease, since the key's bucket has been refilled meanwhile; concurrency, which does not
refill, stays. A request that the lease does not cover asks, and is answered by the report that
follows. Of a key that was used lately, about a second's demand is kept leased, and of that a few
requests are prepaid: they begin without the ledger, which counts so much as spent should this
replica die.
"""

import math
from collections import deque
from dataclasses import replace

from serve_app.core.access.access_key import AccessKey, KeySnapshot
from serve_app.core.access.key_lease import MOST_UNANSWERED, Ask, KeyLease, Reservation
from serve_app.core.access.lease import (
    NOTHING,
    Amounts,
    Claim,
    KeyBalance,
    LedgerAnswer,
    Refusal,
    ReplicaReport,
    Usage,
    UsageLabels,
)
from serve_app.core.access.ledger_state import OFFLINE_KEPT_S
from serve_app.core.access.quota import limited

# Demand is taken over spans of this length.
DEMAND_SPAN_S = 1.0
# Without an answer for so long this replica may have been declared dead: nothing is prepaid.
FRESH_S = 1.5
# Half of the time for which the ledger keeps a silent replica's leases for it.
VALID_S = OFFLINE_KEPT_S / 2
# While the ledger is lost all of a lease is spent without it. Not sooner than so long after the
# last report that said otherwise: a death just after it gives back what lay idle.
OFFLINE_FROM_S = 2.0


class LeaseBook:
    """All keys' leases at one replica. Not for several threads."""

    def __init__(self, replica: str) -> None:
        """`replica` is unique to this process and never used again."""
        self.replica = replica
        self.snapshot = KeySnapshot(revision=0)
        self._keys: dict[str, AccessKey] = {}
        self._leases: dict[str, KeyLease] = {}
        self._usage: dict[UsageLabels, Usage] = {}
        self._usage_changed_at: dict[UsageLabels, int] = {}
        self._sequence = 1  # of the next report
        self._acknowledged = 0
        self._epoch = 0
        self._day = ""
        self._due = False
        self._span_began_s = 0.0
        self._sent_s: dict[int, float] = {}  # of the reports that are not answered yet
        self._fresh_s = -math.inf  # when the last report that was acknowledged was sent
        self._is_offline = False
        self._offline_from_s = math.inf
        self._claims: set[Claim] = set()
        self._covered: set[Claim] = set()
        self._claimed = 0

    # What a request does.

    def reserve(
        self, key: AccessKey, need: Amounts, now_s: float, followed: str = ""
    ) -> Reservation | None:
        """From the lease, at once; None where it does not cover `need`, where others of this key
        wait already, where the ledger was not heard for so long that the lease may be another's,
        or where the key is none any more: then `ask`."""
        if self._revoked(key.name):
            return None
        leased = limited(need, key.limits)
        if leased == NOTHING:
            return Reservation(key.name, NOTHING, self._day, sequence=0)
        lease = self._lease(key.name)
        silent_s = now_s - self._fresh_s
        if any(ask.pending for ask in lease.asks) or not lease.idle.covers(leased):
            return None
        if silent_s > VALID_S:
            return None
        self._demanded(lease, leased)
        is_prepaid = silent_s <= FRESH_S and lease.prepays(leased, self._acknowledged)
        if is_prepaid:
            lease.spend_prepaid(leased)
        return self._reserved(key.name, lease, leased, followed, is_prepaid=is_prepaid)

    def ask(self, key: AccessKey, need: Amounts, followed: str = "") -> Ask:
        """For what the lease does not cover; it goes with the next report."""
        lease = self._lease(key.name)
        ask = Ask(key.name, need, limited(need, key.limits), followed)
        self._demanded(lease, ask.need)
        lease.asks.append(ask)
        self._changed(lease)
        self._due = True
        return ask

    def give_up(self, ask: Ask) -> Refusal:
        """Of a request that waits no longer; what it was granted goes back."""
        if ask.reservation is not None:
            self.settle(ask.reservation, NOTHING)
        lease = self._lease(ask.key)
        if ask in lease.asks:
            lease.asks.remove(ask)
            self._changed(lease)
        if ask.refusal is None:
            ask.refusal = lease.refusal or Refusal("ledger", 0, 1.0)
        return ask.refusal

    def settle(self, reservation: Reservation, used: Amounts) -> None:
        """Of a request that has ended; `used` is what it has used up. Once: later calls do
        nothing."""
        if reservation.settled:
            return
        reservation.settled = True
        if reservation.leased == NOTHING:
            return
        lease = self._lease(reservation.key)
        lease.running.discard(reservation)
        self._end(lease, reservation, used)
        # Where the next request has to ask, here or elsewhere, what comes back is needed at once.
        is_short = lease.recalled or not lease.idle.covers(reservation.leased)
        self._due = self._due or is_short

    def lower(self, reservation: Reservation, tokens: int) -> None:
        """Of a request that is known to need no more than so many `tokens`; the rest goes back."""
        back = (
            NOTHING if reservation.settled else Amounts(tokens=reservation.leased.tokens - tokens)
        )
        if back.tokens <= 0:
            return
        lease = self._lease(reservation.key)
        reservation.leased -= back
        lease.reserved -= back
        lease.refunded += back
        lease.drawn_since -= back
        if reservation.day == self._day:
            lease.day_refunded_tokens += back.tokens
        self._changed(lease)
        self._due = self._due or lease.recalled

    def claim(self, key_name: str, request_id: str, tokens: int) -> Claim:
        """Of a stream that goes on here after another replica was lost: has that one died with its
        reservation?"""
        self._claimed += 1
        claim = Claim(key_name, request_id, tokens, self._claimed)
        self._claims.add(claim)
        self._due = True
        return claim

    def is_covered(self, claim: Claim) -> bool:
        """Whether all that the stream may use is known to be spent for good."""
        return claim in self._covered

    def drop_claim(self, claim: Claim) -> None:
        """It has ended here."""
        self._claims.discard(claim)
        self._covered.discard(claim)

    def use_unleased(self, key: AccessKey, used: Amounts) -> None:
        """A request was served without a reservation, while the ledger was lost."""
        amounts = limited(replace(used, concurrent=0), key.limits)
        if amounts != NOTHING:
            lease = self._lease(key.name)
            lease.unleased += amounts
            self._changed(lease)

    def go_offline(self) -> None:
        """The ledger is lost: until it answers, all of a lease may be spent without it."""
        if self._is_offline:
            return
        self._is_offline = True
        for lease in self._leases.values():
            self._changed(lease)

    def offline_in_s(self, now_s: float) -> float:
        """How long until a reservation need not be acknowledged any more, once offline."""
        return max(0.0, self._offline_from_s - now_s)

    def acknowledged(self, reservation: Reservation) -> bool:
        """Whether the ledger counts it as spent, whatever happens to this replica."""
        return not reservation.void and reservation.sequence <= self._acknowledged

    def count(self, labels: UsageLabels, usage: Usage) -> None:
        """Add to what this replica has served."""
        self._usage[labels] = self._usage.get(labels, Usage()) + usage
        self._usage_changed_at[labels] = self._sequence

    def balance(self, key_name: str, now_s: float) -> KeyBalance:
        """What is left of the key over all replicas, as far as is known here."""
        lease, key = self._leases.get(key_name), self._keys.get(key_name)
        if key is None:
            return KeyBalance()
        limits = key.limits
        if lease is None or lease.balance is None:
            tokens = (limits.tokens_per_minute, limits.tokens_per_day)
            known = [limit for limit in tokens if limit is not None]
            return KeyBalance(limits.requests_per_minute, min(known, default=None))
        last, drawn = lease.balance, lease.drawn_since
        elapsed_s = max(0.0, now_s - lease.balance_at_s)
        requests = _later(last.remaining_requests, last.reset_requests_s, drawn.requests, elapsed_s)
        tokens = _later(last.remaining_tokens, last.reset_tokens_s, drawn.tokens, elapsed_s)
        return KeyBalance(requests[0], tokens[0], requests[1], tokens[1])

    # What the connection to the ledger does.

    @property
    def report_due(self) -> bool:
        """Whether something should be reported at once: a reservation, an ask, a recalled lease."""
        return self._due

    def report(self, now_s: float) -> ReplicaReport:
        """The next report: all that the ledger is not known to have. A lost one needs nothing."""
        self._due = False
        if now_s - self._span_began_s >= DEMAND_SPAN_S:
            self._span_began_s = now_s
            for lease in self._leases.values():
                lease.roll_demand(now_s)
        for lease in self._leases.values():
            self._return_idle(lease)
        sequence, self._sequence = self._sequence, self._sequence + 1
        self._sent_s[sequence] = now_s
        if len(self._sent_s) > MOST_UNANSWERED:
            del self._sent_s[min(self._sent_s)]
        if not self._is_offline:
            self._offline_from_s = now_s + OFFLINE_FROM_S
        keys = {
            name: lease.report(sequence, is_offline=self._is_offline)
            for name, lease in self._leases.items()
            if lease.changed_at > self._acknowledged or lease.asks
        }
        usage = {
            labels: usage
            for labels, usage in self._usage.items()
            if self._usage_changed_at[labels] > self._acknowledged
        }
        return ReplicaReport(
            self.replica,
            sequence,
            epoch=self._epoch,
            day=self._day,
            keys=keys,
            usage=usage,
            known_revision=self.snapshot.revision,
            claims=frozenset(self._claims - self._covered),
        )

    def apply(self, answer: LedgerAnswer, now_s: float) -> None:
        """What the ledger answers, in any order and any number of times."""
        self._covered |= answer.covered & self._claims
        if answer.epoch < self._epoch:
            return
        is_void = answer.epoch > self._epoch
        if is_void:
            self._void(answer.epoch)
        if answer.keys is not None and answer.keys.revision > self.snapshot.revision:
            self.set_keys(answer.keys)
        if answer.day > self._day:
            self._day = answer.day
            for lease in self._leases.values():
                lease.day_refunded_tokens = 0
        for name, granted in answer.granted.items():
            lease = self._lease(name)
            lease.granted = lease.granted.at_least(granted)
        # The ledger has read nothing of a report from an earlier epoch.
        if is_void or answer.sequence <= self._acknowledged:
            return
        self._acknowledged = answer.sequence
        self._fresh_s = self._sent_s.get(answer.sequence, self._fresh_s)
        self._sent_s = {at: sent for at, sent in self._sent_s.items() if at > answer.sequence}
        self._back_online()
        for name, lease in self._leases.items():
            lease.forget_prepaid(answer.sequence)
            lease.recalled = name in answer.recalled
            self._due = self._due or (lease.recalled and lease.idle.at_least(NOTHING) != NOTHING)
            if name in answer.balances:
                lease.balance, lease.balance_at_s = answer.balances[name], now_s
                lease.drawn_since = NOTHING
            if lease.asks:
                self._resolve(name, lease, answer)

    def set_keys(self, snapshot: KeySnapshot) -> None:
        """Other keys or limits; idle leases of keys that are gone go back. What waits needs what
        has a limit now."""
        self.snapshot = snapshot
        self._keys = {record.key.name: record.key for record in snapshot.records}
        for name, lease in self._leases.items():
            if name not in self._keys:
                lease.demand = lease.demand_before = lease.last_need = NOTHING
                lease.largest = lease.largest_before = NOTHING
                continue
            for ask in lease.asks:
                ask.need = limited(ask.whole_need, self._keys[name].limits)

    # How.

    def _lease(self, name: str) -> KeyLease:
        lease = self._leases.get(name)
        if lease is None:
            lease = self._leases[name] = KeyLease()
        return lease

    def _revoked(self, name: str) -> bool:
        return self.snapshot.revision > 0 and name not in self._keys

    def _changed(self, lease: KeyLease) -> None:
        lease.changed_at = self._sequence

    def _demanded(self, lease: KeyLease, leased: Amounts) -> None:
        # Of what comes back the most at a time counts, and not the sum.
        waiting = len(lease.asks) * leased.concurrent
        at_once = lease.reserved.concurrent + waiting + leased.concurrent
        lease.demand = replace(
            lease.demand + leased, concurrent=max(lease.demand.concurrent, at_once)
        )
        lease.last_need = leased
        lease.largest = lease.largest.at_least(leased)

    def _back_online(self) -> None:
        if self._is_offline:
            self._is_offline = False
            for lease in self._leases.values():
                self._changed(lease)

    def _reserved(
        self,
        name: str,
        lease: KeyLease,
        leased: Amounts,
        followed: str,
        *,
        is_prepaid: bool = False,
    ) -> Reservation:
        sequence = 0 if is_prepaid else self._sequence
        reservation = Reservation(name, leased, self._day, sequence, followed=followed)
        lease.running.add(reservation)
        lease.reserved += leased
        lease.drawn_since += leased
        self._changed(lease)
        self._due = self._due or not is_prepaid or lease.low
        return reservation

    def _end(self, lease: KeyLease, reservation: Reservation, used: Amounts) -> None:
        leased = reservation.leased
        # More than was reserved is booked too: the ledger draws it, as a debt if it must.
        spent = replace(used.at_least(NOTHING), concurrent=0)
        if not leased.requests:
            spent = replace(spent, requests=0)
        if not leased.tokens:
            spent = replace(spent, tokens=0)
        unused = replace(leased, concurrent=0) - spent
        back = unused.at_least(NOTHING)
        lease.reserved -= leased
        lease.settled += spent
        lease.refunded += back
        lease.drawn_since -= back
        if reservation.day == self._day:
            lease.day_refunded_tokens += back.tokens
        self._changed(lease)

    def _return_idle(self, lease: KeyLease) -> None:
        """What is recalled, or more than twice what is used now. Asks keep nothing either: they
        are granted from all that is there, and two replicas that each held a part would wait for
        one another."""
        excess = (lease.idle - lease.target - lease.target).at_least(NOTHING)
        if excess != NOTHING:
            lease.returned += excess
            self._changed(lease)

    def _resolve(self, name: str, lease: KeyLease, answer: LedgerAnswer) -> None:
        """Asks of the answered report, the first one first."""
        lease.refusal = answer.refusals.get(name)
        waiting: deque[Ask] = deque()
        for ask in lease.asks:
            asked = ask.sequence is not None and ask.sequence <= answer.sequence
            if lease.idle.covers(ask.need) and not self._revoked(name):
                ask.reservation = self._reserved(name, lease, ask.need, ask.followed)
            elif asked and name in answer.refusals and name not in answer.recalling:
                ask.refusal = answer.refusals[name]
            else:
                waiting.append(ask)
        lease.asks = waiting
        self._due = self._due or any(ask.sequence is None for ask in waiting)

    def _void(self, epoch: int) -> None:
        """The ledger took this replica for dead: what it does not know of is not valid, and what
        lay idle belongs to others. Its next answers say what is granted now."""
        acknowledged, self._epoch = self._acknowledged, epoch
        for lease in self._leases.values():
            for reservation in list(lease.running):
                if reservation.sequence > acknowledged:
                    reservation.void = reservation.settled = True
                    lease.running.discard(reservation)
                    self._end(lease, reservation, NOTHING)
            lease.granted = NOTHING
            lease.prepaid = []
            self._changed(lease)
        self._usage_changed_at = dict.fromkeys(self._usage, self._sequence)
        self._due = True


def _later(
    remaining: int | None, reset_s: float, drawn: int, elapsed_s: float
) -> tuple[int | None, float]:
    """What was left and when it is whole again, after `drawn` more. What the bucket has gained
    meanwhile, at most a report's span, is left out."""
    if remaining is None:
        return None, 0.0
    return max(0, remaining - max(0, drawn)), max(0.0, reset_s - elapsed_s)
