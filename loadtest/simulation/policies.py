"""The laws that are compared. Each gives a tier's target from what it may know at that moment."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ray.serve.autoscaling_policy import (
    _apply_delay_logic,
    _apply_scaling_factors,
    replica_queue_length_autoscaling_policy,
)
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from loadtest.simulation.fleet import TierState
from loadtest.simulation.replica import Replica
from serve_app.core.gpu_budget import TierWish, share_gpus
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
    """The law of `core/scaling.py`, and the budget of `core/gpu_budget.py` where tiers share."""

    law: ScalingLaw
    delays: ServeDelays
    gpus: int
    lend_share: float
    reasons: dict[Tier, str] = field(default_factory=dict)

    def targets(self, tiers: Mapping[Tier, TierState], now_s: float) -> Mapping[Tier, int]:
        wishes: dict[Tier, TierWish] = {}
        reports = {tier: _reports(state, now_s) for tier, state in tiers.items()}
        for tier, state in tiers.items():
            decision = self._decide(tier, state, reports)
            self.reasons[tier] = decision.reason
            wishes[tier] = TierWish(
                wanted=decision.replicas,
                target=state.target,
                minimum=self.delays.config.min_replicas,
            )
        shares = share_gpus(wishes, gpus=self.gpus)
        return {
            tier: self.delays.apply(tier, share.replicas, tiers[tier].target, now_s)
            for tier, share in shares.items()
        }

    def _decide(
        self, tier: Tier, state: TierState, reports: Mapping[Tier, Sequence[ReplicaLoad]]
    ) -> Decision:
        others = [
            spare_load(others, lend_share=self.lend_share, stale_after_s=self.law.stale_after_s)
            for other, others in reports.items()
            if other is not tier
        ]
        return desired_replicas(
            reports[tier],
            self.law,
            replicas_target=state.target,
            replicas_running=len(reports[tier]),
            lent_load=next(iter(others), None),
        )


def _reports(state: TierState, now_s: float) -> list[ReplicaLoad]:
    serving = state.serving(now_s)
    return [_report(replica, state, len(serving), now_s) for replica in serving]


def _report(replica: Replica, state: TierState, serving: int, now_s: float) -> ReplicaLoad:
    """The tier's line stands at the gates of its replicas, each with its part."""
    queued_s = sum(replica.work_s(request.limit) for request in state.line) / serving
    return ReplicaLoad(
        running=replica.running - replica.borrowed,
        queue_depth=len(state.line) / serving + replica.waiting_in_engine,
        slots=replica.slots,
        arriving_load=replica.arrivals.load(now_s),
        queued_s=queued_s + replica.waiting_in_engine * replica.typical_s,
        typical_s=replica.typical_s,
        token_s=replica.model.token_s(replica.slots),
        age_s=0.0,
        fallback=replica.card != state.plan.preference[0],
    )


@dataclass(slots=True)
class RayDefault:
    """Serve's own function on ongoing requests, as it sees them with the line included."""

    delays: ServeDelays
    _seen: dict[Tier, deque[tuple[float, int]]] = field(default_factory=dict)

    def targets(self, tiers: Mapping[Tier, TierState], now_s: float) -> Mapping[Tier, int]:
        return {tier: self._target(tier, state, now_s) for tier, state in tiers.items()}

    def _target(self, tier: Tier, state: TierState, now_s: float) -> int:
        serving = state.serving(now_s)
        ongoing = len(state.line) + sum(replica.running for replica in serving)
        seen = self._seen.setdefault(tier, deque())
        seen.append((now_s, ongoing))
        while seen[0][0] < now_s - self.delays.config.look_back_period_s:
            seen.popleft()
        mean = sum(count for _, count in seen) / len(seen)
        wish, _ = replica_queue_length_autoscaling_policy(
            _context(tier, len(serving), state.target, mean, self.delays.config, now_s)
        )
        return self.delays.apply(tier, wish, state.target, now_s)


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
    _waiting: dict[Tier, tuple[float, int]] = field(default_factory=dict)
    _wishes: dict[Tier, deque[tuple[float, int]]] = field(default_factory=dict)
    _synced_s: dict[Tier, float] = field(default_factory=dict)

    def targets(self, tiers: Mapping[Tier, TierState], now_s: float) -> Mapping[Tier, int]:
        return {tier: self._target(tier, state, now_s) for tier, state in tiers.items()}

    def _target(self, tier: Tier, state: TierState, now_s: float) -> int:
        read_s, waiting = self._waiting.get(tier, (-math.inf, 0))
        if now_s - read_s >= self.poll_s:
            in_engine = sum(replica.waiting_in_engine for replica in state.serving(now_s))
            waiting = len(state.line) + in_engine
            self._waiting[tier] = (now_s, waiting)
        if now_s - self._synced_s.get(tier, -math.inf) < self.sync_s:
            return state.target
        self._synced_s[tier] = now_s
        ratio = waiting / (self.threshold * max(1, state.target))
        wish = state.target if abs(ratio - 1) <= 0.1 else math.ceil(waiting / self.threshold)
        wish = min(max(wish, self.minimum), self.maximum)
        wishes = self._wishes.setdefault(tier, deque())
        wishes.append((now_s, wish))
        while wishes[0][0] < now_s - self.stabilisation_s:
            wishes.popleft()
        # Not above what runs for the sake of an old wish: stabilisation only slows the way down.
        return max(wish, min(state.target, max(past for _, past in wishes)))
