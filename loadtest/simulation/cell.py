"""A cell: a part of a large fleet with the same part of its load, simulated for the whole.

Each simulated replica stands for `weight` replicas. A cell is noisier than its fleet: chance in
arrivals evens out over fewer replicas and GPUs, so it waits and refuses a little more, and its
replicas come and go in larger steps.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from loadtest.simulation.arrivals import ArrivalColumns, arrivals_of
from loadtest.simulation.setup import Setup
from loadtest.simulation.trace import Trace


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """`gpus` are the GPUs that are simulated."""

    arrivals: ArrivalColumns
    gpus: Mapping[str, int]
    weight: float


def cell_of(trace: Trace, setup: Setup) -> Cell:
    """The part that `setup.weight` says, or the largest one with at most `setup.most_requests`.

    Every GPU type keeps one at least, and the cell a GPU for each tier; where the counts do
    not divide, the nearest whole numbers are taken and the load by the GPUs that there are.
    """
    divisor = setup.weight or _divisor(trace, setup)
    gpus = {
        gpu_type: max(1, round(count / divisor)) for gpu_type, count in setup.gpus.items() if count
    }
    if sum(gpus.values()) < min(len(trace.tiers) * setup.minimum, setup.gpu_count):
        gpus = dict(setup.gpus)
    weight = setup.gpu_count / sum(gpus.values())
    return Cell(arrivals_of(trace, share=1 / weight, seed=setup.seed), gpus, weight)


def _divisor(trace: Trace, setup: Setup) -> int:
    """One that divides all counts of GPUs, if there is one not much larger than needed."""
    needed = max(1, -int(-trace.expected_requests // setup.most_requests))
    exact = (
        divisor
        for divisor in range(needed, 2 * needed)
        if all(count % divisor == 0 for count in setup.gpus.values())
    )
    return next(exact, needed)
