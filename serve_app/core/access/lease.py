"""What a replica holds of a key's quota, and what it and the ledger say to each other.

A replica reserves a request's worst case from its own leases, so that no request waits for the
ledger; what the leases do not cover it asks for at once. Reports carry counters since the
replica's start, and answers what was granted since then, never differences: a message that comes
twice or not at all changes nothing, and the next one says all that was missed.

Of what lies idle, a replica may spend its `prepaid` part before the ledger hears of it: should the
replica die, the ledger counts that part as spent. The first byte of an answer waits for the ledger
only where a request needs more.

An epoch is a span in which the ledger believed the replica alive. Where it has declared a replica
dead it has given its idle leases to others; a replica that learns of a later epoch therefore drops
its idle leases, and every reservation of which it does not know that the ledger has it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from serve_app.core.access.access_key import KeySnapshot
from serve_app.core.tiers import Tier


class Claim(NamedTuple):
    """A stream that goes on at a replica after another one was lost, and may take so many tokens
    there. `number` tells it from others of that replica: clients may choose ids twice."""

    key: str
    request_id: str
    tokens: int
    number: int


@dataclass(frozen=True, slots=True)
class Amounts:
    """Of a quota: requests and tokens are used up, concurrency comes back."""

    requests: int = 0
    tokens: int = 0
    concurrent: int = 0

    def __add__(self, other: "Amounts") -> "Amounts":
        return Amounts(
            self.requests + other.requests,
            self.tokens + other.tokens,
            self.concurrent + other.concurrent,
        )

    def __sub__(self, other: "Amounts") -> "Amounts":
        return Amounts(
            self.requests - other.requests,
            self.tokens - other.tokens,
            self.concurrent - other.concurrent,
        )

    def covers(self, need: "Amounts") -> bool:
        """Whether none of `need` is missing; what is not needed may be negative here."""
        return (
            need.requests <= max(0, self.requests)
            and need.tokens <= max(0, self.tokens)
            and need.concurrent <= max(0, self.concurrent)
        )

    def at_least(self, floor: "Amounts") -> "Amounts":
        """The larger of each."""
        return Amounts(
            max(self.requests, floor.requests),
            max(self.tokens, floor.tokens),
            max(self.concurrent, floor.concurrent),
        )

    def at_most(self, ceiling: "Amounts") -> "Amounts":
        """The smaller of each."""
        return Amounts(
            min(self.requests, ceiling.requests),
            min(self.tokens, ceiling.tokens),
            min(self.concurrent, ceiling.concurrent),
        )

    def times(self, count: int) -> "Amounts":
        """So many requests of this size."""
        return Amounts(self.requests * count, self.tokens * count, self.concurrent * count)


NOTHING = Amounts()


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one key, tier, model and UTC day (`2026-11-29`). `gpu_s` are seconds of a whole GPU."""

    requests: int = 0
    refused: int = 0
    prompt_tokens: int = 0
    reasoning_tokens: int = 0
    answer_tokens: int = 0
    gpu_s: float = 0.0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.requests + other.requests,
            self.refused + other.refused,
            self.prompt_tokens + other.prompt_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            self.answer_tokens + other.answer_tokens,
            self.gpu_s + other.gpu_s,
        )

    def since(self, earlier: "Usage") -> "Usage":
        """What was added after `earlier`; never negative."""
        return Usage(
            max(0, self.requests - earlier.requests),
            max(0, self.refused - earlier.refused),
            max(0, self.prompt_tokens - earlier.prompt_tokens),
            max(0, self.reasoning_tokens - earlier.reasoning_tokens),
            max(0, self.answer_tokens - earlier.answer_tokens),
            max(0.0, self.gpu_s - earlier.gpu_s),
        )


@dataclass(frozen=True, slots=True)
class UsageLabels:
    key: str
    tier: Tier
    model: str
    day: str


@dataclass(frozen=True, slots=True)
class KeyReport:
    """One key's leases at a replica. Since its start: what of them is used up for good (`settled`,
    with `concurrent` 0), what was reserved and not used (`refunded`, likewise), and what was given
    back without having been reserved (`returned`). Now: what running requests have `reserved`.

    `day_refunded_tokens` are those of `refunded` that were reserved on the report's day. `unleased`
    was served since the start without a lease, while the ledger was lost: it is drawn all the same.
    `asks` are requests that wait for what their need says, the first one first; `wanted` is what
    the replica would like to have idle beyond them, and `request` the largest request of late.
    `prepaid`: of what lies idle, now or once it is granted, so much may be spent before the next
    report. `followed`: of `reserved`, the tokens of each stream that may go on elsewhere, by the id
    of its request."""

    settled: Amounts = NOTHING
    refunded: Amounts = NOTHING
    returned: Amounts = NOTHING
    reserved: Amounts = NOTHING
    prepaid: Amounts = NOTHING
    unleased: Amounts = NOTHING
    day_refunded_tokens: int = 0
    asks: tuple[Amounts, ...] = ()
    wanted: Amounts = NOTHING
    request: Amounts = NOTHING
    followed: Mapping[str, int] = field(default_factory=dict[str, int])

    @property
    def accounted(self) -> Amounts:
        """All that was ever granted, less what is idle."""
        return self.settled + self.refunded + self.returned + self.reserved


@dataclass(frozen=True, slots=True)
class ReplicaReport:
    """`replica` is unique to one process; `sequence` rises with each report. `epoch` and `day` are
    those of the ledger's last answer; before it 0 and "", and nothing of the report is read. A key
    that is not in `keys` has not changed since a report that was acknowledged. `claims`:
    are they paid for?"""

    replica: str
    sequence: int
    epoch: int = 0
    day: str = ""
    keys: Mapping[str, KeyReport] = field(default_factory=dict[str, KeyReport])
    usage: Mapping[UsageLabels, Usage] = field(default_factory=dict[UsageLabels, Usage])
    known_revision: int = 0
    claims: frozenset[Claim] = frozenset()


@dataclass(frozen=True, slots=True)
class KeyBalance:
    """Of a key over all replicas, for `x-ratelimit-*`: what is left, and when it is whole again."""

    remaining_requests: int | None = None
    remaining_tokens: int | None = None
    reset_requests_s: float = 0.0
    reset_tokens_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """Which limit a request met (`requests_per_minute`, ...), its value, and when to retry. None:
    never, as for a request that is larger than the limit."""

    limit: str
    allowed: int
    retry_after_s: float | None


@dataclass(frozen=True, slots=True)
class LedgerAnswer:
    """To the report `sequence`. `granted` is what the ledger has granted of each reported key
    since the replica's start, less what an earlier epoch's end has taken away. Idle leases of
    `recalled` keys are to be returned with the next report, at once: they are short. `refusals`
    are for the keys of which an ask did not fit; where it is also in `recalling`, it would fit into
    what is recalled, and may be asked again. `keys` is None where nothing has changed since the
    revision that the replica knows. `covered`: of the report's claims, those that were reserved at
    a replica that has died with them, so that all that they may use is spent for good."""

    sequence: int
    epoch: int
    day: str
    granted: Mapping[str, Amounts] = field(default_factory=dict[str, Amounts])
    balances: Mapping[str, KeyBalance] = field(default_factory=dict[str, KeyBalance])
    recalled: frozenset[str] = frozenset()
    recalling: frozenset[str] = frozenset()
    refusals: Mapping[str, Refusal] = field(default_factory=dict[str, Refusal])
    keys: KeySnapshot | None = None
    covered: frozenset[Claim] = frozenset()
