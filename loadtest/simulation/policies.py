"""The laws that are compared. Each gives a tier's target from what it may know at that moment."""

import itertools
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ray.serve.autoscaling_policy import (
    _apply_delay_logic,
    _apply_scaling_factors,
    replica_queue_length_autoscaling_policy,
)
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from loadtest.simulation.tier_state import TierState
from serve_app.core.gpu_budget import GpuShare, TierWish, share_gpus
from serve_app.core.scaling import (
    Decision,
    ReplicaLoad,
    ScalingLaw,
    desired_replicas,
    spare_load,
)
from serve_app.core.tiers import Tier


@dataclass(slots=True)
class ServeDelays:
    """Serve's own bounds and delays around a law, with the simulation's clock."""

    config: AutoscalingConfig
    _state: dict[Tier, dict[str, Any]] = field(default_factory=dict)

    def apply(self, tier: Tier, wish: float, target: int, now_s: float) -> int:
        scaled = _apply_scaling_factors(wish, max(target, 1), self.config)
        state = self._state.setdefault(tier, {})
        chosen, _ = _apply_delay_logic(max(0, scaled), target, self.config, state, now_s)
        return min(max(chosen, self.config.min_replicas), self.config.max_replicas)


@dataclass(slots=True)
class Ours:
    """The law of `core/scaling.py`, and the budget of `core/gpu_budget.py` where tiers share: what
    `serving/policy.py` asks, in the same order.

    In a cell it decides for the whole fleet in units of `unit` replicas, so that a target may be a
    part of a simulated replica: each report counts as often as units go into it.
    """

    law: ScalingLaw
    delays: ServeDelays
    gpus: int
    lend_share: float
    unit: float = 1.0
    reasons: dict[Tier, str] = field(default_factory=dict)
    _shared: tuple[dict[Tier, TierWish], dict[Tier, GpuShare]] | None = None

    def targets(self, tiers: Mapping[Tier, TierState], now_s: float) -> Mapping[Tier, float]:
        wishes: dict[Tier, TierWish] = {}
        units = {tier: round(state.target / self.unit) for tier, state in tiers.items()}
        reports = {tier: self._reports(state, units[tier]) for tier, state in tiers.items()}
        config = self.delays.config
        for tier, state in tiers.items():
            decision = self._decide(tier, state, reports, units[tier])
            self.reasons[tier] = decision.reason
            wishes[tier] = TierWish(
                wanted=min(max(decision.replicas, config.min_replicas), config.max_replicas),
                target=units[tier],
                minimum=config.min_replicas,
            )
        shares = self._shares(wishes)
        for tier, share in shares.items():
            if share.reason:
                self.reasons[tier] += f"; {share.reason}"
        return {
            tier: self.unit * self.delays.apply(tier, share.replicas, units[tier], now_s)
            for tier, share in shares.items()
        }

    def _shares(self, wishes: dict[Tier, TierWish]) -> dict[Tier, GpuShare]:
        """The shares depend on the wishes alone, and most wishes are those of the tick before."""
        if self._shared is None or self._shared[0] != wishes:
            self._shared = (wishes, share_gpus(wishes, gpus=round(self.gpus / self.unit)))
        return self._shared[1]

    def _decide(
        self,
        tier: Tier,
        state: TierState,
        reports: Mapping[Tier, Sequence[ReplicaLoad]],
        target: int,
    ) -> Decision:
        others = [
            spare_load(others, lend_share=self.lend_share, stale_after_s=self.law.stale_after_s)
            for other, others in reports.items()
            if other is not tier
        ]
        # As the server: the longest start of the tier's replicas.
        start_s = max((r.plan.start_s for r in state.serving), default=self.law.start_s)
        law = self.law if start_s == self.law.start_s else replace(self.law, start_s=start_s)
        return desired_replicas(
            reports[tier],
            law,
            replicas_target=target,
            replicas_running=len(reports[tier]),
            lent_load=next(iter(others), None),
        )

    def _reports(self, state: TierState, target: int) -> list[ReplicaLoad]:
        """One for each unit that serves."""
        reports = [replica.report() for replica in state.serving]
        size = sum(replica.size for replica in state.serving)
        count = min(round(size * state.weight / self.unit), target)
        return list(itertools.islice(itertools.cycle(reports), count))


