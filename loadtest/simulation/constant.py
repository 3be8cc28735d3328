"""A constant number of replicas, for who does not scale, and the best such number."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from loadtest.simulation.settings_search import Judged, rank
from loadtest.simulation.tier_state import TierState
from serve_app.core.tiers import Tier

Counts = Mapping[Tier, int]
Found = TypeVar("Found", bound=Judged)


@dataclass(frozen=True, slots=True)
class ConstantReplicas:
    """Each tier has its count of replicas all the time."""

    counts: Counts

    def targets(self, tiers: Mapping[Tier, TierState], now_s: float) -> Mapping[Tier, float]:
        return self.counts


@dataclass(slots=True)
class BestConstant(Generic[Found]):
    """The fewest replicas in all with which the goodput is at least `needed`; where no number has
    that, the fewest with the best goodput.

    `play` runs one division. `work` is each tier's part of the whole work: of a number of replicas
    the division by work is tried first, and then those beside it as long as they are better.
    """

    work: Mapping[Tier, float]
    least: int
    most: int
    needed: float
    play: Callable[[Counts], Found]
    played: dict[tuple[int, ...], Found] = field(default_factory=dict)

    def search(self) -> tuple[Counts, Found]:
        tiers = list(self.work)
        low, high = self.least * len(tiers), self.most
        best = self._best_of(high)
        needed = min(self.needed, best[1].goodput)
        while low < high:
            middle = (low + high) // 2
            tried = self._best_of(middle)
            if tried[1].goodput >= needed:
                best, high = tried, middle
            else:
                low = middle + 1
        return best

    def _best_of(self, whole: int) -> tuple[Counts, Found]:
        """The best division of so many replicas."""
        tiers = list(self.work)
        if len(tiers) == 1:
            return self._tried((whole,))
        spare = whole - 2 * self.least
        first = self.least + round(spare * self.work[tiers[0]] / sum(self.work.values()))
        best = self._tried((first, whole - first))
        for step in (1, -1):
            at = first + step
            while self.least <= at <= whole - self.least:
                if best[1].goodput >= self.needed:
                    return best
                tried = self._tried((at, whole - at))
                if rank(tried[1], self.needed) >= rank(best[1], self.needed):
                    break
                best, at = tried, at + step
        return best

    def _tried(self, numbers: tuple[int, ...]) -> tuple[Counts, Found]:
        counts = dict(zip(self.work, numbers, strict=True))
        if numbers not in self.played:
            self.played[numbers] = self.play(counts)
        return counts, self.played[numbers]
