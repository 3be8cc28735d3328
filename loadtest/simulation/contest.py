"""The four policies on one trace: each as it would be run, or at its best setting."""

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from ray.serve.config import AutoscalingConfig

from loadtest.simulation.cell import Cell, cell_of
from loadtest.simulation.clairvoyant import cheapest_plan
from loadtest.simulation.outcome import Outcome
from loadtest.simulation.policies import Ours, RayDefault, ServeDelays, WaitingThreshold
from loadtest.simulation.run import Policy, simulate_cell
from loadtest.simulation.setup import Setup
from loadtest.simulation.trace import Trace
from serve_app.core.scaling import ScalingLaw

# As in deploy/*.yaml.
LOOK_BACK_S = 2.0
# In a cell ours decides in so many parts of the fleet at least, or by single replicas.
PARTS = 60
# Ray's defaults are 2 requests a replica, 600 s and 30 s; the rest is what an operator would try.
RAY_TARGETS = (2, 4, 8, 16, 32, 48, 64, 80, 96, 128, 160, 200)
RAY_DOWNSCALE_DELAYS_S = (30.0, 60.0, 120.0, 300.0, 600.0)
RAY_LOOK_BACKS_S = (2.0, 30.0)
THRESHOLDS = (1, 2, 5, 10, 20, 50)
STABILISATIONS_S = (60.0, 300.0)


@dataclass(frozen=True, slots=True)
class Result:
    """`setting` is what was chosen; `tried` counts the settings it was chosen from."""

    outcome: Outcome
    setting: dict[str, Any]
    tried: int = 1


def run_policy(name: str, trace: Trace, setup: Setup, *, attainment: float | None) -> Result:
    """One policy. All but ours are given hindsight: the cheapest of their settings on this very
    trace that starts at least the share `attainment` in time (what ours reaches, if None), or the
    one that starts most."""
    cell = cell_of(trace, setup)
    if name == "ours":
        return _ours(cell, setup)
    needed = _ours(cell, setup).outcome.attainment if attainment is None else attainment
    if name == "clairvoyant":
        return Result(cheapest_plan(cell, setup, needed), {"attainment_at_least": needed})
    # Lending is part of our data plane; neither Serve nor KEDA has it.
    without = replace(setup, lend_share=0.0)
    settings = _ray_settings(setup) if name == "ray-default" else _threshold_settings(setup)
    tried = [Result(simulate_cell(cell, without, policy), setting) for setting, policy in settings]
    enough = [result for result in tried if result.outcome.attainment >= needed]
    if enough:
        best = min(enough, key=lambda result: result.outcome.gpu_hours)
    else:
        best = max(tried, key=lambda r: (r.outcome.attainment, -r.outcome.gpu_hours))
    return replace(best, tried=len(tried))


def _ours(cell: Cell, setup: Setup) -> Result:
    setting = {"downscale_delay_s": setup.downscale_delay_s, "lend_share": setup.lend_share}
    return Result(simulate_cell(cell, setup, make_ours(setup, cell.weight)), setting)


def make_ours(setup: Setup, weight: float = 1.0) -> Ours:
    """The server's law with the settings of deploy/*.yaml, for a cell of this weight."""
    law = ScalingLaw(start_s=setup.longest_start_s, wait_s=setup.wait_share * setup.max_wait_s)
    simulated = setup.gpu_count / weight
    unit = weight / max(1, min(round(weight), math.ceil(PARTS / simulated)))
    delays = ServeDelays(_config(setup, setup.downscale_delay_s, LOOK_BACK_S, unit=unit))
    return Ours(law, delays, setup.gpu_count, setup.lend_share, unit)


def _ray_settings(setup: Setup) -> Iterator[tuple[dict[str, Any], Policy]]:
    for target in RAY_TARGETS:
        for delay_s in RAY_DOWNSCALE_DELAYS_S:
            for look_back_s in RAY_LOOK_BACKS_S:
                config = _config(setup, delay_s, look_back_s, target)
                setting = {
                    "target_ongoing_requests": target,
                    "downscale_delay_s": delay_s,
                    "look_back_period_s": look_back_s,
                    "upscale_delay_s": 0,
                }
                yield setting, RayDefault(ServeDelays(config))


def _threshold_settings(setup: Setup) -> Iterator[tuple[dict[str, Any], Policy]]:
    for threshold in THRESHOLDS:
        for stabilisation_s in STABILISATIONS_S:
            setting = {"threshold": threshold, "stabilisation_s": stabilisation_s}
            yield (
                setting,
                WaitingThreshold(
                    threshold, setup.minimum, setup.gpu_count, stabilisation_s=stabilisation_s
                ),
            )


def _config(
    setup: Setup,
    downscale_delay_s: float,
    look_back_s: float,
    target: float = 2,
    unit: float = 1.0,
) -> AutoscalingConfig:
    with warnings.catch_warnings():
        # Deprecated in favour of variables that Serve 2.60 reads nowhere.
        warnings.filterwarnings("ignore", ".*metrics_interval_s", DeprecationWarning)
        return AutoscalingConfig(
            min_replicas=max(1, round(setup.minimum / unit)),
            max_replicas=round(setup.gpu_count / unit),
            target_ongoing_requests=target,
            upscale_delay_s=0,
            downscale_delay_s=downscale_delay_s,
            look_back_period_s=look_back_s,
            metrics_interval_s=0.5,
        )
