"""The highest load that is held, by bisection."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

Found = TypeVar("Found")

# Farther than this from the first guess nothing is looked for: not even a trickle is held.
FARTHEST = 256


@dataclass(frozen=True, slots=True)
class Highest(Generic[Found]):
    """`load` is held, as `held` shows; `failed` is of the lowest load tried that is not. A load of
    0 holds nothing, and then `held` is None."""

    load: float
    held: Found | None
    failed: Found | None
    tried: int


def highest_load(
    run: Callable[[float], Found],
    holds: Callable[[Found], bool],
    *,
    guess: float,
    widen: float = 1.1,
    precision: float = 0.02,
) -> Highest[Found]:
    """The highest load that is held, to `precision` of itself, by bisection.

    It takes for granted that what holds a load holds every smaller one. From `guess`, which must be
    above 0, it goes up or down by `widen`, then by its square, ..., until it has a bracket.
    """
    low, high = 0.0, math.inf
    held = failed = None
    load, tried = guess, 0
    while guess / FARTHEST <= load <= guess * FARTHEST:
        found = run(load)
        tried += 1
        if holds(found):
            low, held = load, found
        else:
            high, failed = load, found
        if low and high - low <= precision * low:
            break
        load = _next(low, high, widen**tried)
    return Highest(low, held, failed, tried)


def _next(low: float, high: float, widen: float) -> float:
    if not low:
        return high / widen
    if math.isinf(high):
        return low * widen
    return (low + high) / 2
