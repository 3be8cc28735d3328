"""What a replica holds of a key's quota, and what it reports of it to the ledger.

A replica reserves a request's worst case from its own leases, so that no request waits for the
ledger; what the leases do not cover it asks for at once. Each report carries counters since the
replica's start, never differences: a report that comes twice changes nothing, and after a ledger's
restart the next one says all that it missed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from serve_app.core.tiers import Tier


@dataclass(frozen=True, slots=True)
class Amounts:
    """Of a quota: requests and tokens are used up, concurrency comes back."""

    requests: int = 0
    tokens: int = 0
    concurrent: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one key, tier, model and UTC day (`2026-11-29`). `gpu_s` are seconds of a whole GPU."""

    requests: int = 0
    refused: int = 0
    prompt_tokens: int = 0
    reasoning_tokens: int = 0
    answer_tokens: int = 0
    gpu_s: float = 0.0


@dataclass(frozen=True, slots=True)
class UsageLabels:
    key: str
    tier: Tier
    model: str
    day: str


@dataclass(frozen=True, slots=True)
class KeyReport:
    """Since the replica's start: what was `granted`, what of it is used up for good (`settled`,
    with `concurrent` 0), and what was `returned` unused; now: what running requests have
    `reserved`."""

    granted: Amounts
    settled: Amounts
    returned: Amounts
    reserved: Amounts


@dataclass(frozen=True, slots=True)
class ReplicaReport:
    """`replica` is unique to one process; `sequence` rises with each report."""

    replica: str
    sequence: int
    keys: Mapping[str, KeyReport] = field(default_factory=dict[str, KeyReport])
    usage: Mapping[UsageLabels, Usage] = field(default_factory=dict[UsageLabels, Usage])
    known_revision: int = 0


@dataclass(frozen=True, slots=True)
class KeyBalance:
    """Of a key over all replicas, for `x-ratelimit-*`: what is left, and when it is whole again."""

    remaining_requests: int | None = None
    remaining_tokens: int | None = None
    reset_requests_s: float = 0.0
    reset_tokens_s: float = 0.0


@dataclass(frozen=True, slots=True)
class LedgerAnswer:
    """To a report. `recalled` keys are short elsewhere: idle leases of theirs are to be returned
    with the next report, at once. `keys` is None where nothing has changed since the revision that
    the replica knows."""

    granted: Mapping[str, Amounts] = field(default_factory=dict[str, Amounts])
    balances: Mapping[str, KeyBalance] = field(default_factory=dict[str, KeyBalance])
    recalled: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Refusal:
    """Which limit a request met (`requests_per_minute`, ...), its value, and when to retry. None:
    never, as for a request that is larger than the limit."""

    limit: str
    allowed: int
    retry_after_s: float | None
