"""What the ledger knows of one replica: its leases of each key, and whether it is alive."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from serve_app.core.access.lease import NOTHING, Amounts, KeyReport, Usage, UsageLabels


@dataclass(slots=True)
class KeyAccount:
    """One key's leases at one replica: `granted` less all that it has accounted for is idle.
    `day` is the one that `day_refunded_tokens` belongs to."""

    granted: Amounts = NOTHING
    settled: Amounts = NOTHING
    refunded: Amounts = NOTHING
    returned: Amounts = NOTHING
    reserved: Amounts = NOTHING
    prepaid: Amounts = NOTHING
    unleased: Amounts = NOTHING
    day: str = ""
    day_refunded_tokens: int = 0
    # As of the last report; in memory only: whoever does not know has no proof.
    followed: Mapping[str, int] = field(init=False, default_factory=dict[str, int])
    idle: Amounts = field(init=False, default=NOTHING)

    def __post_init__(self) -> None:
        self.refresh()

    @property
    def accounted(self) -> Amounts:
        return self.settled + self.refunded + self.returned + self.reserved

    @property
    def spent_at_death(self) -> Amounts:
        """What of the idle lease may have been spent without the ledger's knowledge."""
        return self.idle.at_most(self.prepaid).at_least(NOTHING)

    def refresh(self) -> None:
        """After a change."""
        self.idle = self.granted - self.accounted


@dataclass(frozen=True, slots=True)
class Booked:
    """What a report has changed in a key's quota: `overdrawn` was reserved without a grant that
    the ledger still honours, `unleased` was served while the ledger was lost; `back` comes back,
    `day_tokens` of it to the day."""

    overdrawn: Amounts
    unleased: Amounts
    back: Amounts
    day_tokens: int


@dataclass(slots=True)
class ReplicaAccount:
    """`sequence` is that of the last report that was read."""

    epoch: int
    sequence: int = 0
    seen_s: float = 0.0
    alive: bool = True
    keys: dict[str, KeyAccount] = field(default_factory=dict[str, KeyAccount])
    usage: dict[UsageLabels, Usage] = field(default_factory=dict[UsageLabels, Usage])


def book(account: KeyAccount, report: KeyReport, report_day: str, day: str) -> Booked:
    """Take a report into the account. `day` is the ledger's."""
    settled = report.settled.at_least(account.settled)
    refunded = report.refunded.at_least(account.refunded)
    returned = report.returned.at_least(account.returned)
    refund, handed_back = refunded - account.refunded, returned - account.returned
    account.settled, account.refunded, account.returned = settled, refunded, returned
    account.reserved, account.prepaid = report.reserved, report.prepaid
    account.followed = report.followed
    unleased = (report.unleased - account.unleased).at_least(NOTHING)
    account.unleased += unleased
    overdrawn = (account.accounted - account.granted).at_least(NOTHING)
    account.granted += overdrawn
    account.refresh()
    return Booked(
        overdrawn=overdrawn,
        unleased=unleased,
        back=refund + handed_back,
        day_tokens=handed_back.tokens + _day_refund(account, report, report_day, day),
    )


def _day_refund(account: KeyAccount, report: KeyReport, report_day: str, day: str) -> int:
    """Refunds of this day's reservations; what was reserved on another day stays spent there."""
    if report_day != day:
        return 0
    known = account.day_refunded_tokens if account.day == day else 0
    account.day, account.day_refunded_tokens = day, max(known, report.day_refunded_tokens)
    return account.day_refunded_tokens - known
