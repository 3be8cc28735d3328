"""Judges a soak's folder, and writes what was found: `soak.json`, two pictures and one HTML file
that needs nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from loadtest.report.pages import inline, render
from loadtest.report.pictures import COLORS, INK, LEGEND, SMALL, make_figure, save
from loadtest.report.results_file import write
from loadtest.soak.judge import judge
from loadtest.soak.observations import Observations, read
from loadtest.soak.plan import HOUR_S
from loadtest.soak.verdicts import Row, Verdict, overall

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RESULT, PAGE = "soak.json", "soak.html"
PICTURES = ("held.png", "seen.png")
STYLES = {Verdict.PASS: "green", Verdict.FAIL: "bold red", Verdict.SHORT: "yellow"}
# Above it the times that the soak took are partly its own.
MOST_LAG_S = 0.1


def finish(path: Path, console: Console) -> int:
    """Write and show it; 0 if nothing failed, else 1. Raises UserError."""
    observed = read(path)
    rows = judge(path, observed)
    document = summary(observed, rows)
    write(path / RESULT, document)
    draw_seen(observed, path / PICTURES[1])
    shown = [PICTURES[1]]
    if draw_held(observed, path / PICTURES[0]):
        shown.insert(0, PICTURES[0])
    page = render(
        "soak.html.j2",
        run=document,
        faults=observed.faults,
        pictures={name: inline(path / name) for name in shown},
    )
    (path / PAGE).write_text(page, encoding="utf-8")
    _show(document, rows, console)
    console.print(f"wrote {path / PAGE}", highlight=False, soft_wrap=True)
    return 1 if document["verdict"] == Verdict.FAIL else 0


def summary(observed: Observations, rows: Sequence[Row]) -> dict[str, Any]:
    """What `soak.json` holds: no word of it is not in the folder's lines."""
    lag_s = np.asarray(observed.scalars.get("lag_s", ()))
    late_s = float(np.nanpercentile(lag_s, 95)) if len(lag_s) else 0.0
    calibration: Mapping[str, Any] = observed.events.get("calibration", {})
    return {
        "verdict": overall(rows).value,
        "sentence": _sentence(rows),
        "meta": {key: value for key, value in observed.meta.items() if key != "scenario"},
        "soaked_s": round(observed.at_s[-1] if observed.at_s else 0.0, 1),
        "baselines": len(observed.baselines),
        "capacity_per_s": calibration.get("capacity_per_s"),
        "rates_per_s": calibration.get("rates_per_s"),
        "requests": dict(observed.ended),
        "wrong": len(observed.wrong),
        "loop_lag_p95_s": round(late_s, 4),
        "own_delay": late_s > MOST_LAG_S,
        "rows": [asdict(row) for row in rows],
    }


def _sentence(rows: Sequence[Row]) -> str:
    verdict = overall(rows)
    if verdict is Verdict.PASS:
        return "Everything passed."
    found = [row.name for row in rows if row.verdict is verdict]
    if verdict is Verdict.FAIL:
        return f"Failed: {', '.join(found)}."
    groups = list(dict.fromkeys(row.group for row in rows if row.verdict is verdict))
    return f"Nothing failed; too short to tell: {', '.join(groups)} ({len(found)} rows)."


def _show(document: Mapping[str, Any], rows: Sequence[Row], console: Console) -> None:
    title = f"Soak of {document['soaked_s'] / 60:.0f} minutes"
    if console.is_terminal:
        console.print(_table(title, rows))
    else:
        lines = (
            f"{row.verdict:17}  {row.name}: {row.value}"
            + (f"; limit {row.limit}" if row.limit else "")
            + (f" ({row.reason})" if row.reason else "")
            for row in rows
        )
        text = "\n".join([title, *lines])
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    console.print(
        document["sentence"],
        style=STYLES.get(Verdict(document["verdict"])),
        highlight=False,
        soft_wrap=True,
    )
    if document["own_delay"]:
        console.print(
            f"The generator was late by {document['loop_lag_p95_s'] * 1e3:.0f} ms (p95 of the "
            "samples' largest): latencies include its own delay.",
            style="yellow",
            highlight=False,
            soft_wrap=True,
        )


