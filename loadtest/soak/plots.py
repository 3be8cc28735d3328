"""A soak's pictures: what its processes hold, and what its clients saw, with the faults marked."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from loadtest.evaluation.plots import INK
from loadtest.load.plots import COLORS, LEGEND, SMALL, make_figure, save
from loadtest.soak.plan import HOUR_S
from loadtest.soak.told import Told

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MIB = 2**20
MOST_BINS = 240
LEAST_BIN_S = 5.0
# Below this a role is drawn as one of "the others".
DRAWN_ROLES = 6
SHADE, WRONG = "#F3E3C2", "#D55E00"


def held(told: Told, path: Path) -> bool:
    """Memory, handles and threads by role; False of a server whose processes are not seen."""
    if not told.roles:
        return False
    figure = make_figure(12.0, 9.0)
    axes = figure.subplots(4, 1, sharex=True)
    panels = (
        ("memory (PSS), MiB", "memory_bytes", MIB),
        ("file handles", "handles", 1),
        ("threads", "threads", 1),
        ("processes", "count", 1),
    )
    at, unit = _axis_of(told)
    for axis, (title, key, per) in zip(axes, panels, strict=True):
        axis.set_title(title, **SMALL)
        for (role, values), color in zip(_largest(told, key).items(), _colors(), strict=False):
            axis.plot(at, np.asarray(values) / per, color=color, linewidth=1.3, label=role)
    axes[0].legend(loc="upper left", ncols=4, **LEGEND)
    _finish(axes, told, unit)
    save(figure, path)
    return True


def seen(told: Told, path: Path) -> None:
    """TTFT, how requests ended, and what the tiers told of themselves."""
    figure = make_figure(12.0, 9.0)
    axes = figure.subplots(5, 1, sharex=True)
    latency, ends, running, series, logs = axes
    _, unit = _axis_of(told)
    latency.set_title("TTFT of plain streams, ms (line: p50, dotted: p95)", **SMALL)
    ends.set_title("requests a second: served, refused (dashed), wrong (crosses)", **SMALL)
    running.set_title("running, and queue depth (dotted), as the tiers tell", **SMALL)
    series.set_title("series of GET /metrics", **SMALL)
    logs.set_title("Ray's session folder, and shared memory (dotted), MiB", **SMALL)
    for tier, color in zip(sorted(told.tiers), COLORS, strict=False):
        _draw_tier(told, tier, color, latency, ends, running)
    wrong = [each.ended_s / unit for each in told.wrong]
    foot = ends.get_xaxis_transform()
    ends.plot(wrong, [0.06] * len(wrong), "x", color=WRONG, markersize=5, transform=foot)
    at, _ = _axis_of(told)
    series.plot(at, told.scalars["series"], color=INK, linewidth=1.3)
    for key, style in (("session_bytes", "-"), ("shared_memory_bytes", ":")):
        logs.plot(at, np.asarray(told.scalars[key]) / MIB, color=INK, linestyle=style)
    _whole_decades(latency)
    latency.legend(loc="upper left", ncols=2, **LEGEND)
    _finish(axes, told, unit)
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
    told: Told, tier: str, color: str, latency: "Axes", ends: "Axes", running: "Axes"
) -> None:
    at, unit = _axis_of(told)
    edges = _edges(told)
    middle = (edges[:-1] + edges[1:]) / 2 / unit
    sent_s, ttft_s = told.ttft.get(tier, ((), ()))
    for percent, style, name in ((50, "-", tier), (95, ":", None)):
        values = 1e3 * _in_bins(sent_s, ttft_s, edges, percent)
        latency.plot(middle, values, color=color, linestyle=style, linewidth=1.3, label=name)
    for times, style in ((told.served_at_s, "-"), (told.refused_at_s, "--")):
        per_s = np.histogram(times.get(tier, ()), edges)[0] / np.diff(edges)
        ends.plot(middle, per_s, color=color, linestyle=style, linewidth=1.3)
    for key, style in (("running", "-"), ("queue_depth", ":")):
        running.plot(at, told.tiers[tier][key], color=color, linestyle=style, linewidth=1.2)


def _in_bins(at_s: Any, values: Any, edges: Any, percent: int) -> Any:
    """A percentile of each bin; nan of an empty one."""
    places = np.searchsorted(edges, at_s, side="right") - 1
    order = np.argsort(places, kind="stable")
    told = np.asarray(values, dtype=float)[order]
    cuts = np.searchsorted(places[order], np.arange(len(edges)))
    return np.array(
        [np.percentile(told[a:b], percent) if b > a else np.nan for a, b in pairwise(cuts)]
    )


def _edges(told: Told) -> Any:
    end_s = max([*told.at_s[-1:], 1.0])
    width_s = max(LEAST_BIN_S, end_s / MOST_BINS)
    return np.arange(0.0, end_s + width_s, width_s)


def _axis_of(told: Told) -> tuple[Any, float]:
    """Times of the samples in minutes or hours, and the seconds of one of these."""
    at_s = np.asarray(told.at_s)
    unit = HOUR_S if len(at_s) and at_s[-1] > 2 * HOUR_S else 60.0
    return at_s / unit, unit


def _largest(told: Told, key: str) -> Mapping[str, Any]:
    """The same roles in each panel, by memory; the others summed."""
    by_memory = sorted(
        told.roles, key=lambda role: -float(np.nanmax(told.roles[role]["memory_bytes"]))
    )
    drawn = {role: told.roles[role][key] for role in by_memory[:DRAWN_ROLES]}
    others = [np.nan_to_num(np.asarray(told.roles[role][key])) for role in by_memory[DRAWN_ROLES:]]
    return {**drawn, **({"the others": np.sum(others, axis=0)} if others else {})}


def _colors() -> list[str]:
    return [*COLORS, INK]


def _finish(axes: Sequence["Axes"], told: Told, unit: float) -> None:
    """Faults are shaded and named where there is room for the names."""
    last_s = told.at_s[-1] if told.at_s else 1.0
    for axis in axes:
        if axis.get_yscale() == "linear":
            axis.set_ylim(0, 1.2 * max(axis.get_ylim()[1], 1.0))
        for done in told.faults:
            end_s = min(last_s, done.end_s)
            axis.axvspan(done.begin_s / unit, end_s / unit, color=SHADE, linewidth=0)
        axis.set_xlim(0, max(last_s, 1.0) / unit)
    if len(told.faults) <= 2 * len(told.meta["faults"]):
        for done in told.faults:
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
