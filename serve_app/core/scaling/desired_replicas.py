"""How many replicas a tier needs, from what arrives, runs and waits, and what it has learnt.

The policy aims at the tier's SLO: as few replicas as keep it for the arrivals that are to be
expected when a replica that is ordered now would serve, and none less while load is likely to come
back before giving a GPU back has paid.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from serve_app.core.scaling.scaling_memory import (
    ScalingMemory,
    held_replicas,
    hold_s,
    remember_arrivals,
    remember_need,
    remember_sure,
    remember_target,
)
from serve_app.core.scaling.slo_capacity import RequestShape, Slo
from serve_app.core.scaling.slo_misses import MissSample, fewest_over, is_due, remember_misses
from serve_app.core.scaling.tier_demand import ReplicaLoad, TierDemand, pooled
from serve_app.core.scaling.tier_need import LentLoad, TierNeed, kept_to_lend, together, token_s
from serve_app.core.scaling.workload import QUICK_S, SLOW_S

UNLIKELY_REQUESTS = 0.5
# A mean of few arrivals is mostly chance: so many standard errors of it are no rush.
STANDARD_ERRORS = 2.0
# Before a tier has counted for long, one arrival would look like a flood.
LEAST_SEEN = 0.25


@dataclass(frozen=True, slots=True)
class ScalingSettings:
    """Settings of the policy. `start_s` is how long a new replica takes to serve.

    A backlog that is not cleared by then is to be cleared `drain_within_s` later. A replica counts
    as needed down to `utilisation_down` of the load at which it was ordered. It is kept at least
    `least_hold_s` and at most `most_hold_s` after it was needed last.
    """

    start_s: float
    slo: Slo
    drain_within_s: float = 30.0
    utilisation_down: float = 0.95
    least_hold_s: float = 60.0
    most_hold_s: float = 600.0
    stale_after_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Decision:
    """`held` says that reports were missing and the count could not follow the demand. `needed` of
    the replicas are for the load, the others are kept for `hold_s`; None is not known. `inputs` are
    the figures that it rests on, by name with unit; `memory` is for the next decision, `need` for
    that of the tier that lends or borrows."""

    replicas: int
    reason: str
    held: bool = False
    needed: int | None = None
    hold_s: float = 0.0
    inputs: Mapping[str, float] = field(default_factory=dict[str, float])
    memory: ScalingMemory = field(default_factory=ScalingMemory)
    need: TierNeed | None = None


def desired_replicas(
    reports: Sequence[ReplicaLoad],
    settings: ScalingSettings,
    *,
    now_s: float,
    memory: ScalingMemory,
    replicas_target: int,
    replicas_running: int,
    lent_load: LentLoad | None = None,
    borrower: TierNeed | None = None,
    lend_share: float = 0.0,
    to_zero: bool = False,
) -> Decision:
    """Decide in five steps.

    (1) Arrivals and speeds are pooled over the tier's fresh reports. (2) What is to be expected a
    start from now: the slow mean, and of what the quick one is above it the part that has proved to
    stay. (3) What waits now and will not have been worked off by then is added. (4) As many
    replicas are needed as keep the SLO for that; what another tier can lend puts off an order, as a
    slot is lent at once and a GPU is not. (5) Those that were needed within the hold are kept, as
    far as without them its requests as a whole would have missed the SLO.

    The count is absolute, so replicas that are starting are not ordered again. It never falls below
    what runs, and to zero only when `to_zero` allows it and not even one request is likely within
    the time that a start takes.

    Missing reports, or ones older than `stale_after_s`, never read as zero: unless every running
    replica reports, the count may rise but not fall.
    """
    fresh = [r for r in reports if r.age_s <= settings.stale_after_s and r.slots > 0]
    if not fresh:
        held = replicas_running > 0
        return Decision(replicas_target, "no fresh report: hold", held=held, memory=memory)
    memory = remember_target(memory, now_s, replicas_target, start_s=settings.start_s)
    # (1)
    demand = pooled(fresh, slo=settings.slo, drain_within_s=settings.drain_within_s)
    hold = hold_s(
        memory, start_s=settings.start_s, least_s=settings.least_hold_s, most_s=settings.most_hold_s
    )
    # (2)
    expected = _expected(demand, memory, settings, now_s, hold)
    # (3), (4)
    need = _need(demand, expected, settings, replicas_target)
    needed = _needed(demand, settings, need, lent_load)
    to_keep = kept_to_lend(need, borrower, least=needed.to_keep, lend_share=lend_share)
    # (5)
    memory = remember_need(
        expected.memory,
        now_s,
        to_keep,
        target=replicas_target,
        shortest_s=settings.least_hold_s,
        longest_s=2 * settings.most_hold_s,
    )
    lends = to_keep if to_keep > needed.to_keep else 0
    if len(fresh) >= replicas_running:
        memory = _with_misses(memory, settings, need, needed, lends=lends, now_s=now_s)
    surely = needed.to_keep if expected.excess_rps > 0 else needed.to_order
    memory = remember_sure(memory, now_s, min(surely, replicas_target))
    kept = _kept(memory, settings, replicas_target, now_s, hold)
    # What runs now and what is kept for another tier are needed however few arrive here.
    kept = max(kept, min(max(needed.busy, lends), replicas_target))
    # For the last one Serve has a delay of its own, downscale_to_zero_delay_s.
    to_none = to_zero and to_keep == 0 and kept <= 1
    replicas = 0 if to_none else max(needed.to_order, kept, 1)
    inputs = _inputs(demand, expected, need, needed, hold)
    reason = _reason(demand, inputs)
    if to_keep > needed.to_keep:
        reason = f"{reason}, keeps {to_keep - needed.to_keep} to lend"
    if replicas < replicas_target and len(fresh) < replicas_running:
        missing = replicas_running - len(fresh)
        reason = f"{reason}; missing reports: {missing}, hold"
        return Decision(replicas_target, reason, held=True, inputs=inputs, memory=memory, need=need)
    needs = max(needed.to_order, to_keep)
    return Decision(
        replicas, reason, needed=needs, hold_s=hold, inputs=inputs, memory=memory, need=need
    )


def spare_load(
    reports: Sequence[ReplicaLoad], settings: ScalingSettings, *, lend_share: float
) -> LentLoad | None:
    """What a tier can lend within its own SLO: the part of its replicas' time that its arrivals and
    what waits leave, at most `lend_share` of it."""
    fresh = [r for r in reports if r.age_s <= settings.stale_after_s and r.slots > 0]
    if not fresh:
        return None
    demand = pooled(fresh, slo=settings.slo, drain_within_s=settings.drain_within_s)
    capacity = together(demand.capacities(demand.slow.prompt_tokens, settings.slo))
    arriving_rps = max(demand.slow.requests_per_s, demand.quick.requests_per_s)
    used = (arriving_rps + demand.waiting / settings.slo.ttft_s) / capacity.sustained_rps
    part = min(lend_share, max(0.0, 1 - used))
    if not part:
        return None
    running = demand.running / len(fresh)
    return LentLoad(part * len(fresh), token_s(demand.replicas, beside=running, part=part))


@dataclass(frozen=True, slots=True)
class _Expected:
    """Arrivals a start from now."""

    rate_rps: float
    prompt_tokens: float
    level_rps: float
    excess_rps: float
    memory: ScalingMemory


@dataclass(frozen=True, slots=True)
class _Needed:
    """`to_order` keeps the SLO for what is expected, `to_keep` for a little more than that. So many
    are `busy`."""

    to_order: int
    to_keep: int
    lent_replicas: float
    busy: int


def _expected(
    demand: TierDemand, memory: ScalingMemory, settings: ScalingSettings, now_s: float, hold: float
) -> _Expected:
    slow_seen, quick_seen = (
        max(-math.expm1(-demand.observed_s / window_s), LEAST_SEEN)
        for window_s in (SLOW_S, QUICK_S)
    )
    slow_rps = demand.slow.requests_per_s / slow_seen
    quick_rps = demand.quick.requests_per_s / quick_seen
    # The variance of an exponentially weighted mean of Poisson arrivals is rate / (2 * window).
    doubt_rps = STANDARD_ERRORS * math.sqrt(max(slow_rps, quick_rps) / (2 * QUICK_S))
    # The slow mean remembers a load for a minute after it has ended.
    level_rps = min(slow_rps, quick_rps + doubt_rps)
    excess_rps = max(0.0, quick_rps - level_rps - doubt_rps)
    if quick_rps - level_rps < _within_margin_rps(demand, settings, level_rps):
        excess_rps = 0.0
    memory = remember_arrivals(
        memory,
        now_s,
        level_rps=level_rps,
        excess_rps=excess_rps,
        start_s=settings.start_s,
        within_s=hold,
    )
    stays_rps = memory.persistence * excess_rps
    rate_rps = level_rps + stays_rps
    if rate_rps <= 0:
        return _Expected(0.0, demand.shape.prompt_tokens, level_rps, excess_rps, memory)
    tokens = level_rps * demand.slow.prompt_tokens + stays_rps * demand.quick.prompt_tokens
    return _Expected(rate_rps, tokens / rate_rps, level_rps, excess_rps, memory)


def _within_margin_rps(demand: TierDemand, settings: ScalingSettings, level_rps: float) -> float:
    """An excess is no rush while it has brought no more requests than chance does within the time
    that one runs: the SLO's capacity has a margin for those. That is so where slots limit the tier,
    which such requests have to fill; a step that is beyond what keeps the TPOT is slow at once."""
    capacities = demand.capacities(demand.shape.prompt_tokens, settings.slo)
    whole = together(capacities)
    if whole.slots_rps >= whole.tpot_rps:
        return 0.0
    request_s = demand.shape.new_tokens * fmean(capacity.token_s for capacity in capacities)
    return STANDARD_ERRORS * math.sqrt(level_rps * request_s) / QUICK_S


def _need(
    demand: TierDemand, expected: _Expected, settings: ScalingSettings, replicas_target: int
) -> TierNeed:
    """What is to come, with what waits and will not have been worked off."""
    shape = RequestShape(expected.prompt_tokens, demand.shape.new_tokens, demand.shape.variation)
    need = TierNeed(
        capacities=demand.capacities(expected.prompt_tokens, settings.slo),
        rate_rps=expected.rate_rps,
        level_rps=expected.level_rps,
        shape=shape,
        slo=settings.slo,
        token_s=token_s(demand.replicas),
        target=replicas_target,
        utilisation_down=settings.utilisation_down,
    )
    # Those that are starting serve for half of the time ahead: nothing reports when they began.
    starting = max(0, replicas_target - len(need.capacities)) / 2
    spare_rps = need.sustained_rps + starting * need.joining.sustained_rps - expected.rate_rps
    # More will wait by then where they cannot keep up, but no more than the gate lets wait.
    backlog = max(0.0, demand.waiting - max(0.0, spare_rps) * settings.start_s)
    return replace(
        need, rate_rps=expected.rate_rps + backlog / settings.drain_within_s, backlog=backlog
    )


def _needed(
    demand: TierDemand,
    settings: ScalingSettings,
    need: TierNeed,
    lent_load: LentLoad | None,
) -> _Needed:
    lent = 0.0 if lent_load is None else need.borrowed(lent_load)
    quiet = demand.slow.requests_per_s * settings.start_s < UNLIKELY_REQUESTS
    idle = quiet and demand.running == 0 and demand.waiting == 0
    busy = math.ceil(demand.running / (demand.slots / len(demand.replicas)) - 1e-6)
    return _Needed(
        to_order=max(need.fewest(lent), 1),
        to_keep=0 if idle else max(need.to_keep.fewest(), busy, 1),
        lent_replicas=lent,
        busy=busy,
    )


def _with_misses(
    memory: ScalingMemory,
    settings: ScalingSettings,
    need: TierNeed,
    needed: _Needed,
    *,
    lends: int,
    now_s: float,
) -> ScalingMemory:
    """With what fewer replicas would miss of what is expected now. Those that are busy, or kept to
    lend, are not to be missed. Of what is expected, and not of a little more: a sum over the hold
    does not swing, so that it needs no distance to what orders a replica."""
    if not is_due(memory.misses, now_s):
        return memory
    shares = need.misses().at_least(max(needed.busy, lends))
    sample = MissSample(now_s, need.rate_rps, shares)
    longest_s = settings.most_hold_s
    return replace(memory, misses=remember_misses(memory.misses, sample, longest_s=longest_s))


def _kept(
    memory: ScalingMemory, settings: ScalingSettings, target: int, now_s: float, hold: float
) -> int:
    """Of those that were needed at some moment of the hold, as many as its requests needed as a
    whole; and those that were needed in a rush, that such a moment would order again, or that were
    given back before and ordered again soon."""
    held = min(held_replicas(memory.needed_s, now_s, hold), target)
    surely = min(held_replicas(memory.surely_s, now_s, hold), target)
    regretted = max((at + 1 for at in memory.orders.regretted if at < held), default=0)
    allowed = 1 - settings.slo.goodput
    return max(
        surely, regretted, fewest_over(memory.misses, now_s, hold, allowed=allowed, most=held)
    )


def _inputs(
    demand: TierDemand, expected: _Expected, need: TierNeed, needed: _Needed, hold: float
) -> dict[str, float]:
    return {
        "arriving_rps": expected.level_rps,
        "expected_rps": expected.rate_rps,
        "persistence": expected.memory.persistence,
        "capacity_rps": need.sustained_rps,
        "utilisation": expected.rate_rps / max(need.sustained_rps, 1e-9),
        "prompt_tokens": expected.prompt_tokens,
        "new_tokens": demand.shape.new_tokens,
        "running": demand.running,
        "queue_depth": demand.queue_depth,
        "lent_replicas": needed.lent_replicas,
        "backlog_requests": need.backlog,
        "needed_replicas": float(needed.to_order),
        "hold_s": hold,
        "reports": float(len(demand.replicas)),
    }


def _reason(demand: TierDemand, inputs: Mapping[str, float]) -> str:
    count = len(demand.replicas)
    return (
        f"{inputs['expected_rps']:.2f} requests/s to come, the SLO allows "
        f"{inputs['capacity_rps']:.2f} on {count} replica{'s' if count > 1 else ''} on average, "
        f"needs {inputs['needed_replicas']:g}, running {inputs['running']:g} in {demand.slots:g} "
        f"slots, queue depth {inputs['queue_depth']:g}, hold {inputs['hold_s']:.0f} s"
    )
