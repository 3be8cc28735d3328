"""What a simulated run has found."""

from collections.abc import Mapping
from dataclasses import dataclass

from loadtest.scenario import Slo
from serve_app.core.tiers import Tier


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Of a time in seconds; all are None where there was none."""

    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    mean: float | None = None


@dataclass(frozen=True, slots=True)
class TierOutcome:
    """What became of a tier's requests. Counts and rates are the fleet's; where a cell was
    simulated they are its own times `SimulationOutcome.weight`.

    `started_in_time` counts requests whose prefill began within the tier's longest wait. `refused`
    is by the gate's reason: `queue_full`, `wait_too_long`. TTFT, E2E and TPOT are of served
    requests, from the first time that a client asked; TPOT leaves out answers of one token.
    `lent` ran on a replica of the other tier, `relayed` on another one of their own. `good` met
    all of `slo`; refused requests are not good.
    """

    requests: int
    started_in_time: int
    served: int
    refused: Mapping[str, int]
    retried: int
    lent: int
    relayed: int
    preempted: int
    ttft_s: Percentiles
    e2e_s: Percentiles
    tpot_s: Percentiles
    queue_wait_s: Percentiles
    prompt_tokens: int
    output_tokens: int
    slo: Slo
    good: int
    goodput_rps: float

    @property
    def attainment(self) -> float:
        """Share of the requests that began within their tier's longest wait."""
        return self.started_in_time / max(self.requests, 1)

    @property
    def goodput_share(self) -> float:
        return self.good / max(self.requests, 1)

    @property
    def refused_total(self) -> int:
        return sum(self.refused.values())


@dataclass(frozen=True, slots=True)
class Change:
    """A tier's target changed to `replicas`; `reason` is the policy's, empty where it has none."""

    at_s: float
    tier: Tier
    replicas: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Moment:
    """A tier at a moment: its replicas by GPU (those that start or drain have a GPU, too),
    what runs and waits then, and what came and was refused since the moment before."""

    at_s: float
    tier: Tier
    serving: Mapping[str, int]
    held: Mapping[str, int]
    running: int
    queued: int
    arrived: int
    refused: int


@dataclass(frozen=True, slots=True)
class SimulationOutcome:
    """`weight` is how many replicas each simulated one stands for; `simulated_requests` were
    simulated, with `weight` as many counted. `duration_s` is until the last arrival, `ended_s`
    until the last token. `gpu_s` are the seconds that GPUs were allocated to a tier's replicas,
    starts and drains included, until the last arrival; `busy_s` the seconds of full replicas that
    the served requests took. `cost_usd` has the GPUs whose price is known."""

    duration_s: float
    ended_s: float
    tiers: Mapping[Tier, TierOutcome]
    gpu_s: Mapping[str, float]
    busy_s: Mapping[str, float]
    cost_usd: Mapping[str, float]
    changes: tuple[Change, ...]
    timeline: tuple[Moment, ...]
    weight: float
    simulated_requests: int

    @property
    def requests(self) -> int:
        return sum(tier.requests for tier in self.tiers.values())

    @property
    def started_in_time(self) -> int:
        return sum(tier.started_in_time for tier in self.tiers.values())

    @property
    def attainment(self) -> float:
        """Share of the requests that began within their tier's longest wait."""
        return self.started_in_time / max(self.requests, 1)

    @property
    def good(self) -> int:
        """Requests that met all of their tier's SLO."""
        return sum(tier.good for tier in self.tiers.values())

    @property
    def goodput(self) -> float:
        """Share of all arrivals that met their tier's SLO; refused ones did not."""
        return self.good / max(self.requests, 1)

    @property
    def by_tier(self) -> Mapping[Tier, float]:
        """Attainment of each tier."""
        return {tier: outcome.attainment for tier, outcome in self.tiers.items()}

    @property
    def refused(self) -> int:
        return sum(tier.refused_total for tier in self.tiers.values())

    @property
    def lent(self) -> int:
        return sum(tier.lent for tier in self.tiers.values())

    @property
    def gpu_hours(self) -> float:
        return sum(self.gpu_s.values()) / 3600

    @property
    def utilisation(self) -> float:
        """What the GPUs did, as a part of what they could have done full all the time."""
        return sum(self.busy_s.values()) / max(sum(self.gpu_s.values()), 1e-9)

    @property
    def scale_actions(self) -> int:
        return len(self.changes)

    @property
    def total_cost_usd(self) -> float | None:
        """None where a GPU that was used has no known price."""
        used = {gpu_type for gpu_type, seconds in self.gpu_s.items() if seconds}
        return sum(self.cost_usd.values()) if used <= self.cost_usd.keys() else None