@dataclass(slots=True)
class RayDefault:
    """Serve's own function on ongoing requests, as it sees them with the line included."""

    delays: ServeDelays
    _seen: dict[Tier, deque[tuple[float, float]]] = field(default_factory=dict)

    def targets(self, tiers: Mapping[Tier, TierState], now_s: float) -> Mapping[Tier, float]:
        return {tier: self._target(tier, state, now_s) for tier, state in tiers.items()}

    def _target(self, tier: Tier, state: TierState, now_s: float) -> int:
        ongoing = state.ongoing * state.weight
        seen = self._seen.setdefault(tier, deque())
        seen.append((now_s, ongoing))
        while seen[0][0] < now_s - self.delays.config.look_back_period_s:
            seen.popleft()
        mean = sum(count for _, count in seen) / len(seen)
        serving, target = round(len(state.serving) * state.weight), round(state.target)
        wish, _ = replica_queue_length_autoscaling_policy(
            _context(tier, serving, target, mean, self.delays.config, now_s)
        )
        return self.delays.apply(tier, wish, target, now_s)


def _context(
    tier: Tier, running: int, target: int, ongoing: float, config: AutoscalingConfig, now_s: float
) -> AutoscalingContext:
    return AutoscalingContext(
        deployment_id=None,  # pyright: ignore[reportArgumentType]
        deployment_name=tier.value,
        app_name=tier.value,
        current_num_replicas=running,
        target_num_replicas=target,
        running_replicas=[],
        total_num_requests=ongoing,
        total_queued_requests=0.0,
        aggregated_metrics={},
        raw_metrics={},
        capacity_adjusted_min_replicas=config.min_replicas,
        capacity_adjusted_max_replicas=config.max_replicas,
        policy_state={},
        last_scale_up_time=None,
        last_scale_down_time=None,
        current_time=now_s,
        config=config,
    )


@dataclass(slots=True)
class WaitingThreshold:
    """A Kubernetes autoscaler on waiting requests, as KEDA feeds it: the metric is read every
    `poll_s`, the wish is `waiting / threshold` outside a tolerance of 10 %, and the count falls to
    the highest wish of the last `stabilisation_s` (KEDA's and the HPA's documented defaults)."""

    threshold: float
    minimum: int
    maximum: int
    poll_s: float = 30.0
    sync_s: float = 15.0
    stabilisation_s: float = 300.0
    _waiting: dict[Tier, tuple[float, float]] = field(default_factory=dict)
    _wishes: dict[Tier, deque[tuple[float, int]]] = field(default_factory=dict)
    _synced_s: dict[Tier, float] = field(default_factory=dict)

    def targets(self, tiers: Mapping[Tier, TierState], now_s: float) -> Mapping[Tier, float]:
        return {tier: self._target(tier, state, now_s) for tier, state in tiers.items()}

    def _target(self, tier: Tier, state: TierState, now_s: float) -> int:
        target = round(state.target)
        read_s, waiting = self._waiting.get(tier, (-math.inf, 0.0))
        if now_s - read_s >= self.poll_s:
            waiting = state.queue_depth * state.weight
            self._waiting[tier] = (now_s, waiting)
        if now_s - self._synced_s.get(tier, -math.inf) < self.sync_s:
            return target
        self._synced_s[tier] = now_s
        ratio = waiting / (self.threshold * max(1, target))
        wish = target if abs(ratio - 1) <= 0.1 else math.ceil(waiting / self.threshold)
        wish = min(max(wish, self.minimum), self.maximum)
        wishes = self._wishes.setdefault(tier, deque())
        wishes.append((now_s, wish))
        while wishes[0][0] < now_s - self.stabilisation_s:
            wishes.popleft()
        # Not above what runs for the sake of an old wish: stabilisation only slows the way down.
        return max(wish, min(target, max(past for _, past in wishes)))
