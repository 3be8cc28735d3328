"""The requests of a run: the trace as recorded, or more, or less, or a day of it.

More of a trace is copies of it on top of each other, each shifted around the recorded span by a
chance amount, so that their bursts do not coincide. Of a trace of up to two hours that is anywhere,
which evens out what it does over its span; of a longer one it is half an hour at most, so that a
day's curve stays what it is. `day` repeats the copies and keeps requests by the hour.

Less of it, for a cell that stands for a fleet, is every n-th request of each tier. A chance choice
would vary more than the fleet's load does: what a thousand replicas get is steady, and so is what
each of them gets of it from the balancer.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loadtest.simulation.trace import Trace
from serve_app.core.tiers import Tier

TIERS = tuple(Tier)
# Chosen, not measured: a sine about the mean load, four times as much at 14 h as at 2 h.
DAY_SWING = 0.6
PEAK_HOUR = 14.0
# Requests that are laid on top of each other, to take every n-th of: a second, and 200 MB.
MOST_ROWS = 4_000_000
ROUNDING = 1e-9
# A longer trace has a course of its own, a day's for instance, which copies are not to even out.
SHORT_S = 2 * 3600.0
MOST_SHIFT_S = 1800.0


@dataclass(frozen=True, slots=True, eq=False)
class ArrivalColumns:
    """Columns of equal length, in order of arrival. `tier` is an index into `TIERS`."""

    arrival_s: NDArray[np.float64]
    tier: NDArray[np.int8]
    prompt_tokens: NDArray[np.int32]
    new_tokens: NDArray[np.int32]
    limit: NDArray[np.int32]
    duration_s: float

    def __len__(self) -> int:
        return len(self.arrival_s)


def arrivals_of(trace: Trace, *, share: float = 1.0, seed: int = 0) -> ArrivalColumns:
    """The requests of the trace with its `times` and `day`, or a `share` of them. Equal arguments
    give equal requests."""
    recorded = _recorded(trace)
    if trace.times * share == 1.0 and not trace.day:
        return recorded
    rng = np.random.default_rng(seed)
    peak = 1 + DAY_SWING if trace.day else 1.0
    most = trace.times * share * peak * len(recorded)
    every = max(1, min(int(1 / share + ROUNDING), int(MOST_ROWS / most)))
    load = trace.times * share * every
    copies = math.ceil(load * peak - ROUNDING)
    once_s, rows = _copies(recorded, trace.recorded_s, copies, rng)
    taken: list[tuple[NDArray[np.float64], NDArray[np.int64]]] = []
    seen = [0] * len(TIERS)
    for repeat in range(math.ceil(trace.duration_s / trace.recorded_s)):
        at_s = once_s + repeat * trace.recorded_s
        target = load * day_curve(at_s) if trace.day else load
        kept = rng.random(len(at_s)) * copies < target
        if trace.day:
            kept &= at_s < trace.duration_s
        at_s, own_rows = at_s[kept], rows[kept]
        chosen = _every(recorded.tier[own_rows], every, seen)
        taken.append((at_s[chosen], own_rows[chosen]))
    rows = np.concatenate([part[1] for part in taken])
    return ArrivalColumns(
        np.concatenate([part[0] for part in taken]),
        recorded.tier[rows],
        recorded.prompt_tokens[rows],
        recorded.new_tokens[rows],
        recorded.limit[rows],
        trace.duration_s,
    )


def day_curve(at_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Load at a time of the day, as a factor of the day's mean."""
    return 1 + DAY_SWING * np.cos(2 * np.pi * (at_s / 3600 - PEAK_HOUR) / 24)


def _copies(
    recorded: ArrivalColumns, span_s: float, copies: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Times, in order, and rows of so many copies. The first one is not shifted."""
    shifts_s = rng.uniform(0, span_s if span_s <= SHORT_S else MOST_SHIFT_S, copies)
    shifts_s[0] = 0.0
    shifted_s = recorded.arrival_s[None, :] + shifts_s[:, None]
    # The last arrival of the first copy is at the end of the span, and stays there.
    at_s = np.where(shifted_s > span_s, shifted_s - span_s, shifted_s).ravel()
    order = np.argsort(at_s, kind="stable")
    return at_s[order], np.tile(np.arange(len(recorded)), copies)[order]


def _every(tiers: NDArray[np.int8], number: int, seen: list[int]) -> NDArray[np.int64]:
    """Positions of every so-manieth request of each tier, counted on from those `seen`."""
    if number == 1:
        return np.arange(len(tiers))
    chosen: list[NDArray[np.int64]] = []
    for code in range(len(TIERS)):
        own = np.flatnonzero(tiers == code)
        chosen.append(own[-seen[code] % number :: number])
        seen[code] += len(own)
    return np.sort(np.concatenate(chosen))


def _recorded(trace: Trace) -> ArrivalColumns:
    requests = trace.requests
    return ArrivalColumns(
        np.array([request.arrival_s for request in requests]),
        np.array([TIERS.index(request.tier) for request in requests], np.int8),
        np.array([request.prompt_tokens for request in requests], np.int32),
        np.array([request.new_tokens for request in requests], np.int32),
        np.array([request.limit for request in requests], np.int32),
        trace.recorded_s,
    )
