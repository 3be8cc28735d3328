"""The server's own scaling policy, as it is played against the others."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from loadtest.scenario import Slo as PlayedSlo
from loadtest.simulation.policies import ServeDelays, serve_config
from loadtest.simulation.setup import Setup
from loadtest.simulation.tier_state import TierState
from serve_app.core.scaling.desired_replicas import (
    Decision,
    ScalingSettings,
    desired_replicas,
    spare_load,
)
from serve_app.core.scaling.gpu_budget import (
    GpuAllocation,
    GpuDemand,
    NeededGpus,
    allocate_gpus,
    observe_needed,
)
from serve_app.core.scaling.joint_need import fewest_together
from serve_app.core.scaling.scaling_memory import ScalingMemory
from serve_app.core.scaling.slo_capacity import Slo
from serve_app.core.scaling.tier_demand import ReplicaLoad
from serve_app.core.scaling.tier_need import TierNeed
from serve_app.core.tiers import Tier

# As in deploy/*.yaml.
LOOK_BACK_S = 2.0
# In a cell ours decides in so many parts of the fleet at least, or by single replicas.
PARTS = 60
# Of an SLO that says nothing of it.
NO_LIMIT_S = 3600.0


def make_ours(setup: Setup, weight: float = 1.0) -> "Ours":
    """The server's scaling policy with the settings of deploy/*.yaml, for a cell of this weight."""
    simulated = setup.gpu_count / weight
    unit = weight / max(1, min(round(weight), math.ceil(PARTS / simulated)))
    delays = ServeDelays(serve_config(setup, setup.downscale_delay_s, LOOK_BACK_S, unit=unit))
    settings = {
        tier: ScalingSettings(start_s=setup.longest_start_s, slo=_slo(setup.slo(tier)))
        for tier in Tier
    }
    return Ours(settings, delays, setup.gpu_count, setup.lend_share, unit)


def _slo(played: PlayedSlo) -> Slo:
    return Slo(played.ttft or NO_LIMIT_S, played.tpot or NO_LIMIT_S)


@dataclass(slots=True)
class Ours:
    """The policy of `core/scaling/desired_replicas.py`, and the budget of
    `core/scaling/gpu_budget.py` where tiers share: what `autoscaling/policy.py` asks, in its order.

    In a cell it decides for the whole fleet in units of `unit` replicas, so that a target may be a
    part of a simulated replica: each report counts as often as units go into it.
    """

    settings: Mapping[Tier, ScalingSettings]
    delays: ServeDelays
    gpus: int
    lend_share: float
    unit: float = 1.0
    reasons: dict[Tier, str] = field(default_factory=dict)
    _memories: dict[Tier, ScalingMemory] = field(default_factory=dict)
    _needs: dict[Tier, TierNeed | None] = field(default_factory=dict)
    _needed: NeededGpus = field(default_factory=NeededGpus)
    _shared: tuple[tuple[dict[Tier, GpuDemand], float], dict[Tier, GpuAllocation]] | None = None

    def targets(self, tiers: Mapping[Tier, TierState], now_s: float) -> Mapping[Tier, float]:
        demands: dict[Tier, GpuDemand] = {}
        units = {tier: round(state.target / self.unit) for tier, state in tiers.items()}
        reports = {tier: self._reports(state, units[tier]) for tier, state in tiers.items()}
        config = self.delays.config
        for tier, state in tiers.items():
            decision = self._decide(tier, state, reports, units[tier], now_s)
            self.reasons[tier] = decision.reason
            self._memories[tier] = decision.memory
            self._needs[tier] = decision.need
            demands[tier] = GpuDemand(
                wanted=min(max(decision.replicas, config.min_replicas), config.max_replicas),
                target=units[tier],
                minimum=config.min_replicas,
                needed=decision.needed,
                hold_s=decision.hold_s,
                starting=max(0, units[tier] - len(reports[tier])),
            )
        needs = {tier: need for tier, need in self._needs.items() if need is not None}
        both = fewest_together(needs, lend_share=self.lend_share)
        self._needed = observe_needed(self._needed, demands, now_s=now_s, together=both)
        shares = self._shares(demands)
        for tier, share in shares.items():
            if share.reason:
                self.reasons[tier] += f"; {share.reason}"
        return {
            tier: self.unit * self.delays.apply(tier, share.replicas, units[tier], now_s)
            for tier, share in shares.items()
        }

    def _shares(self, demands: dict[Tier, GpuDemand]) -> dict[Tier, GpuAllocation]:
        """They depend on the demands and what is kept, and most are those of the tick before."""
        asked = demands, self._needed.most
        if self._shared is None or self._shared[0] != asked:
            gpus = round(self.gpus / self.unit)
            self._shared = (asked, allocate_gpus(demands, gpus=gpus, kept=self._needed.most))
        return self._shared[1]

    def _decide(
        self,
        tier: Tier,
        state: TierState,
        reports: Mapping[Tier, Sequence[ReplicaLoad]],
        target: int,
        now_s: float,
    ) -> Decision:
        others = [
            spare_load(reported, self.settings[other], lend_share=self.lend_share)
            for other, reported in reports.items()
            if other is not tier
        ]
        # As the server: the longest start of the tier's replicas.
        settings = self.settings[tier]
        start_s = max((r.plan.start_s for r in state.serving), default=settings.start_s)
        return desired_replicas(
            reports[tier],
            settings if start_s == settings.start_s else replace(settings, start_s=start_s),
            now_s=now_s,
            memory=self._memories.get(tier, ScalingMemory()),
            replicas_target=target,
            replicas_running=len(reports[tier]),
            lent_load=next(iter(others), None),
            borrower=next((need for other, need in self._needs.items() if other is not tier), None),
            lend_share=self.lend_share,
        )

    def _reports(self, state: TierState, target: int) -> list[ReplicaLoad]:
        """One for each unit that serves."""
        reports = [replica.report() for replica in state.serving]
        size = sum(replica.size for replica in state.serving)
        count = min(round(size * state.weight / self.unit), target)
        return list(itertools.islice(itertools.cycle(reports), count))
