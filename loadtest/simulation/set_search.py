"""The cheapest set of GPUs that sustains a load, with as few simulations as prove it."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

Counts = Mapping[str, int]
Found = TypeVar("Found")

WIDEN = 1.25
# How much more than the bound a set may need; beyond it the set does not answer the question.
MOST_MARGIN = 4.0
MARGIN_PRECISION = 0.02


@dataclass(frozen=True, slots=True)
class Priced(Generic[Found]):
    """A set of GPUs that sustains the load, as `found` shows."""

    counts: Counts
    price: float
    found: Found


@dataclass(frozen=True, slots=True)
class Cheapest(Generic[Found]):
    """Sets that sustain the load, the cheapest first. `proven`: every cheaper set than the first
    was simulated, is below the bound, or is part of one that failed."""

    sets: tuple[Priced[Found], ...]
    tried: int
    proven: bool


class SetSearch(Generic[Found]):
    """The cheapest counts of GPUs that sustain a load.

    `margin` is how often the load fits into what a set could compute if nothing ever waited: below
    1 a set cannot sustain it and is not simulated. `run` simulates a set and is None if it does not
    sustain the load. It takes for granted that what some GPUs do not sustain fewer do not either.
    """

    def __init__(
        self,
        prices: Mapping[str, float],
        margin: Callable[[Counts], float],
        run: Callable[[Counts], Found | None],
        *,
        at_least: int = 1,
        most_tries: int = 60,
    ) -> None:
        self._prices, self._margin, self._run = prices, margin, run
        self._at_least, self._most_tries = at_least, most_tries
        self._seen: dict[tuple[int, ...], Priced[Found] | None] = {}
        self.proven = False

    def cheapest(self) -> Cheapest[Found]:
        """First a set near the bound, and the smallest of each GPU alone: they are an upper bound
        of the price and the runners-up. Then the cheaper sets, those with most room first."""
        for counts in (None, *([name] for name in self._prices)):
            self._smallest(counts or list(self._prices))
        self.proven = self._refine()
        return self.so_far()

    def sustains(self, counts: Counts) -> bool:
        """Whether this set does, whatever it costs."""
        return self._margin(counts) >= 1.0 and self._simulated(counts)

    def so_far(self) -> Cheapest[Found]:
        sustained = sorted((s for s in self._seen.values() if s), key=lambda priced: priced.price)
        return Cheapest(tuple(self._without_supersets(sustained)), len(self._seen), self.proven)

    def price(self, counts: Counts) -> float:
        return sum(self._prices[name] * count for name, count in counts.items())

    def _smallest(self, names: list[str]) -> None:
        """Of these GPUs, with as little above the bound as sustains the load."""
        low, high = 1.0, math.inf
        margin = 1.0
        while margin <= MOST_MARGIN and len(self._seen) < self._most_tries:
            counts = self._cheapest_by_bound(names, margin)
            if counts is None:
                return
            if self._simulated(counts):
                high = margin
            else:
                low = margin
            if high - low <= MARGIN_PRECISION or high == 1.0:
                return
            margin = low * WIDEN if math.isinf(high) else (low + high) / 2

    def _cheapest_by_bound(self, names: list[str], margin: float) -> Counts | None:
        best: tuple[float, float, Counts] | None = None
        for counts in self._sets(names, margin, math.inf):
            key = (self.price(counts), -self._margin(counts), counts)
            if best is None or key[:2] < best[:2]:
                best = key
        return None if best is None else best[2]

    def _refine(self) -> bool:
        """Simulate what is cheaper than the cheapest known; False if tries ran out."""
        while True:
            best = min((s.price for s in self._seen.values() if s), default=None)
            if best is None:
                return False
            open_sets = [
                counts
                for counts in self._sets(list(self._prices), 1.0, best)
                if self._key(counts) not in self._seen and not self._part_of_a_failed(counts)
            ]
            if not open_sets:
                return True
            if len(self._seen) >= self._most_tries:
                return False
            self._simulated(max(open_sets, key=self._margin))

    def _sets(self, names: list[str], margin: float, below: float) -> Iterator[Counts]:
        """Sets that reach the margin and are cheaper than `below`; with no price to stay below, of
        each number of the other GPUs only the smallest number of the last one."""
        *others, last = names
        most = [self._most(name, margin, below) for name in others]
        for numbers in itertools.product(*(range(count + 1) for count in most)):
            counts = dict.fromkeys(self._prices, 0) | dict(zip(others, numbers, strict=True))
            fewest = self._fewest(counts, last, margin)
            if fewest is None:
                continue
            counts[last] = fewest
            while self.price(counts) < below - 1e-9:
                yield dict(counts)
                if math.isinf(below):
                    break
                counts[last] += 1

    def _most(self, name: str, margin: float, below: float) -> int:
        if math.isfinite(below):
            return int(below / self._prices[name])
        alone = self._fewest(dict.fromkeys(self._prices, 0), name, margin)
        return 0 if alone is None else alone

    def _fewest(self, counts: Counts, name: str, margin: float) -> int | None:
        """The smallest number of this GPU that reaches the margin beside the others."""

        def enough(count: int) -> bool:
            whole = {**counts, name: count}
            return sum(whole.values()) >= self._at_least and self._margin(whole) >= margin

        high = 1
        while not enough(high):
            high *= 2
            if high > 1 << 20:
                return None
        low = 0
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if enough(middle) else (middle + 1, high)
        return low

    def _simulated(self, counts: Counts) -> bool:
        key = self._key(counts)
        if key not in self._seen:
            found = self._run(counts)
            priced = None if found is None else Priced(counts, self.price(counts), found)
            self._seen[key] = priced
        return self._seen[key] is not None

    def _part_of_a_failed(self, counts: Counts) -> bool:
        key = self._key(counts)
        return any(
            all(mine <= theirs for mine, theirs in zip(key, failed, strict=True))
            for failed, priced in self._seen.items()
            if priced is None
        )

    def _without_supersets(self, sustained: list[Priced[Found]]) -> Iterator[Priced[Found]]:
        """A set that has more GPUs of each type than a cheaper one is no alternative."""
        kept: list[tuple[int, ...]] = []
        for priced in sustained:
            key = self._key(priced.counts)
            if not any(all(a <= b for a, b in zip(k, key, strict=True)) for k in kept):
                kept.append(key)
                yield priced

    def _key(self, counts: Counts) -> tuple[int, ...]:
        return tuple(counts.get(name, 0) for name in self._prices)
