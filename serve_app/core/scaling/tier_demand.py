"""A tier's demand and its replicas' speed, pooled from what each of them reports.

Demand belongs to the tier: arrivals add up, and lengths are those of all its requests. What one
replica has learnt is bounded by what the others have, so that a single report, however wrong, moves
the sums by little more than that replica's own part of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from serve_app.core.scaling.slo_capacity import Capacity, RequestShape, Slo, replica_capacity
from serve_app.core.scaling.step_time import StepModel, StepSpeed

# A figure beyond so many times the others' median counts as that.
MOST_OF_MEDIAN = 2.0
# Fewer reports have no majority to go by.
FEWEST_FOR_MEDIAN = 3
# From so many ended requests on a replica's lengths count nearly in full.
HALF_KNOWN_ANSWERS = 32.0


@dataclass(frozen=True, slots=True)
class ReplicaLoad:
    """What one replica reports of its tier's own requests.

    `running` sequences hold slots, `queue_depth` requests wait: `queued_requests` is that in
    typical ones. `slow_` and `quick_` are means of arrivals a second that begin at zero when the
    replica does, `observed_s` ago (`core/scaling/workload.py`). Lengths are means of the
    `answers_seen` requests that ended last. The step time is derived from the hardware; the factors
    are measured against it. Serve stops replicas on a `fallback` GPU, one that the tier did not
    want first, before the others.
    """

    running: float
    queue_depth: float
    queued_requests: float
    slots: float
    slow_rps: float
    quick_rps: float
    slow_prompt_tokens_per_s: float
    quick_prompt_tokens_per_s: float
    observed_s: float
    prompt_tokens: float
    new_tokens: float
    variation: float
    answers_seen: float
    base_ms: float
    per_sequence_ms: float
    per_prompt_token_ms: float
    decode_factor: float = 1.0
    prefill_factor: float = 1.0
    age_s: float = 0.0
    fallback: bool = False

    @property
    def derived(self) -> StepModel:
        return StepModel(self.base_ms, self.per_sequence_ms, self.per_prompt_token_ms)


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Of the whole tier, a second: requests, and the mean length of their prompts."""

    requests_per_s: float
    prompt_tokens: float

    @classmethod
    def of(cls, requests_per_s: float, tokens_per_s: float, expected_tokens: float) -> "Arrivals":
        known = requests_per_s > 0 and tokens_per_s > 0
        return cls(requests_per_s, tokens_per_s / requests_per_s if known else expected_tokens)


@dataclass(frozen=True, slots=True)
class Replica:
    """How fast a replica is, and how many sequences it runs at once."""

    model: StepModel
    slots: float
    fallback: bool

    def capacity(self, shape: RequestShape, slo: Slo) -> Capacity:
        return replica_capacity(self.model, slots=self.slots, shape=shape, slo=slo)

    @property
    def rank(self) -> tuple[bool, float]:
        """Where Serve's choice is not known, those that stay are taken as the slow ones."""
        return self.fallback, -self.model.token_s(max(1, round(self.slots)))


@dataclass(frozen=True, slots=True)
class TierDemand:
    """`replicas` are in the order in which they stay: what Serve stops first is last. `waiting` is
    in typical requests. `observed_s`: how long the oldest replica has counted arrivals."""

    slow: Arrivals
    quick: Arrivals
    shape: RequestShape
    replicas: tuple[Replica, ...]
    running: float
    queue_depth: float
    waiting: float
    observed_s: float

    @property
    def slots(self) -> float:
        return sum(replica.slots for replica in self.replicas)

    def capacities(self, prompt_tokens: float, slo: Slo) -> tuple[Capacity, ...]:
        """Of each replica, for prompts of this length."""
        shape = replace(self.shape, prompt_tokens=prompt_tokens)
        return tuple(replica.capacity(shape, slo) for replica in self.replicas)


