"""`report.html`: a run in one file that a person can read, and its pictures beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from loadtest.client.record import Record
from loadtest.load import plots
from loadtest.load.summary import ALL, latencies
from loadtest.report.pages import inline, render
from loadtest.scenario import Scenario

NAME = "report.html"
PANELS = (
    ("TTFT: sent to first token", "ttft_s", "ttft"),
    ("TTFO: sent to first token of the answer", "ttfo_s", "ttfo"),
    ("E2E: sent to last token", "e2e_s", "e2e"),
    ("TPOT: mean time of a token after the first", "tpot_s", "tpot"),
)
ITL_PANEL = "ITL: gaps between chunks"
OWN_PANEL = "the generator itself"
LATENCY_ROWS = (
    ("TTFT", "ttft_s"),
    ("TTFO (first answer token)", "ttfo_s"),
    ("ITL", "itl_s"),
    ("TPOT", "tpot_s"),
    ("E2E", "e2e_s"),
)


# Times of an answer, and of a token: what lies side by side is compared.
ONE_SCALE = (
    tuple(title for title, _, name in PANELS if name != "tpot"),
    (*(title for title, _, name in PANELS if name == "tpot"), ITL_PANEL),
)


@dataclass(frozen=True, slots=True)
class DrawnReport:
    """The files of a report's pictures, and in sentences what panels without anything to show would
    have shown: of the run, and of what the server reports."""

    pictures: Sequence[str]
    remarks: Sequence[str] = ()
    server_remarks: Sequence[str] = ()


def draw(
    folder: Path,
    records: Sequence[Record],
    scenario: Scenario,
    timeline: Mapping[str, Any],
    lag_s: Sequence[float],
) -> DrawnReport:
    """The pictures, as files of the folder."""
    has_latency = plots.distributions(
        _panels(records, lag_s),
        folder / "latency.png",
        limits_s=_limits(records, scenario),
        one_scale=ONE_SCALE,
    )
    remarks = plots.timeline(timeline, folder / "timeline.png")
    has_server, server_remarks = plots.server(timeline, folder / "server.png")
    drawn = {"latency.png": has_latency, "timeline.png": True, "server.png": has_server}
    return DrawnReport(
        [name for name, is_there in drawn.items() if is_there], remarks, server_remarks
    )


def write(folder: Path, document: Mapping[str, Any], drawn: DrawnReport) -> Path:
    page = render(
        "report.html.j2",
        run=document,
        all_name=ALL,
        latency_rows=LATENCY_ROWS,
        pictures={name: inline(folder / name) for name in drawn.pictures},
        remarks=drawn.remarks,
        server_remarks=drawn.server_remarks,
    )
    path = folder / NAME
    path.write_text(page, encoding="utf-8")
    return path


def _panels(records: Sequence[Record], lag_s: Sequence[float]) -> dict[str, plots.Series]:
    counted = [record for record in records if record.counts]
    served = {
        tier: [r for r in counted if r.tier == tier and r.served]
        for tier in sorted({record.tier for record in counted})
    }
    panels: dict[str, plots.Series] = {
        title: {tier: latencies(group, key) for tier, group in served.items()}
        for title, key, _ in PANELS
    }
    panels[ITL_PANEL] = {
        tier: list(chain.from_iterable(record.itl_s for record in group))
        for tier, group in served.items()
    }
    late_s = [record.late_s for record in counted if record.late_s is not None]
    panels[OWN_PANEL] = {"sent late": late_s, "event loop late": lag_s}
    return panels


def _limits(records: Sequence[Record], scenario: Scenario) -> dict[str, dict[str, float]]:
    """SLOs by panel and tier; of several loads of a tier the strictest."""
    limits: dict[str, dict[str, float]] = {}
    for title, _, name in PANELS:
        for record_load, tier in sorted({(record.load, record.tier) for record in records}):
            slo = scenario.slo_of(scenario.loads[record_load])
            limit_s = getattr(slo, name, None)
            if limit_s:
                of_panel = limits.setdefault(title, {})
                of_panel[tier] = min(limit_s, of_panel.get(tier, limit_s))
    return limits