def _table(title: str, rows: Sequence[Row]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in ("", "value", "limit", "verdict", "reason"):
        table.add_column(name, overflow="fold")
    for before, row in zip((rows[0], *rows), rows, strict=False):
        if row.group != before.group:
            table.add_section()
        style = STYLES.get(row.verdict)
        verdict = f"[{style}]{row.verdict}[/]" if style else row.verdict.value
        value, limit, reason = map(escape, (row.value, row.limit, row.reason))
        table.add_row(row.name, value, limit, verdict, reason)
    return table


MIB = 2**20
MOST_BINS = 240
LEAST_BIN_S = 5.0
# Below this a role is drawn as one of "the others".
DRAWN_ROLES = 6
SHADE, WRONG = "#F3E3C2", "#D55E00"


def draw_held(observed: Observations, path: Path) -> bool:
    """Memory, handles and threads by role; False of a server whose processes are not seen."""
    if not observed.roles:
        return False
    figure = make_figure(12.0, 9.0)
    axes = figure.subplots(4, 1, sharex=True)
    panels = (
        ("memory (PSS), MiB", "memory_bytes", MIB),
        ("file handles", "handles", 1),
        ("threads", "threads", 1),
        ("processes", "count", 1),
    )
    at, unit = _axis_of(observed)
    for axis, (title, key, per) in zip(axes, panels, strict=True):
        axis.set_title(title, **SMALL)
        for (role, values), color in zip(
            _largest(observed, key).items(), (*COLORS, INK), strict=False
        ):
            axis.plot(at, np.asarray(values) / per, color=color, linewidth=1.3, label=role)
    axes[0].legend(loc="upper left", ncols=4, **LEGEND)
    _finish(axes, observed, unit)
    save(figure, path)
    return True


def draw_seen(observed: Observations, path: Path) -> None:
    """TTFT, how requests ended, and what the tiers reported of themselves."""
    figure = make_figure(12.0, 9.0)
    axes = figure.subplots(5, 1, sharex=True)
    latency, ends, running, series, logs = axes
    _, unit = _axis_of(observed)
    latency.set_title("TTFT of plain streams, ms (line: p50, dotted: p95)", **SMALL)
    ends.set_title("requests a second: served, refused (dashed), wrong (crosses)", **SMALL)
    running.set_title("running, and queue depth (dotted), as the tiers report", **SMALL)
    series.set_title("series of GET /metrics", **SMALL)
    logs.set_title("Ray's session folder, and shared memory (dotted), MiB", **SMALL)
    for tier, color in zip(sorted(observed.tiers), COLORS, strict=False):
        _draw_tier(observed, tier, color, latency, ends, running)
    wrong = [each.ended_s / unit for each in observed.wrong]
    foot = ends.get_xaxis_transform()
    ends.plot(wrong, [0.06] * len(wrong), "x", color=WRONG, markersize=5, transform=foot)
    at, _ = _axis_of(observed)
    series.plot(at, observed.scalars["series"], color=INK, linewidth=1.3)
    for key, style in (("session_bytes", "-"), ("shared_memory_bytes", ":")):
        logs.plot(at, np.asarray(observed.scalars[key]) / MIB, color=INK, linestyle=style)
    _whole_decades(latency)
    latency.legend(loc="upper left", ncols=2, **LEGEND)
    _finish(axes, observed, unit)
    save(figure, path)


def _whole_decades(axis: "Axes") -> None:
    """A burst's times are a hundred times a quiet hour's."""
    from matplotlib.ticker import NullFormatter

    values = np.concatenate([(), *(line.get_ydata() for line in axis.lines)])
    values = values[np.isfinite(values) & (values > 0)]
    if not len(values):
        return
    axis.set_yscale("log")
    low, high = np.floor(np.log10(values.min())), np.ceil(np.log10(values.max() * 1.01))
    axis.set_ylim(10**low, 10**high)
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())


