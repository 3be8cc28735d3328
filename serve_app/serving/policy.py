"""Serve's autoscaling hook: translate Ray's context, ask `core/scaling.py`, translate back."""

import logging
from typing import Any

from ray.serve.config import AutoscalingContext

from serve_app.core.scaling import ReplicaLoad, desired_replicas

log = logging.getLogger("ray.serve")

STALE_AFTER_S = 5.0
HEADROOM_RATIO = 0.1


def scale_on_queue_depth(context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
    """Replicas wanted, and the decision, which Serve keeps as the policy's state."""
    now_s = context.current_time or 0.0
    decision = desired_replicas(
        _reports(context, now_s),
        replicas_target=context.target_num_replicas,
        replicas_running=len(context.running_replicas or ()),
        stale_after_s=STALE_AFTER_S,
        headroom_ratio=HEADROOM_RATIO,
    )
    # Serve keeps within its bounds afterwards, so a wish beyond them comes at each tick.
    previous = (context.policy_state or {}).get("replicas")
    if decision.replicas not in (context.target_num_replicas, previous):
        log.info("scale %s to %d: %s", context.app_name, decision.replicas, decision.reason)
    return decision.replicas, {"reason": decision.reason, "replicas": decision.replicas}


def _reports(context: AutoscalingContext, now_s: float) -> list[ReplicaLoad]:
    series = context.raw_metrics or {}
    newest = {
        name: {replica: points[-1] for replica, points in by_replica.items() if points}
        for name, by_replica in series.items()
    }
    return [
        ReplicaLoad(
            running=newest["running"][replica].value,
            queue_depth=point.value,
            slots=newest["slots"][replica].value,
            age_s=now_s - point.timestamp,
        )
        for replica, point in newest.get("queue_depth", {}).items()
        if replica in newest.get("running", {}) and replica in newest.get("slots", {})
    ]
