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
from serve_app.nvidia import DriverCard

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
        console.print("All that is asked for can run.", style="green", highlight=False)


def _where(report: Report) -> str:
    if report.service is not None:
        return f"The service at {report.service.base_url} (process {report.service.pid})"
    return f"The Ray cluster at {report.view.source}" if report.view.source else "This machine"


def _nodes_table(report: Report) -> Table:
    table = Table(collapse_padding=True)
    # Findings name nodes and types: neither is ever cut.
    for whole in ("node", "type"):
        table.add_column(whole, no_wrap=True, overflow="ignore")
    for column in ("GPUs (free)", "CPUs (free)", "card, memory, driver", "memory"):
        table.add_column(column)
    for node in report.view.nodes:
        table.add_row(
            node.name,
            node.accelerator_type or ("no label" if node.gpus else "-"),
            _gpus(node),
            f"{node.cpus:g} ({node.cpus_free:g})",
            "\n".join(map(_card_in_words, report.view.cards.get(node.name, []))) or "-",
            _memory(node),
        )
    return table


def _gpus(node: NodeView) -> str:
    held = [f"{who}: {gpus:g}" for who, gpus in sorted(node.gpu_holders.items())]
    return "\n".join([f"{node.gpus:g} ({node.gpus_free:g})", *held])


def _card_in_words(card: DriverCard) -> str:
    memory = f", {card.memory_bytes / GIB:.1f} GiB" if card.memory_bytes else ""
    driver = f", {card.driver}" if card.driver else ""
    return f"{card.name}{memory}{driver}"


def _memory(node: NodeView) -> str:
    return "-" if node.memory_bytes == float("inf") else f"{node.memory_bytes / GIB:.0f} GiB"


def _tier_sentences(tier: TierReport, findings: list[Finding]) -> Iterator[str]:
    wish = tier.asked.wish
    wants = " or else ".join(in_words(s) for s in wish.selectors) or (
        "any GPU" if wish.gpus else "any node"
    )
    of_gpu = f"{wish.gpus:g} GPU and " if wish.gpus else ""
    yield f"{wish.name}: wants {wish.target} x {of_gpu}{wish.cpus:g} CPU on {wants}."
    if tier.cheapest_order is not None:
        yield f"  the cheapest token first: {tier.cheapest_order.reason} (derived)."
    if wish.placed:
        yield f"  {wish.placed} placed."
    for place in tier.places:
        card = f" ({place.accelerator_type})" if place.accelerator_type and wish.gpus else ""
        second = f", choice number {place.choice}" if place.choice > 1 else ""
        yield f"  gets a place on {place.node}{card}{second}"
    for name, card in tier.cards.items():
        if card.fits is False:
            continue
        limits = f" {card.slots} run at once, {card.max_queued_requests} may wait (derived)."
        yield f"  on {name or UNLABELLED}: {card.reason}.{limits if card.slots else ''}"
    if not tier.places and not wish.placed and not any(f.tier == wish.name for f in findings):
        yield "  nothing is asked for now."


def _now(tier: TierReport, report: Report) -> Iterator[str]:
    """What a running service reports of the tier."""
    for told in report.reported or []:
        if told.get("tier") != tier.asked.wish.name:
            continue
        replicas = told.get("replicas") or []
        cards = sorted({card for replica in replicas if (card := _card_of(replica))})
        yield (
            f"  now: {'ready' if told.get('ready') else 'not ready'}, "
            f"{_known(told.get('running'))} of {_known(told.get('slots'))} slots in use, "
            f"queue depth {_known(told.get('queue_depth'))}"
            f"{', on ' + ', '.join(cards) if cards else ''}"
        )


def _card_of(replica: Mapping[str, Any]) -> str:
    gpus = ", ".join(str(gpu) for gpu in replica.get("gpu_ids") or [])
    return f"{replica.get('accelerator_type') or 'GPU'} ({gpus})" if gpus else ""


def _known(value: object) -> str:
    return "an unknown number" if value is None else str(value)
