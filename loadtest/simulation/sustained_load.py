"""The maximum load that a set of GPUs sustains within the SLO, and how sure that is."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from loadtest.report.formatting import percent, seconds
from loadtest.scenario import Slo
from loadtest.simulation.outcome import SimulationOutcome, TierOutcome
from loadtest.simulation.profile_range import UncertaintySide, profiles_at
from loadtest.simulation.static_set import Bench, Split

Found = TypeVar("Found")

# Where the bisection begins: sets sustain somewhat less than the bound, for arrivals come in
# clusters.
GUESS = 0.93
# A repetition is expected this near to the first one's answer.
NEAR = 1.04
# The ends of a range are known less well than by this anyway.
RANGE_PRECISION = 0.04
# Farther than this from the first guess nothing is looked for: not even a trickle is sustained.
FARTHEST = 256


@dataclass(frozen=True, slots=True)
class SustainedLoad:
    """`loads_per_s` has an entry for each repetition, in which the arrivals fall anew. `outcome` is
    of the repetition that sustained least, None where nothing is sustained."""

    gpus: Mapping[str, int]
    split: Split
    loads_per_s: tuple[float, ...]
    outcome: SimulationOutcome | None
    beyond: str

    @property
    def load_per_s(self) -> float:
        """Sustained in all repetitions."""
        return min(self.loads_per_s)

    @property
    def worst_seed(self) -> int:
        """The repetition that sustained least."""
        return self.loads_per_s.index(self.load_per_s)


def maximum_sustained_load(
    bench: Bench, gpus: Mapping[str, int], *, repetitions: int, precision: float = 0.02
) -> SustainedLoad | None:
    """Of the best division of the GPUs among the tiers; None where a tier would have no GPU."""
    splits = bench.splits(gpus)
    if not splits:
        return None
    bound = bench.bound_rps(gpus)
    if not bound:
        return SustainedLoad(gpus, splits[0], (0.0,), None, _too_slow(bench))
    split, first = _best_split(bench, gpus, splits, GUESS * bound, precision)
    found = [first]
    for seed in range(1, repetitions):
        guess = first.load or GUESS * bound
        found.append(_search(bench, gpus, split, seed, guess, precision, widen=NEAR))
    least = min(found, key=lambda maximum: maximum.load)
    beyond = "" if least.failed is None else what_is_missed(least.failed, bench)
    return SustainedLoad(
        gpus, split, tuple(maximum.load for maximum in found), least.sustained, beyond
    )


def bench_at(bench: Bench, side: UncertaintySide) -> Bench:
    """The same question with the profiles' figures at one end of their uncertainty."""
    setup = replace(bench.setup, profiles=profiles_at(bench.setup.profiles, side))
    return replace(bench, setup=setup)


def load_at(bench: Bench, sustained: SustainedLoad, side: UncertaintySide) -> float:
    """What would be sustained with all figures at this end of their uncertainty, with the same
    division of the GPUs, in the repetition that sustained least. It is searched less precisely, and
    never on the wrong side of what was found."""
    moved = bench_at(bench, side)
    bound, known = moved.bound_rps(sustained.gpus), bench.bound_rps(sustained.gpus)
    if not bound:
        return 0.0
    guess = bound * (sustained.load_per_s / known if sustained.load_per_s else GUESS)
    found = _search(
        moved, sustained.gpus, sustained.split, sustained.worst_seed, guess, RANGE_PRECISION
    )
    keep = min if side is UncertaintySide.PESSIMISTIC else max
    return keep(found.load, sustained.load_per_s)


@dataclass(frozen=True, slots=True)
class SustainingSplit:
    """How a set sustains the load: `outcome` is of the repetition that went worst."""

    split: Split
    outcome: SimulationOutcome


def sustaining_split(
    bench: Bench, gpus: Mapping[str, int], load_rps: float, *, repetitions: int
) -> SustainingSplit | None:
    """None if no division of the GPUs sustains the load in every repetition."""
    for split in bench.splits(gpus):
        worst = _worst(bench, gpus, split, load_rps, repetitions)
        if worst is not None:
            return SustainingSplit(split, worst)
    return None


