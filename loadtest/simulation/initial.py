"""How many replicas a run begins with: `--initial`.

A policy that begins with one replica pays for its cold first minutes, which says nothing about it:
in production the hour before was served, too. So each policy begins with the same counts, those
that the first two minutes need if nothing scales.
"""

import math
from dataclasses import replace

import numpy as np

from loadtest.simulation.arrivals import TIERS, ArrivalColumns
from loadtest.simulation.cell import Cell, cell_of
from loadtest.simulation.constant import ConstantReplicas
from loadtest.simulation.run import simulate_cell
from loadtest.simulation.setup import Setup
from loadtest.simulation.trace import Trace
from serve_app.core.tiers import Tier

FIRST_S = 120.0
# Of the goodput that all GPUs together give: short of all, as chance has a part in two minutes.
ENOUGH = 0.99


def initial_replicas(trace: Trace, setup: Setup) -> dict[Tier, int]:
    """For each tier alone the fewest replicas with which its requests of the first `FIRST_S` meet
    their SLO as often as with all GPUs, within `ENOUGH`; where together they are more than there
    are, each gets its part."""
    cell = cell_of(trace, setup)
    needed = {tier: _needed(tier, cell, setup) for tier in trace.tiers}
    whole, most = sum(needed.values()), setup.gpu_count
    if whole <= most:
        return needed
    spare = most - setup.minimum * len(needed)
    over = whole - setup.minimum * len(needed)
    return {
        tier: setup.minimum + int((count - setup.minimum) * spare / over)
        for tier, count in needed.items()
    }


def _needed(tier: Tier, cell: Cell, setup: Setup) -> int:
    first = replace(cell, arrivals=_first(tier, cell.arrivals))
    if not len(first.arrivals):
        return setup.minimum
    alone = replace(setup, lend_share=0.0, seen=None)
    step = max(1, math.ceil(cell.weight))

    def good(units: int) -> int:
        counts = {tier: min(units * step, setup.gpu_count)}
        return simulate_cell(first, replace(alone, initial=counts), ConstantReplicas(counts)).good

    low, high = math.ceil(setup.minimum / step), math.ceil(setup.gpu_count / step)
    enough = ENOUGH * good(high)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if good(middle) >= enough else (middle + 1, high)
    return min(low * step, setup.gpu_count)


def _first(tier: Tier, arrivals: ArrivalColumns) -> ArrivalColumns:
    """The tier's requests of the first two minutes."""
    own = (arrivals.tier == TIERS.index(tier)) & (arrivals.arrival_s < FIRST_S)
    at_s = arrivals.arrival_s[own]
    return ArrivalColumns(
        at_s,
        arrivals.tier[own],
        arrivals.prompt_tokens[own],
        arrivals.new_tokens[own],
        arrivals.limit[own],
        float(np.max(at_s, initial=0.0)),
    )
