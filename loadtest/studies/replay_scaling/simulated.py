"""The simulated side of a cell: the same requests, GPUs, scaling policy and settings."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ray.serve.config import AutoscalingConfig

from loadtest.scenario import Slo
from loadtest.simulation.ours import make_ours
from loadtest.simulation.outcome import SimulationOutcome as SimulationOutcome
from loadtest.simulation.policies import RayDefault, ServeDelays
from loadtest.simulation.profile import GpuProfile
from loadtest.simulation.run import Policy, simulate
from loadtest.simulation.setup import Setup
from loadtest.simulation.tier_state import TierState
from loadtest.simulation.trace import Trace
from loadtest.studies.replay_scaling.cells import IDLE_S, ReplayCell
from loadtest.studies.replay_scaling.cluster import autoscaling_config
from serve_app.config.admission import AdmissionConfig
from serve_app.core.tiers import Tier


@dataclass(slots=True)
class KeptAtFirst:
    """The scaling policy, which decides from `IDLE_S` on, as in the replay."""

    policy: Policy
    initial: Mapping[Tier, int]

    @property
    def reasons(self) -> Mapping[Tier, str]:
        return getattr(self.policy, "reasons", {})

    def targets(self, tiers: Mapping[Tier, TierState], now_s: float) -> Mapping[Tier, float]:
        chosen = self.policy.targets(tiers, now_s)
        return chosen if now_s >= IDLE_S else self.initial


def simulate_replay(
    cell: ReplayCell, trace: Trace, profiles: Mapping[str, GpuProfile], slo: Slo
) -> SimulationOutcome:
    """What the simulation says of the cell; its times count from the first `IDLE_S` on."""
    scaling = autoscaling_config(cell, trace.tiers[0])
    setup = Setup(
        gpus=cell.gpus,
        profiles=profiles,
        initial=cell.initial,
        slos=dict.fromkeys(Tier, slo),
        downscale_delay_s=scaling["downscale_delay_s"],
        lend_share=AdmissionConfig().lend_share if cell.ray is None else 0.0,
    )
    later = Trace(tuple(replace(r, arrival_s=r.arrival_s + IDLE_S) for r in trace.requests))
    policy = KeptAtFirst(_policy(cell, setup, scaling), cell.initial)
    return _from_the_first(simulate(later, setup, policy), cell)


def _from_the_first(outcome: SimulationOutcome, cell: ReplayCell) -> SimulationOutcome:
    """Without the seconds before the first request."""
    idle_s = IDLE_S * sum(cell.initial.values())
    whole_s = sum(outcome.gpu_s.values())
    return replace(
        outcome,
        duration_s=outcome.duration_s - IDLE_S,
        # The first replicas are of one kind of GPU, or nearly: the sum is what counts.
        gpu_s={gpu: s * (1 - idle_s / whole_s) for gpu, s in outcome.gpu_s.items()},
        changes=tuple(replace(c, at_s=c.at_s - IDLE_S) for c in outcome.changes),
    )


def _policy(cell: ReplayCell, setup: Setup, scaling: Mapping[str, Any]) -> Policy:
    if cell.ray is None:
        return make_ours(setup)
    with warnings.catch_warnings():
        # Deprecated in favour of variables that Serve 2.60 reads nowhere.
        warnings.filterwarnings("ignore", ".*metrics_interval_s", DeprecationWarning)
        return RayDefault(ServeDelays(AutoscalingConfig(**scaling)))
