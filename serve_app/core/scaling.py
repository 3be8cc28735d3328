"""How many replicas a tier needs: enough slots for what runs and what waits."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Exactly full replicas are enough: 21 over 0.7 slots is 30.000000000000004 in floating point.
ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class ReplicaLoad:
    """What one replica reports: sequences that run, requests that wait, slots it has."""

    running: float
    queue_depth: float
    slots: float
    age_s: float


@dataclass(frozen=True, slots=True)
class Decision:
    replicas: int
    reason: str


def desired_replicas(
    reports: Sequence[ReplicaLoad],
    *,
    replicas_target: int,
    replicas_running: int,
    stale_after_s: float,
    headroom_ratio: float,
) -> Decision:
    """Demand (running + queue depth) over the slots of a replica, with headroom.

    Reports that are missing or older than `stale_after_s` never read as zero: unless every running
    replica reports, the count may rise but not fall. A replica that is starting is part of
    `replicas_target` and reports nothing, so it counts as capacity to come.
    """
    fresh = [report for report in reports if report.age_s <= stale_after_s and report.slots > 0]
    if not fresh:
        return Decision(replicas_target, "no fresh report: hold")
    running = sum(report.running for report in fresh)
    depth = sum(report.queue_depth for report in fresh)
    slots = sum(report.slots for report in fresh) / len(fresh)
    usable_slots = slots * (1 - headroom_ratio)
    wanted = max(1, math.ceil((running + depth) / usable_slots - ROUNDING))
    reason = f"running {running:g} + queue depth {depth:g} over {slots:g} slots a replica"
    if wanted < replicas_target and len(fresh) < replicas_running:
        missing = replicas_running - len(fresh)
        return Decision(replicas_target, f"{reason}; {missing} replicas do not report: hold")
    if wanted > replicas_target and depth == 0:
        return Decision(replicas_target, f"{reason}; nothing waits: hold")
    return Decision(wanted, reason)
