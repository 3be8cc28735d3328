"""The policies that are compared: each gives a tier's target from what it may know then."""

import warnings
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ray.serve.autoscaling_policy import (
    _apply_delay_logic,
    _apply_scaling_factors,
    replica_queue_length_autoscaling_policy,
)
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from loadtest.simulation.setup import Setup
from loadtest.simulation.tier_state import TierState
from serve_app.core.tiers import Tier


@dataclass(slots=True)
class ServeDelays:
    """Serve's own bounds and delays around a policy, with the simulation's clock."""

    config: AutoscalingConfig
    _state: dict[Tier, dict[str, Any]] = field(default_factory=dict)

    def apply(self, tier: Tier, desired: float, target: int, now_s: float) -> int:
        scaled = _apply_scaling_factors(desired, max(target, 1), self.config)
        state = self._state.setdefault(tier, {})
        chosen, _ = _apply_delay_logic(max(0, scaled), target, self.config, state, now_s)
        return min(max(chosen, self.config.min_replicas), self.config.max_replicas)


def serve_config(
    setup: Setup,
    downscale_delay_s: float,
    look_back_s: float,
    target: float = 2,
    unit: float = 1.0,
) -> AutoscalingConfig:
    """Serve's settings for a tier of this cluster; `unit` as in `Ours`."""
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


@dataclass(slots=True)
class RayDefault:
    """Serve's own function on ongoing requests, as it sees them with the queue included."""

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
        desired, _ = replica_queue_length_autoscaling_policy(
            _context(tier, serving, target, mean, self.delays.config, now_s)
        )
        return self.delays.apply(tier, desired, target, now_s)


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