def pooled(reports: Sequence[ReplicaLoad], *, slo: Slo, drain_within_s: float) -> TierDemand:
    """The tier's demand from fresh reports, one or more. What waits counts as arrivals that are
    `drain_within_s` apart, where it is compared with what a replica can do."""
    knowledge = [r.answers_seen / (r.answers_seen + HALF_KNOWN_ANSWERS) + 1e-3 for r in reports]
    shape = RequestShape(
        prompt_tokens=_mean([r.prompt_tokens for r in reports], knowledge),
        new_tokens=_mean([r.new_tokens for r in reports], knowledge),
        variation=_mean([r.variation for r in reports], knowledge),
    )
    replicas = _replicas(reports)
    # A report of what the replica itself can do is believed without the others.
    own_rps = [replica.capacity(shape, slo).sustained_rps for replica in replicas]
    own_tokens = [rps * shape.prompt_tokens for rps in own_rps]
    waiting = [r.queued_requests for r in reports]
    slow_rps = sum(_bounded([r.slow_rps for r in reports], own_rps))
    quick_rps = sum(_bounded([r.quick_rps for r in reports], own_rps))
    # A replica that joins takes most of what arrives until it is as full as the others. What it
    # counts beyond the bound says that the slow mean is still there, and no more.
    quick_rps = max(quick_rps, min(slow_rps, sum(r.quick_rps for r in reports)))
    return TierDemand(
        slow=Arrivals.of(
            slow_rps,
            sum(_bounded([r.slow_prompt_tokens_per_s for r in reports], own_tokens)),
            shape.prompt_tokens,
        ),
        quick=Arrivals.of(
            quick_rps,
            sum(_bounded([r.quick_prompt_tokens_per_s for r in reports], own_tokens)),
            shape.prompt_tokens,
        ),
        shape=shape,
        replicas=tuple(sorted(replicas, key=lambda replica: replica.rank)),
        running=sum(min(r.running, r.slots) for r in reports),
        queue_depth=sum(r.queue_depth for r in reports),
        waiting=sum(_bounded(waiting, [rps * drain_within_s for rps in own_rps])),
        observed_s=max(r.observed_s for r in reports),
    )


def _replicas(reports: Sequence[ReplicaLoad]) -> list[Replica]:
    decode = _near_median([r.decode_factor for r in reports])
    prefill = _near_median([r.prefill_factor for r in reports])
    slots = _bounded([r.slots for r in reports])
    return [
        Replica(StepSpeed(d, p).applied_to(r.derived), s, r.fallback)
        for r, d, p, s in zip(reports, decode, prefill, slots, strict=True)
    ]


def _mean(values: Sequence[float], weights: Sequence[float]) -> float:
    bounded = _bounded(values, weights=weights)
    return sum(v * w for v, w in zip(bounded, weights, strict=True)) / sum(weights)


def _bounded(
    values: Sequence[float],
    believed: Sequence[float] | None = None,
    *,
    weights: Sequence[float] | None = None,
) -> list[float]:
    """None above what is `believed` in any case or a multiple of the median allows."""
    if len(values) < FEWEST_FOR_MEDIAN:
        return list(values)
    most = MOST_OF_MEDIAN * _median(values, weights or [1.0] * len(values))
    floors = believed or [0.0] * len(values)
    return [min(value, max(most, floor)) for value, floor in zip(values, floors, strict=True)]


def _near_median(values: Sequence[float]) -> list[float]:
    """Nor below what it allows: a replica that is measured as much faster is no less an error."""
    least = _median(values, [1.0] * len(values)) / MOST_OF_MEDIAN
    enough = len(values) >= FEWEST_FOR_MEDIAN
    return [max(value, least) if enough else value for value in _bounded(values)]


def _median(values: Sequence[float], weights: Sequence[float]) -> float:
    """The weighted one: half of the weight lies at or below it."""
    ranked = sorted(zip(values, weights, strict=True))
    half, passed = sum(weights) / 2, 0.0
    for value, weight in ranked:
        passed += weight
        if passed >= half:
            return value
    return ranked[-1][0]
