"""One key's lease at a replica: what of it is reserved, spent, given back, prepaid, asked for.

Of what lies idle a few requests are prepaid. The ledger counts so much as spent should the replica
die; what every state in which the ledger can be counts so needs no acknowledgement.
"""

from collections import deque
from dataclasses import dataclass, field

from serve_app.core.access.lease import NOTHING, Amounts, KeyBalance, KeyReport, Refusal
from serve_app.core.access.quota import UNLIMITED

# A key that had no request for this long keeps no lease.
KEPT_S = 600.0
# So many of the largest requests of late are prepaid: a few that come between two reports.
PREPAID_REQUESTS = 4
_ALL = Amounts(UNLIMITED, UNLIMITED, UNLIMITED)
# More reports than one are under way only while the ledger is lost.
MOST_UNANSWERED = 8


@dataclass(eq=False, slots=True)
class Reservation:
    """Of one request: `leased` is what of its need has a limit; `sequence` is of the report that
    holds it, 0 where it was prepaid. `void`: the ledger had declared this replica dead before it
    knew of the reservation; the request must not be answered. `followed`: the id of a stream that
    may go on elsewhere, or nothing."""

    key: str
    leased: Amounts
    day: str
    sequence: int
    void: bool = False
    settled: bool = False
    followed: str = ""


@dataclass(eq=False, slots=True)
class Ask:
    """A request that waits for a lease, until it has a reservation or a refusal."""

    key: str
    whole_need: Amounts
    need: Amounts  # what of it has a limit
    followed: str = ""
    sequence: int | None = None
    reservation: Reservation | None = None
    refusal: Refusal | None = None

    @property
    def pending(self) -> bool:
        return self.reservation is None and self.refusal is None


@dataclass(slots=True)
class _Prepaid:
    """What may still be spent of what the report `sequence` has called prepaid."""

    sequence: int
    left: Amounts


@dataclass(slots=True)
class KeyLease:
    """What this replica has of one key. `granted` is the ledger's word. `prepaid`: of the last
    report that was acknowledged and of those under way, any of which the ledger may have read."""

    granted: Amounts = NOTHING
    settled: Amounts = NOTHING
    refunded: Amounts = NOTHING
    returned: Amounts = NOTHING
    reserved: Amounts = NOTHING
    unleased: Amounts = NOTHING
    prepaid: list[_Prepaid] = field(default_factory=list[_Prepaid])
    day_refunded_tokens: int = 0
    running: set[Reservation] = field(default_factory=set[Reservation])
    asks: deque[Ask] = field(default_factory=deque[Ask])
    changed_at: int = 0
    recalled: bool = False
    refusal: Refusal | None = None
    balance: KeyBalance | None = None
    balance_at_s: float = 0.0
    drawn_since: Amounts = NOTHING
    demand: Amounts = NOTHING
    demand_before: Amounts = NOTHING
    last_need: Amounts = NOTHING
    largest: Amounts = NOTHING
    largest_before: Amounts = NOTHING
    used_at_s: float = 0.0

    @property
    def accounted(self) -> Amounts:
        return self.settled + self.refunded + self.returned + self.reserved

    @property
    def idle(self) -> Amounts:
        """May be negative after a later epoch, until the ledger has booked what it did not know."""
        return self.granted - self.accounted

    @property
    def target(self) -> Amounts:
        """What should lie idle: a second's demand, or one request of a key in use."""
        if self.recalled:
            return NOTHING
        return self.demand.at_least(self.demand_before).at_least(self.last_need)

    @property
    def request(self) -> Amounts:
        """The largest of late."""
        return self.largest.at_least(self.largest_before).at_least(self.last_need)

    @property
    def to_prepay(self) -> Amounts:
        """Nothing while others wait: what is granted to an ask that is given up comes back."""
        is_short = self.recalled or self.asks
        return NOTHING if is_short else self.request.times(PREPAID_REQUESTS)

    def prepays(self, need: Amounts, acknowledged: int) -> bool:
        """Whether every state in which the ledger can be counts `need` as spent, should this
        replica die."""
        known = any(report.sequence <= acknowledged for report in self.prepaid)
        return known and all(report.left.covers(need) for report in self.prepaid)

    def spend_prepaid(self, need: Amounts) -> None:
        for report in self.prepaid:
            report.left -= need

    @property
    def low(self) -> bool:
        """Whether half of what should lie idle, or of what should be prepaid, is gone."""
        if self.recalled:
            return True
        idle = self.idle
        return not (idle + idle).covers(self.target) or any(
            not (report.left + report.left).covers(self.to_prepay) for report in self.prepaid
        )

    def roll_demand(self, now_s: float) -> None:
        """A span of demand has ended."""
        if self.demand != NOTHING:
            self.used_at_s = now_s
        elif now_s - self.used_at_s > KEPT_S:
            self.last_need = NOTHING
        self.demand_before, self.demand = self.demand, NOTHING
        self.largest_before, self.largest = self.largest, NOTHING

    def forget_prepaid(self, acknowledged: int) -> None:
        """What was said before the last report that the ledger is known to have read."""
        known = [report.sequence for report in self.prepaid if report.sequence <= acknowledged]
        if known:
            self.prepaid = [report for report in self.prepaid if report.sequence >= max(known)]

    def report(self, sequence: int, *, is_offline: bool) -> KeyReport:
        for ask in self.asks:
            ask.sequence = ask.sequence or sequence
        prepaid = _ALL if is_offline else self.to_prepay
        if len(self.prepaid) > MOST_UNANSWERED:
            # One for both: as little as either, and as late.
            earlier = self.prepaid.pop()
            self.prepaid[-1] = _Prepaid(
                earlier.sequence, self.prepaid[-1].left.at_most(earlier.left)
            )
        self.prepaid.append(_Prepaid(sequence, prepaid))
        return KeyReport(
            settled=self.settled,
            refunded=self.refunded,
            returned=self.returned,
            reserved=self.reserved,
            prepaid=prepaid,
            unleased=self.unleased,
            day_refunded_tokens=self.day_refunded_tokens,
            asks=tuple(ask.need for ask in self.asks),
            wanted=(self.target - self.idle).at_least(NOTHING),
            request=NOTHING if self.recalled else self.request,
            followed={each.followed: each.leased.tokens for each in self.running if each.followed},
        )