def _draw_tier(
    observed: Observations, tier: str, color: str, latency: "Axes", ends: "Axes", running: "Axes"
) -> None:
    at, unit = _axis_of(observed)
    edges = _edges(observed)
    middle = (edges[:-1] + edges[1:]) / 2 / unit
    sent_s, ttft_s = observed.ttft.get(tier, ((), ()))
    for percent, style, name in ((50, "-", tier), (95, ":", None)):
        values = 1e3 * _in_bins(sent_s, ttft_s, edges, percent)
        latency.plot(middle, values, color=color, linestyle=style, linewidth=1.3, label=name)
    for times, style in ((observed.served_at_s, "-"), (observed.refused_at_s, "--")):
        per_s = np.histogram(times.get(tier, ()), edges)[0] / np.diff(edges)
        ends.plot(middle, per_s, color=color, linestyle=style, linewidth=1.3)
    for key, style in (("running", "-"), ("queue_depth", ":")):
        running.plot(at, observed.tiers[tier][key], color=color, linestyle=style, linewidth=1.2)


def _in_bins(at_s: Any, values: Any, edges: Any, percent: int) -> Any:
    """A percentile of each bin; nan of an empty one."""
    places = np.searchsorted(edges, at_s, side="right") - 1
    order = np.argsort(places, kind="stable")
    observed = np.asarray(values, dtype=float)[order]
    cuts = np.searchsorted(places[order], np.arange(len(edges)))
    return np.array(
        [np.percentile(observed[a:b], percent) if b > a else np.nan for a, b in pairwise(cuts)]
    )


def _edges(observed: Observations) -> Any:
    end_s = max([*observed.at_s[-1:], 1.0])
    width_s = max(LEAST_BIN_S, end_s / MOST_BINS)
    return np.arange(0.0, end_s + width_s, width_s)


def _axis_of(observed: Observations) -> tuple[Any, float]:
    """Times of the samples in minutes or hours, and the seconds of one of these."""
    at_s = np.asarray(observed.at_s)
    unit = HOUR_S if len(at_s) and at_s[-1] > 2 * HOUR_S else 60.0
    return at_s / unit, unit


def _largest(observed: Observations, key: str) -> Mapping[str, Any]:
    """The same roles in each panel, by memory; the others summed."""
    by_memory = sorted(
        observed.roles, key=lambda role: -float(np.nanmax(observed.roles[role]["memory_bytes"]))
    )
    drawn = {role: observed.roles[role][key] for role in by_memory[:DRAWN_ROLES]}
    others = [
        np.nan_to_num(np.asarray(observed.roles[role][key])) for role in by_memory[DRAWN_ROLES:]
    ]
    return {**drawn, **({"the others": np.sum(others, axis=0)} if others else {})}


def _finish(axes: Sequence["Axes"], observed: Observations, unit: float) -> None:
    """Faults are shaded and named where there is room for the names."""
    last_s = observed.at_s[-1] if observed.at_s else 1.0
    for axis in axes:
        if axis.get_yscale() == "linear":
            axis.set_ylim(0, 1.2 * max(axis.get_ylim()[1], 1.0))
        for done in observed.faults:
            end_s = min(last_s, done.end_s)
            axis.axvspan(done.begin_s / unit, end_s / unit, color=SHADE, linewidth=0)
        axis.set_xlim(0, max(last_s, 1.0) / unit)
    if len(observed.faults) <= 2 * len(observed.meta["faults"]):
        for done in observed.faults:
            name = axes[-1].annotate(
                done.fault.name,
                (done.begin_s / unit, 0.97),
                xycoords=("data", "axes fraction"),
                rotation=90,
                va="top",
                ha="right",
                fontsize=7.5,
                color=INK,
            )
            # The text of a fault at the edge would else take the panels' room.
            name.set_in_layout(False)
    axes[-1].set_xlabel("hours" if unit == HOUR_S else "minutes", fontsize=9)
