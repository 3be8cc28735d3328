"""The highest load that a set of cards holds within the SLO, and how sure that is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from loadtest.report.formatting import percent, seconds
from loadtest.scenario import Slo
from loadtest.simulation.highest_load import Highest, highest_load
from loadtest.simulation.outcome import Outcome, TierOutcome
from loadtest.simulation.profile_range import Side, profiles_at
from loadtest.simulation.static_set import Bench, Split

# Where the bisection begins: sets hold somewhat less than the bound, for arrivals come in clusters.
GUESS = 0.93
# A repetition is expected this near to the first one's answer.
NEAR = 1.04
# The ends of a range are known less well than by this anyway.
RANGE_PRECISION = 0.04


@dataclass(frozen=True, slots=True)
class HeldLoad:
    """`loads_per_s` has an entry for each repetition, in which the arrivals fall anew. `outcome` is
    of the repetition that held least, None where nothing is held."""

    gpus: Mapping[str, int]
    split: Split
    loads_per_s: tuple[float, ...]
    outcome: Outcome | None
    beyond: str

    @property
    def load_per_s(self) -> float:
        """Held in all repetitions."""
        return min(self.loads_per_s)

    @property
    def worst_seed(self) -> int:
        """The repetition that held least."""
        return self.loads_per_s.index(self.load_per_s)


def held_load(
    bench: Bench, gpus: Mapping[str, int], *, repetitions: int, precision: float = 0.02
) -> HeldLoad | None:
    """Of the best division of the cards among the tiers; None where a tier would have no card."""
    splits = bench.splits(gpus)
    if not splits:
        return None
    bound = bench.bound_rps(gpus)
    if not bound:
        return HeldLoad(gpus, splits[0], (0.0,), None, _too_slow(bench))
    split, first = _best_split(bench, gpus, splits, GUESS * bound, precision)
    found = [first]
    for seed in range(1, repetitions):
        guess = first.load or GUESS * bound
        found.append(_search(bench, gpus, split, seed, guess, precision, widen=NEAR))
    least = min(found, key=lambda highest: highest.load)
    beyond = "" if least.failed is None else what_is_missed(least.failed, bench)
    return HeldLoad(gpus, split, tuple(highest.load for highest in found), least.held, beyond)


def bench_at(bench: Bench, side: Side) -> Bench:
    """The same question with the profiles' figures at one end of their uncertainty."""
    setup = replace(bench.setup, profiles=profiles_at(bench.setup.profiles, side))
    return replace(bench, setup=setup)


def load_at(bench: Bench, held: HeldLoad, side: Side) -> float:
    """What would be held with all figures at this end of their uncertainty, with the same division
    of the cards, in the repetition that held least. It is searched less precisely, and never on the
    wrong side of what was found."""
    moved = bench_at(bench, side)
    bound, known = moved.bound_rps(held.gpus), bench.bound_rps(held.gpus)
    if not bound:
        return 0.0
    guess = bound * (held.load_per_s / known if held.load_per_s else GUESS)
    found = _search(moved, held.gpus, held.split, held.worst_seed, guess, RANGE_PRECISION)
    keep = min if side is Side.PESSIMISTIC else max
    return keep(found.load, held.load_per_s)


def _best_split(
    bench: Bench,
    gpus: Mapping[str, int],
    splits: Sequence[Split],
    guess: float,
    precision: float,
) -> tuple[Split, Highest[Outcome]]:
    """Another way to divide the cards is looked into only where it holds more than the best."""
    best = splits[0], _search(bench, gpus, splits[0], 0, guess, precision)
    for split in splits[1:]:
        more = best[1].load * (1 + precision) or guess
        if bench.holds(bench.run(gpus, split, more, 0)):
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
) -> Highest[Outcome]:
    return highest_load(
        lambda load: bench.run(gpus, split, load, seed),
        bench.holds,
        guess=guess,
        widen=widen,
        precision=precision,
    )


def what_is_missed(outcome: Outcome, bench: Bench) -> str:
    """`chat: 97.1% good, 2.0% refused, TTFT p99 3.1 s`, of the tiers that miss."""
    return "; ".join(
        f"{tier}: {_missed(found, bench.setup.slo(tier))}"
        for tier, found in outcome.tiers.items()
        if found.goodput_share < bench.goodput
    )


def _missed(found: TierOutcome, slo: Slo) -> str:
    told = [f"{percent(found.goodput_share)} good"]
    if found.refused_total:
        told.append(f"{percent(found.refused_total / found.requests)} refused")
    for name, time, limit_s in (
        ("TTFT", found.ttft_s, slo.ttft),
        ("TPOT", found.tpot_s, slo.tpot),
        ("E2E", found.e2e_s, slo.e2e),
    ):
        if limit_s is not None and time.p99 is not None and time.p99 > limit_s:
            told.append(f"{name} p99 {seconds(time.p99)}")
    return ", ".join(told)


def _too_slow(bench: Bench) -> str:
    limits = (bench.setup.slo(tier).tpot for tier in bench.traffic.shares)
    told = ", ".join(seconds(limit_s) for limit_s in limits if limit_s is not None)
    return f"a step for one request alone takes longer than the TPOT of the SLO ({told})"
