"""The cheapest plan that a policy could follow which knew the whole trace before."""

from collections.abc import Mapping
from dataclasses import dataclass

from loadtest.simulation.fleet import CardSpeed, TierState
from loadtest.simulation.run import Outcome, Setup, simulate, tier_plan
from loadtest.simulation.trace import Trace
from serve_app.core.tiers import Tier

SHORTEST_INTERVAL_S = 30.0
MOST_INTERVALS = 120
# How full the plan may run its replicas, from never to always in arrears.
FULLNESS = tuple(0.5 + 0.05 * step for step in range(25))

Counts = dict[Tier, list[int]]


@dataclass(frozen=True, slots=True)
class Planned:
    """A count of serving replicas for each tier and interval, ordered `ahead_s` before."""

    interval_s: float
    counts: Mapping[Tier, list[int]]
    ahead_s: float

    def targets(self, tiers: Mapping[Tier, TierState], now_s: float) -> Mapping[Tier, int]:
        return {
            tier: max(self._count(counts, now_s), self._count(counts, now_s + self.ahead_s))
            for tier, counts in self.counts.items()
        }

    def _count(self, counts: list[int], at_s: float) -> int:
        return counts[min(int(at_s / self.interval_s), len(counts) - 1)]


def cheapest_plan(trace: Trace, setup: Setup, attainment: float) -> Outcome:
    """The cheapest plan found that starts at least this share of requests in time.

    Replicas are ordered a cold start before they are needed, which costs cards but no wait. The
    search goes by how full replicas may be for the work that comes in each interval, and then takes
    one replica away from each interval in turn where that still suffices. No proof: the true
    optimum may be a little cheaper.
    """
    interval_s = max(SHORTEST_INTERVAL_S, trace.duration_s / MOST_INTERVALS)
    best: tuple[float, Counts, Outcome] | None = None
    for fullness in FULLNESS:
        counts = _by_work(trace, setup, interval_s, fullness)
        outcome = simulate(trace, setup, Planned(interval_s, counts, setup.cold_start_s))
        if outcome.attainment >= attainment and (best is None or outcome.gpu_hours < best[0]):
            best = outcome.gpu_hours, counts, outcome
    if best is None:
        counts = {tier: [setup.gpu_count] * MOST_INTERVALS for tier in trace.tiers}
        return simulate(trace, setup, Planned(interval_s, counts, setup.cold_start_s))
    return _trimmed(trace, setup, interval_s, attainment, best[1], best[2])


def _by_work(trace: Trace, setup: Setup, interval_s: float, fullness: float) -> Counts:
    """Replicas for the true work of each interval, at this utilisation of the tier's first card."""
    intervals = int(trace.duration_s / interval_s) + 1
    work_s = {tier: [0.0] * intervals for tier in trace.tiers}
    speeds = {tier: _first_card(tier, setup) for tier in trace.tiers}
    for request in trace.requests:
        card = speeds[request.tier]
        work_s[request.tier][int(request.arrival_s / interval_s)] += card.model.request_s(
            slots=card.slots,
            prompt_tokens=request.prompt_tokens,
            new_tokens=request.new_tokens,
        )
    most = setup.gpu_count - setup.minimum * (len(trace.tiers) - 1)
    return {
        tier: [
            min(max(setup.minimum, -int(-work / interval_s / fullness // 1)), most)
            for work in works
        ]
        for tier, works in work_s.items()
    }


def _first_card(tier: Tier, setup: Setup) -> CardSpeed:
    plan = tier_plan(tier, setup)
    return plan.cards[plan.preference[0]]


def _trimmed(
    trace: Trace,
    setup: Setup,
    interval_s: float,
    attainment: float,
    counts: Counts,
    outcome: Outcome,
) -> Outcome:
    intervals = len(next(iter(counts.values())))
    for tier in counts:
        for interval in range(intervals):
            if counts[tier][interval] <= setup.minimum:
                continue
            counts[tier][interval] -= 1
            tried = simulate(trace, setup, Planned(interval_s, counts, setup.cold_start_s))
            if tried.attainment >= attainment and tried.gpu_hours <= outcome.gpu_hours:
                outcome = tried
            else:
                counts[tier][interval] += 1
    return outcome
