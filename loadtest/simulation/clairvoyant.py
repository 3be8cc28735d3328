"""The cheapest plan that a policy could follow which knew the whole trace before."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from loadtest.simulation.arrivals import TIERS
from loadtest.simulation.cell import Cell
from loadtest.simulation.settings_search import Judged, rank
from loadtest.simulation.setup import Setup, tier_plan
from loadtest.simulation.tier_state import TierState
from serve_app.core.tiers import Tier

SHORTEST_INTERVAL_S = 30.0
MOST_INTERVALS = 120
# How full a plan by work may run its replicas, from nearly idle to always in arrears.
FULLNESS = tuple(0.2 + 0.05 * step for step in range(31))

PlannedCounts = Mapping[Tier, Sequence[int]]
Work = Mapping[Tier, NDArray[np.float64]]
Found = TypeVar("Found", bound=Judged)


@dataclass(frozen=True, slots=True)
class Planned:
    """A count of serving replicas for each tier and interval, ordered `ahead_s` before."""

    interval_s: float
    counts: PlannedCounts
    ahead_s: float

    def targets(self, tiers: Mapping[Tier, TierState], now_s: float) -> Mapping[Tier, float]:
        return {
            tier: max(self._count(counts, now_s), self._count(counts, now_s + self.ahead_s))
            for tier, counts in self.counts.items()
        }

    def _count(self, counts: Sequence[int], at_s: float) -> int:
        return counts[min(int(at_s / self.interval_s), len(counts) - 1)]


def interval_s(duration_s: float) -> float:
    return max(SHORTEST_INTERVAL_S, duration_s / MOST_INTERVALS)


def work_of(cell: Cell, setup: Setup) -> Work:
    """Of each tier, how many replicas of its first GPU the requests that come in each interval
    keep busy: the arithmetic of full slots."""
    arrivals = cell.arrivals
    width_s = interval_s(arrivals.duration_s)
    intervals = int(arrivals.duration_s / width_s) + 1
    works: dict[Tier, NDArray[np.float64]] = {}
    for code, tier in enumerate(TIERS):
        own = arrivals.tier == code
        if not own.any():
            continue
        plan = tier_plan(tier, setup)
        gpu_plan = plan.gpu_plans[plan.preference[0]]
        model, slots = gpu_plan.profile.step_model, gpu_plan.limits.slots
        work_s = model.token_s(slots) * arrivals.new_tokens[own] + (
            model.per_prompt_token_ms / 1e3 * arrivals.prompt_tokens[own]
        )
        at = (arrivals.arrival_s[own] / width_s).astype(int)
        whole_s = np.bincount(at, weights=work_s, minlength=intervals) * cell.weight
        works[tier] = (whole_s / width_s).astype(np.float64)
    return works


@dataclass(slots=True)
class CheapestPlan(Generic[Found]):
    """The cheapest plan found with a goodput of at least `needed`; where none has it, the one with
    the best goodput. `play` gets the best of the way that it is on, and may give up what will
    not be better: None.

    Replicas are ordered a start before they are needed, which costs GPUs but no wait. The search
    begins twice, with the best constant count, and with counts by work at the highest fullness that
    is good enough. From each it takes a replica away from longer and then shorter parts of the
    time, those with the least work a replica first, and keeps what is still good enough. It ends
    after `tries` plans. No proof: the true optimum may be a little cheaper.
    """

    work: Work
    least: int
    most: int
    needed: float
    tries: int
    play: Callable[[PlannedCounts, Found | None], Found | None]
    tried: int = field(default=0, init=False)

    def search(self, constant: Mapping[Tier, int]) -> tuple[PlannedCounts, Found]:
        intervals = len(next(iter(self.work.values())))
        starts = [self._full(), {tier: [count] * intervals for tier, count in constant.items()}]
        found: list[tuple[PlannedCounts, Found]] = []
        for number, start in enumerate(starts, start=1):
            found.append(self._trimmed(start, until=self.tries * number // len(starts)))
        return min(found, key=lambda plan: rank(plan[1], self.needed))

    def _full(self) -> PlannedCounts:
        """By bisection, the highest fullness that is good enough, or the lowest of all."""
        low, high = 0, len(FULLNESS) - 1
        while low < high:
            middle = (low + high + 1) // 2
            found = self._played(self._by_work(FULLNESS[middle]), None)
            if found is not None and found.goodput >= self.needed:
                low = middle
            else:
                high = middle - 1
        return self._by_work(FULLNESS[low])

    def _by_work(self, fullness: float) -> PlannedCounts:
        most = self.most - self.least * (len(self.work) - 1)
        return {
            tier: np.clip(np.ceil(work / fullness), self.least, most).astype(int).tolist()
            for tier, work in self.work.items()
        }

    def _trimmed(self, start: PlannedCounts, *, until: int) -> tuple[PlannedCounts, Found]:
        counts = {tier: list(numbers) for tier, numbers in start.items()}
        best = self._played(counts, None)
        assert best is not None
        for tier, part in self._parts(counts):
            while self.tried < until:
                fewer = [
                    max(self.least, n - (number in part)) for number, n in enumerate(counts[tier])
                ]
                if fewer == counts[tier]:
                    break
                tried = self._played({**counts, tier: fewer}, best)
                if tried is None or rank(tried, self.needed) >= rank(best, self.needed):
                    break
                counts[tier], best = fewer, tried
        return counts, best

    def _parts(self, counts: Mapping[Tier, Sequence[int]]) -> Iterator[tuple[Tier, range]]:
        intervals = len(next(iter(self.work.values())))
        for pieces in (4, 8, 16, 32):
            width = -(-intervals // pieces)
            parts = [
                (tier, range(start, min(start + width, intervals)))
                for tier in counts
                for start in range(0, intervals, width)
            ]
            yield from sorted(parts, key=lambda part: self._load(counts, *part))

    def _load(self, counts: Mapping[Tier, Sequence[int]], tier: Tier, part: range) -> float:
        """Work a replica in this part of the time, as `counts` now are."""
        replicas = sum(counts[tier][number] for number in part)
        return float(self.work[tier][part.start : part.stop].sum()) / replicas

    def _played(self, counts: PlannedCounts, best: Found | None) -> Found | None:
        self.tried += 1
        return self.play(counts, best)
