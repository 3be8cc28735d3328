"""The doctor's report for people, and its exit status for scripts."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from serve_app.core.placement.diagnosis import Finding, Severity
from serve_app.core.placement.labels import UNLABELLED, in_words
from serve_app.core.placement.nodes import NodeView
from serve_app.doctor.report import Report, TierReport, diagnose_cluster
from serve_app.local.serve_api import ServeApiError
from serve_app.nvidia import DriverGpu

GIB = 1024**3
ALL_RUNS, SOMETHING_CANNOT, CANNOT_LOOK = 0, 1, 2
_STYLES = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.INFO: "dim"}


def doctor(
    profile: str | None,
    address: str | None,
    *,
    port: int | None = None,
    as_json: bool,
    console: Console,
) -> int:
    """Look, print, and return 0 (everything requested can run) or 1 (something cannot).

    Raises ServeApiError where a cluster that was named does not answer, and ValueError for a
    profile, a port or a setting that is not valid; with `as_json` they are printed, and 2 returned.
    """
    try:
        report = diagnose_cluster(profile, address, port=port)
    except (ServeApiError, ValueError) as error:
        if not as_json:
            raise
        console.print_json(json.dumps({"status": "cannot look", "error": str(error)}))
        return CANNOT_LOOK
    if as_json:
        console.out(json.dumps(report.as_json(), indent=2), highlight=False)
    else:
        _print(report, console)
    return ALL_RUNS if report.status == "ok" else SOMETHING_CANNOT


def _print(report: Report, console: Console) -> None:
    where = _where(report)
    what = f"profile {report.profile}" if report.profile else "what is deployed on it"
    console.print(f"{where}, and {what}.\n", highlight=False, markup=False)
    console.print(_nodes_table(report))
    for tier in report.tiers:
        for sentence in (*_tier_sentences(tier, report.findings), *_now(tier, report)):
            console.print(sentence, highlight=False, markup=False, soft_wrap=True)
    console.print()
    for finding in report.findings:
        console.print(
            f"{finding.severity}: {finding.sentence}",
            style=_STYLES[finding.severity],
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        if finding.remedy:
            remedy = f"  To do: {finding.remedy}."
            console.print(remedy, highlight=False, markup=False, soft_wrap=True)
    if report.status == "ok":
        console.print("Everything that is requested can run.", style="green", highlight=False)


def _where(report: Report) -> str:
    if report.service is not None:
        return f"The service at {report.service.base_url} (process {report.service.pid})"
    return f"The Ray cluster at {report.view.source}" if report.view.source else "This machine"


def _nodes_table(report: Report) -> Table:
    table = Table(collapse_padding=True)
    # Findings name nodes and types: neither is ever cut.
    for whole in ("node", "type"):
        table.add_column(whole, no_wrap=True, overflow="ignore")
    for column in ("GPUs (free)", "CPUs (free)", "GPU, memory, driver", "memory"):
        table.add_column(column)
    for node in report.view.nodes:
        table.add_row(
            node.name,
            node.accelerator_type or ("no label" if node.gpus else "-"),
            _gpus(node),
            f"{node.cpus:g} ({node.cpus_free:g})",
            "\n".join(map(_gpu_text, report.view.gpus.get(node.name, []))) or "-",
            _memory(node),
        )
    return table


def _gpus(node: NodeView) -> str:
    holders = [f"{who}: {gpus:g}" for who, gpus in sorted(node.gpu_holders.items())]
    return "\n".join([f"{node.gpus:g} ({node.gpus_free:g})", *holders])


def _gpu_text(gpu: DriverGpu) -> str:
    memory = f", {gpu.memory_bytes / GIB:.1f} GiB" if gpu.memory_bytes else ""
    driver = f", {gpu.driver}" if gpu.driver else ""
    return f"{gpu.name}{memory}{driver}"


def _memory(node: NodeView) -> str:
    return "-" if node.memory_bytes == float("inf") else f"{node.memory_bytes / GIB:.0f} GiB"


def _tier_sentences(tier: TierReport, findings: list[Finding]) -> Iterator[str]:
    request = tier.deployment.request
    selected = " or else ".join(in_words(s) for s in request.selectors) or (
        "any GPU" if request.gpus else "any node"
    )
    of_gpu = f"{request.gpus:g} GPU and " if request.gpus else ""
    yield f"{request.name}: requests {request.target} x {of_gpu}{request.cpus:g} CPU on {selected}."
    if tier.cheapest_order is not None:
        yield f"  the cheapest token first: {tier.cheapest_order.reason} (derived)."
    if request.placed:
        yield f"  {request.placed} placed."
    for place in tier.places:
        gpu = f" ({place.accelerator_type})" if place.accelerator_type and request.gpus else ""
        second = f", choice {place.choice}" if place.choice > 1 else ""
        yield f"  will be placed on {place.node}{gpu}{second}"
    for name, gpu in tier.gpus.items():
        if gpu.fits is False:
            continue
        limits = f" {gpu.slots} run at once, {gpu.max_queued_requests} may wait (derived)."
        yield f"  on {name or UNLABELLED}: {gpu.reason}.{limits if gpu.slots else ''}"
    if not tier.places and not request.placed and not any(f.tier == request.name for f in findings):
        yield "  nothing is requested now."


def _now(tier: TierReport, report: Report) -> Iterator[str]:
    """What a running service reports of the tier."""
    for reported in report.reported or []:
        if reported.get("tier") != tier.deployment.request.name:
            continue
        replicas = reported.get("replicas") or []
        gpus = sorted({gpu for replica in replicas if (gpu := _gpu_of(replica))})
        yield (
            f"  now: {'ready' if reported.get('ready') else 'not ready'}, "
            f"{_known(reported.get('running'))} of {_known(reported.get('slots'))} slots in use, "
            f"queue depth {_known(reported.get('queue_depth'))}"
            f"{', on ' + ', '.join(gpus) if gpus else ''}"
        )


def _gpu_of(replica: Mapping[str, Any]) -> str:
    gpus = ", ".join(str(gpu) for gpu in replica.get("gpu_ids") or [])
    return f"{replica.get('accelerator_type') or 'GPU'} ({gpus})" if gpus else ""


def _known(value: object) -> str:
    return "an unknown number" if value is None else str(value)
