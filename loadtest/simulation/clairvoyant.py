"""The cheapest plan that a policy could follow which knew the whole trace before."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from loadtest.simulation.arrivals import TIERS
from loadtest.simulation.cell import Cell
from loadtest.simulation.outcome import Outcome
from loadtest.simulation.run import simulate_cell
from loadtest.simulation.setup import Setup, tier_plan
from loadtest.simulation.tier_state import TierState
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

    def targets(self, tiers: Mapping[Tier, TierState], now_s: float) -> Mapping[Tier, float]:
        return {
            tier: max(self._count(counts, now_s), self._count(counts, now_s + self.ahead_s))
            for tier, counts in self.counts.items()
        }

    def _count(self, counts: list[int], at_s: float) -> int:
        return counts[min(int(at_s / self.interval_s), len(counts) - 1)]


def cheapest_plan(cell: Cell, setup: Setup, attainment: float) -> Outcome:
    """The cheapest plan found that starts at least this share of requests in time.

    Replicas are ordered a cold start before they are needed, which costs cards but no wait. The
    search goes by how full replicas may be for the work that comes in each interval, and then takes
    one replica away from each interval in turn where that still suffices. No proof: the true
    optimum may be a little cheaper.
    """
    interval_s = max(SHORTEST_INTERVAL_S, cell.arrivals.duration_s / MOST_INTERVALS)
    best: tuple[float, Counts, Outcome] | None = None
    for fullness in FULLNESS:
        counts = _by_work(cell, setup, interval_s, fullness)
        outcome = simulate_cell(cell, setup, Planned(interval_s, counts, setup.longest_start_s))
        if outcome.attainment >= attainment and (best is None or outcome.gpu_hours < best[0]):
            best = outcome.gpu_hours, counts, outcome
    if best is None:
        counts = {tier: [setup.gpu_count] * MOST_INTERVALS for tier in _tiers(cell)}
        return simulate_cell(cell, setup, Planned(interval_s, counts, setup.longest_start_s))
    return _trimmed(cell, setup, interval_s, attainment, best[1], best[2])


def _by_work(cell: Cell, setup: Setup, interval_s: float, fullness: float) -> Counts:
    """Replicas for the true work of each interval, at this utilisation of the tier's first card."""
    arrivals = cell.arrivals
    intervals = int(arrivals.duration_s / interval_s) + 1
    most = setup.gpu_count - setup.minimum * (len(_tiers(cell)) - 1)
    counts: Counts = {}
    for tier in _tiers(cell):
        own = arrivals.tier == TIERS.index(tier)
        plan = tier_plan(tier, setup)
        card = plan.cards[plan.preference[0]]
        model, slots = card.profile.step_model, card.limits.slots
        work_s = model.token_s(slots) * arrivals.new_tokens[own] + (
            model.per_prompt_token_ms / 1e3 * arrivals.prompt_tokens[own]
        )
        interval = (arrivals.arrival_s[own] / interval_s).astype(int)
        works = np.bincount(interval, weights=work_s, minlength=intervals) * cell.weight
        needed = np.ceil(works / interval_s / fullness).astype(int)
        counts[tier] = np.clip(needed, setup.minimum, most).tolist()
    return counts


def _tiers(cell: Cell) -> list[Tier]:
    return [tier for code, tier in enumerate(TIERS) if code in set(cell.arrivals.tier.tolist())]


def _trimmed(
    cell: Cell,
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
            tried = simulate_cell(cell, setup, Planned(interval_s, counts, setup.longest_start_s))
            if tried.attainment >= attainment and tried.gpu_hours <= outcome.gpu_hours:
                outcome = tried
            else:
                counts[tier][interval] += 1
    return outcome