@dataclass(frozen=True, slots=True)
class MaximumLoad(Generic[Found]):
    """`load` is sustained, as `sustained` shows; `failed` is of the lowest load tried that is not.
    A load of 0 sustains nothing, and then `sustained` is None."""

    load: float
    sustained: Found | None
    failed: Found | None
    tried: int


def maximum_load(
    run: Callable[[float], Found],
    sustains: Callable[[Found], bool],
    *,
    guess: float,
    widen: float = 1.1,
    precision: float = 0.02,
) -> MaximumLoad[Found]:
    """The maximum load that is sustained, to `precision` of itself, by bisection.

    It takes for granted that what sustains a load sustains every smaller one. From `guess`, which
    must be above 0, it goes up or down by `widen`, then by its square, ..., until it has a bracket.
    """
    low, high = 0.0, math.inf
    sustained = failed = None
    load, tried = guess, 0
    while guess / FARTHEST <= load <= guess * FARTHEST:
        found = run(load)
        tried += 1
        if sustains(found):
            low, sustained = load, found
        else:
            high, failed = load, found
        if low and high - low <= precision * low:
            break
        load = _next_load(low, high, widen**tried)
    return MaximumLoad(low, sustained, failed, tried)


def _best_split(
    bench: Bench,
    gpus: Mapping[str, int],
    splits: Sequence[Split],
    guess: float,
    precision: float,
) -> tuple[Split, MaximumLoad[SimulationOutcome]]:
    """Another way to divide the GPUs is looked into only where it sustains more than the best."""
    best = splits[0], _search(bench, gpus, splits[0], 0, guess, precision)
    for split in splits[1:]:
        more = best[1].load * (1 + precision) or guess
        if bench.sustains(bench.run(gpus, split, more, 0)):
            best = split, _search(bench, gpus, split, 0, more, precision)
    return best


def _search(
    bench: Bench,
    gpus: Mapping[str, int],
    split: Split,
    seed: int,
    guess: float,
    precision: float,
    *,
    widen: float = 1.1,
) -> MaximumLoad[SimulationOutcome]:
    return maximum_load(
        lambda load: bench.run(gpus, split, load, seed),
        bench.sustains,
        guess=guess,
        widen=widen,
        precision=precision,
    )


def what_is_missed(outcome: SimulationOutcome, bench: Bench) -> str:
    """`chat: 97.1% good, 2.0% refused, TTFT p99 3.1 s`, of the tiers that miss."""
    return "; ".join(
        f"{tier}: {_missed(found, bench.setup.slo(tier))}"
        for tier, found in outcome.tiers.items()
        if found.goodput_share < bench.goodput
    )


def _missed(found: TierOutcome, slo: Slo) -> str:
    parts = [f"{percent(found.goodput_share)} good"]
    if found.refused_total:
        parts.append(f"{percent(found.refused_total / found.requests)} refused")
    for name, time, limit_s in (
        ("TTFT", found.ttft_s, slo.ttft),
        ("TPOT", found.tpot_s, slo.tpot),
        ("E2E", found.e2e_s, slo.e2e),
    ):
        if limit_s is not None and time.p99 is not None and time.p99 > limit_s:
            parts.append(f"{name} p99 {seconds(time.p99)}")
    return ", ".join(parts)


def _too_slow(bench: Bench) -> str:
    limits = (bench.setup.slo(tier).tpot for tier in bench.traffic.shares)
    text = ", ".join(seconds(limit_s) for limit_s in limits if limit_s is not None)
    return f"a step for one request alone takes longer than the TPOT of the SLO ({text})"


def _next_load(low: float, high: float, widen: float) -> float:
    if not low:
        return high / widen
    if math.isinf(high):
        return low * widen
    return (low + high) / 2


def _worst(
    bench: Bench, gpus: Mapping[str, int], split: Split, load_rps: float, repetitions: int
) -> SimulationOutcome | None:
    """None as soon as one repetition does not sustain."""
    outcomes: list[SimulationOutcome] = []
    for seed in range(repetitions):
        outcome = bench.run(gpus, split, load_rps, seed)
        if not bench.sustains(outcome):
            return None
        outcomes.append(outcome)
    return min(outcomes, key=_least_goodput)


def _least_goodput(outcome: SimulationOutcome) -> float:
    return min(tier.goodput_share for tier in outcome.tiers.values())
