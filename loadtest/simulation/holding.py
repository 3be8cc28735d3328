"""Whether a set of GPUs holds a load, divided among the tiers in the best way."""

from collections.abc import Mapping
from dataclasses import dataclass

from loadtest.simulation.outcome import Outcome
from loadtest.simulation.static_set import Bench, Split


@dataclass(frozen=True, slots=True)
class Holding:
    """How a set holds the load: `outcome` is of the repetition that went worst."""

    split: Split
    outcome: Outcome


def holding(
    bench: Bench, gpus: Mapping[str, int], load_rps: float, *, repetitions: int
) -> Holding | None:
    """None if no division of the GPUs holds the load in every repetition."""
    for split in bench.splits(gpus):
        worst = _worst(bench, gpus, split, load_rps, repetitions)
        if worst is not None:
            return Holding(split, worst)
    return None


def _worst(
    bench: Bench, gpus: Mapping[str, int], split: Split, load_rps: float, repetitions: int
) -> Outcome | None:
    """None as soon as one repetition does not hold."""
    outcomes: list[Outcome] = []
    for seed in range(repetitions):
        outcome = bench.run(gpus, split, load_rps, seed)
        if not bench.holds(outcome):
            return None
        outcomes.append(outcome)
    return min(outcomes, key=_least_goodput)


def _least_goodput(outcome: Outcome) -> float:
    return min(tier.goodput_share for tier in outcome.tiers.values())
