"""Serve's autoscaling hook: translate Ray's context, ask `core/scaling/desired_replicas.py` and
`core/scaling/gpu_budget.py`, translate back. Nothing is decided here."""

import logging
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from ray.serve.config import AutoscalingContext

from serve_app.autoscaling import decision_store, gpu_pool
from serve_app.config.scaling import ScalingConfig, SloConfig
from serve_app.core.placement.token_cost import give_back_reason
from serve_app.core.scaling.decision_record import ScalingRecord, record_decision
from serve_app.core.scaling.desired_replicas import (
    Decision,
    ScalingSettings,
    desired_replicas,
    spare_load,
)
from serve_app.core.scaling.gpu_budget import GpuDemand, allocate_gpus
from serve_app.core.scaling.scaling_memory import ScalingMemory
from serve_app.core.scaling.slo_capacity import Slo
from serve_app.core.scaling.tier_demand import ReplicaLoad
from serve_app.core.tiers import Tier

log = logging.getLogger("ray.serve")

# The newest figures are shown this often; a change is written at once.
SHOW_EVERY_S = 2.0
# Of each replica's report, by the names that `core/scaling` has for them.
FIGURES = tuple(
    figure.name for figure in fields(ReplicaLoad) if figure.name not in ("age_s", "fallback")
)
POLICY_FIGURES = ("drain_within_s", "utilisation_down", "least_hold_s", "most_hold_s")


def scale_on_queue_depth(context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
    """Replicas wanted, and the record of decisions, which Serve keeps as the policy's state."""
    tier, now_s = Tier(context.app_name), context.current_time or 0.0
    state = context.policy_state or {}
    newest = _newest(context)
    reports, settings = _reports(newest, now_s), _settings(newest)
    lend_share = min((point.value for point in newest.get("lend_share", {}).values()), default=0.0)
    spare = spare_load(reports, settings, lend_share=lend_share)
    decision = desired_replicas(
        reports,
        settings,
        now_s=now_s,
        memory=state.get("memory") or ScalingMemory(),
        replicas_target=context.target_num_replicas,
        replicas_running=len(context.running_replicas or ()),
        lent_load=gpu_pool.POOL.borrowable(tier, spare, now_s),
        borrower=gpu_pool.POOL.borrower(tier, now_s),
        lend_share=lend_share,
        to_zero=context.capacity_adjusted_min_replicas == 0,
    )
    gpu_pool.POOL.note_need(tier, decision.need, now_s)
    decision = _within_budget(tier, decision, context, newest, lend_share)
    costs = [point.value for point in newest.get("times_token_cost", {}).values()]
    if decision.replicas < context.target_num_replicas and (dearer := give_back_reason(costs)):
        decision = replace(decision, reason=f"{decision.reason}; {dearer}")
    record = record_decision(
        state.get("record"),
        ScalingRecord(
            at_s=now_s,
            replicas_target=context.target_num_replicas,
            replicas_wanted=decision.replicas,
            reason=decision.reason,
            inputs=decision.inputs,
        ),
        held=decision.held,
    )
    shown_s = _show(tier, context, record)
    return decision.replicas, {"record": record, "shown_s": shown_s, "memory": decision.memory}


def _newest(context: AutoscalingContext) -> dict[str, dict[Any, Any]]:
    """The last point of each figure, by figure and replica."""
    return {
        name: {replica: points[-1] for replica, points in by_replica.items() if points}
        for name, by_replica in (context.raw_metrics or {}).items()
    }


def _reports(newest: Mapping[str, Mapping[Any, Any]], now_s: float) -> list[ReplicaLoad]:
    """Of the replicas that report every figure."""
    complete = set.intersection(*(set(newest.get(name, {})) for name in (*FIGURES, "fallback")))
    return [
        ReplicaLoad(
            **{name: newest[name][replica].value for name in FIGURES},
            fallback=newest["fallback"][replica].value > 0,
            age_s=now_s - newest["queue_depth"][replica].timestamp,
        )
        for replica in complete
    ]


def _settings(newest: Mapping[str, Mapping[Any, Any]]) -> ScalingSettings:
    """The tier's live settings, as its replicas report them: Serve gives a policy none that could
    change without new replicas. The longest start counts."""

    def reported(name: str) -> float | None:
        return max((point.value for point in newest.get(f"law_{name}", {}).values()), default=None)

    slo = SloConfig()
    return ScalingSettings(
        start_s=reported("start_s") or 0.0,
        slo=Slo(
            ttft_s=reported("slo_ttft_s") or slo.ttft_s,
            tpot_s=reported("slo_tpot_s") or slo.tpot_s,
            goodput=reported("goodput") or ScalingConfig().goodput,
        ),
        **{name: value for name in POLICY_FIGURES if (value := reported(name)) is not None},
    )


def _within_budget(
    tier: Tier,
    decision: Decision,
    context: AutoscalingContext,
    newest: Mapping[str, Mapping[Any, Any]],
    lend_share: float,
) -> Decision:
    """The decision within the tier's bounds and its part of the cluster's GPUs. On a cluster
    without GPUs, and for a tier whose replicas hold none, there is nothing to share."""
    now_s = context.current_time or 0.0
    least, most = context.capacity_adjusted_min_replicas, context.capacity_adjusted_max_replicas
    wanted = min(max(decision.replicas, least), most)
    pool = gpu_pool.POOL
    reported = [point.value for point in newest.get("gpus", {}).values()]
    gpus, per_replica = pool.gpus(now_s), pool.gpus_per_replica(tier, reported)
    if not gpus or not per_replica:
        return replace(decision, replicas=wanted)
    pool.prestart_workers(now_s)
    demand = GpuDemand(
        wanted=wanted,
        target=context.target_num_replicas,
        minimum=least,
        gpus_per_replica=per_replica,
        needed=decision.needed,
        hold_s=decision.hold_s,
        starting=max(0, context.target_num_replicas - len(context.running_replicas or ())),
    )
    demands = pool.demands(tier, demand, now_s)
    kept = pool.kept(demands, now_s, lend_share=lend_share)
    share = allocate_gpus(demands, gpus=gpus, kept=kept)[tier]
    reason = f"{decision.reason}; {share.reason}" if share.reason else decision.reason
    return replace(decision, replicas=share.replicas, reason=reason)


def _show(tier: Tier, context: AutoscalingContext, record: ScalingRecord) -> float:
    """Log a change, and leave the record for `/api/tiers`; when that was done last."""
    state = context.policy_state or {}
    previous, shown_s = state.get("record"), state.get("shown_s", 0.0)
    known = previous.decisions_total if previous is not None else 0
    if record.decisions_total > known:
        log.info(
            "scale %s from %d to %d: %s",
            tier,
            record.replicas_target,
            record.replicas_wanted,
            record.reason,
        )
    elif record.at_s - shown_s < SHOW_EVERY_S:
        return shown_s
    decision_store.write_record(tier, record)
    return record.at_s
