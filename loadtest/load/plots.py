"""The report's pictures: distributions of latencies, and what happened when."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from loadtest.report.pictures import COLORS, FIRST, INK, LEGEND, SMALL, make_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Points of a drawn distribution: more are not seen.
POINTS = 400
# Below this a time is drawn at the axis' begin: a logarithm has no 0.
LEAST_MS = 0.01
# A wider axis has no room for two marks in each decade.
FEW_DECADES = 300
# So many lines are distinct by their width where they lie upon another.
MOST_WIDER = 2
# Title, key, and what is said where there is nothing to show.
TIMELINE_PANELS = (
    ("arrivals a second", "arrivals_per_s", "No request was due."),
    (
        *("requests in flight: sent or waiting to retry, and not ended", "in_flight"),
        "No request was in flight at the end of any step.",
    ),
    ("output tokens a second", "tokens_per_s", "No output token came."),
)
NO_REFUSALS = "No request was refused, and none failed."
SERVER_PANELS = (
    ("queue depth: accepted and not yet computing", "Queue depth", "queue_depth", None),
    ("running (dotted: slots)", "The number of running requests", "running", "slots"),
    (
        *("replicas (dotted: desired)", "The number of replicas"),
        *("replicas_running", "replicas_wanted"),
    ),
)

Series = Mapping[str, Sequence[float]]


@dataclass(frozen=True, slots=True)
class _Line:
    """`of` is the tier, which has the colour; none for what is of no tier."""

    label: str
    values: Sequence[float]
    of: str
    dotted: bool = False


@dataclass(frozen=True, slots=True)
class _Panel:
    """`counts`: values are numbers of things, so that a mark between two of them means nothing."""

    title: str
    lines: Sequence[_Line]
    counts: bool = True


def distributions(
    panels: Mapping[str, Series],
    path: Path,
    *,
    limits_s: Mapping[str, Mapping[str, float]] | None = None,
    one_scale: Sequence[Sequence[str]] = (),
) -> bool:
    """A panel for each measure that has values: the fraction of them (in seconds) up to each time.
    `limits_s`: SLOs by panel and series, dashed. The panels of each group in `one_scale` have the
    same axis of time, so that they can be compared. False where no panel has a value."""
    drawn = {title: s for title, s in panels.items() if any(len(v) for v in s.values())}
    if not drawn:
        return False
    columns = min(3, len(drawn))
    rows = -(-len(drawn) // columns)
    figure = make_figure(4.0 * columns, 3.3 * rows)
    axes = dict(zip(drawn, figure.subplots(rows, columns, squeeze=False).flat, strict=False))
    names = list(dict.fromkeys(name for series in panels.values() for name in series))
    for title, series in drawn.items():
        axes[title].set_title(title, **SMALL)
        for name, values in series.items():
            stroke = _stroke(list(series), name) | {"color": _color(names, name)}
            _distribution(axes[title], values, stroke, name)
        limits = (limits_s or {}).get(title) or {}
        for place, (name, limit_s) in enumerate(limits.items()):
            dashes = _alternating(place, len(limits), length=4)
            axes[title].axvline(
                1e3 * limit_s, color=_color(names, name), linestyle=dashes, linewidth=1.2
            )
    groups = [[title for title in group if title in axes] for group in one_scale]
    alone = [[title] for title in axes if not any(title in group for group in groups)]
    for group in [group for group in [*groups, *alone] if group]:
        _finish_distributions([axes[title] for title in group])
    for axis in figure.axes[len(drawn) :]:
        axis.set_visible(False)
    if limits_s and any(limits_s.values()):
        figure.supxlabel("dashed: the SLO", fontsize=8.5, color=INK)
    save(figure, path, grid="both")
    return True


def timeline(course: Mapping[str, Any], path: Path) -> list[str]:
    """Arrivals, refusals, errors, requests in flight, tokens a second, the generator's lag. A panel
    that has nothing to show is left out; what it would have shown is returned, in a sentence."""
    tiers = course["tiers"]
    names = list(tiers)
    panels: list[_Panel] = []
    remarks: list[str] = []
    ends = [
        _Line(f"{name} {what}", tier[key], name, dotted=what == "errors")
        for what, key in (("refused", "refusals_per_s"), ("errors", "errors_per_s"))
        for name, tier in tiers.items()
        if any(tier[key])
    ]
    for title, key, nothing in TIMELINE_PANELS:
        lines = [_Line(name, tier[key], name) for name, tier in tiers.items()]
        if any(any(line.values) for line in lines):
            panels.append(_Panel(title, lines))
        else:
            remarks.append(nothing)
    if ends:
        panels.insert(1, _Panel("refusals and errors a second", ends))
    lag_ms = [1e3 * value for value in course["lag_s"]]
    title = "lag of the generator's event loop, ms (largest of each step)"
    panels.append(_Panel(title, [_Line("lag", lag_ms, "")], counts=False))
    height_in = 1.8 * len(panels)
    _draw_steps(panels, names, course["at_s"], course["step_s"], path, height_in=height_in)
    return remarks if ends else [*remarks, NO_REFUSALS]


def server(course: Mapping[str, Any], path: Path) -> tuple[bool, list[str]]:
    """Queue depth, running requests and replicas as the server reports them; whether there is a
    picture, and what its missing panels would have shown, in sentences."""
    samples = course["server"]
    names = sorted({name for sample in samples for name in sample["tiers"]})
    panels: list[_Panel] = []
    remarks: list[str] = []
    for title, what, key, dotted in SERVER_PANELS:
        lines = [_Line(name, _column(samples, name, key), name) for name in names]
        reported = [value for line in lines for value in line.values if value == value]
        if any(reported):
            limits = [
                _Line("", _column(samples, n, dotted), n, dotted=True) for n in names if dotted
            ]
            panels.append(_Panel(title, [*lines, *limits]))
        elif samples:
            remarks.append(f"{what} {'was 0 in every sample' if reported else 'was not reported'}.")
    if panels:
        at_s = [sample["at_s"] for sample in samples]
        _draw_steps(panels, names, at_s, 1.0, path, height_in=2.1 * len(panels))
    return bool(panels), remarks


def differences(rows: Sequence[tuple[str, Any]], path: Path) -> None:
    """B over A for each figure, with its interval; the line at 1 is no difference."""
    figure = make_figure(9.0, 1.2 + 0.34 * max(1, len(rows)))
    axis = figure.subplots()
    for place, (_, ratio) in enumerate(rows):
        color = INK if ratio.low <= 1 <= ratio.high else FIRST
        axis.plot([ratio.low, ratio.high], [place, place], color=color, linewidth=2.2)
        axis.plot(ratio.value, place, "o", color=color, markersize=5)
    axis.axvline(1.0, color=INK, linewidth=1.0)
    axis.set_yticks(range(len(rows)), [name for name, _ in rows])
    axis.invert_yaxis()
    axis.set_xlabel("B as a multiple of A, 95 % interval (grey: it holds 1)", fontsize=9)
    save(figure, path, grid="x")


def _distribution(
    axis: "Axes", values: Sequence[float], stroke: Mapping[str, Any], name: str
) -> None:
    if not len(values):
        return
    shares = np.linspace(0, 100, min(POINTS, max(2, len(values))))
    at_ms = np.maximum(1e3 * np.percentile(np.asarray(values, dtype=float), shares), LEAST_MS)
    axis.step(at_ms, shares, where="post", label=name, **stroke)


def _finish_distributions(axes: Sequence["Axes"]) -> None:
    """One scale for all of them."""
    from matplotlib.ticker import LogLocator, NullFormatter

    for axis in axes:
        axis.set_ylim(0, 102)
        axis.set_ylabel("% of values up to", fontsize=8.5)
        axis.set_xscale("log")
    limits = [axis.get_xlim() for axis in axes]
    low, high = min(low for low, _ in limits), max(high for _, high in limits)
    if high < 12 * low:
        # What is narrower than a decade still needs marks on its axis.
        middle = (low * high) ** 0.5
        low, high = middle / 3.5, middle * 3.5
    marks = (1, 3) if high < FEW_DECADES * low else (1,)
    for axis in axes:
        axis.set_xlim(low, high)
        axis.xaxis.set_major_locator(LogLocator(base=10, subs=marks, numticks=8))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.xaxis.set_major_formatter(lambda value, _: duration(value))
        axis.legend(loc="best", **LEGEND)


def _draw_steps(
    panels: Sequence[_Panel],
    names: Sequence[str],
    at_s: Sequence[float],
    step_s: float,
    path: Path,
    *,
    height_in: float,
) -> None:
    figure = make_figure(12.0, height_in)
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, panel in zip(axes, panels, strict=True):
        axis.set_title(panel.title, **SMALL)
        for line in panel.lines:
            _steps(axis, at_s, line, names)
        shown = [line for line in panel.lines if line.label and line.of]
        if shown:
            axis.legend(loc="upper right", ncols=len(shown), **LEGEND)
        _finish_steps(axis, counts=panel.counts)
        axis.set_xlim(0, max([step_s, *at_s]))
    axes[-1].set_xlabel("seconds from the run's beginning", fontsize=9)
    save(figure, path)


def _steps(axis: "Axes", at_s: Sequence[float], line: _Line, names: Sequence[str]) -> None:
    stroke: dict[str, Any] = {"color": INK, "linewidth": 1.4}
    if line.of:
        stroke = _stroke(names, line.of)
    if line.dotted:
        dots = _alternating(names.index(line.of), len(names), length=2)
        stroke = {**stroke, "linestyle": dots, "linewidth": 1.4}
    axis.step(at_s, line.values, where="post", label=line.label or None, **stroke)


def _finish_steps(axis: "Axes", *, counts: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    _, top = axis.get_ylim()
    axis.set_ylim(0, max(1.0, top) * 1.18)
    axis.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=counts or top >= 3))
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:,.4g}")


def duration(value_ms: float) -> str:
    """Of an axis: `30 ms`, `3 s`."""
    return f"{value_ms:g} ms" if value_ms < 1000 else f"{value_ms / 1e3:g} s"


def _column(samples: Sequence[Mapping[str, Any]], name: str, key: str) -> list[float]:
    """A gap where a sample does not report it."""
    values = (sample["tiers"].get(name, {}).get(key) for sample in samples)
    return [float("nan") if value is None else value for value in values]


def _stroke(names: Sequence[str], name: str) -> dict[str, Any]:
    """Each line is narrower than those before it: where several lie upon another, all are seen."""
    behind = len(names) - 1 - list(names).index(name)
    return {"color": _color(names, name), "linewidth": 1.4 + 1.1 * min(behind, MOST_WIDER)}


def _alternating(place: int, count: int, *, length: float) -> tuple[float, tuple[float, float]]:
    """Dashes that leave room for those of `count - 1` other lines at the same place."""
    return (place * length, (length, length * max(1, count - 1)))


def _color(names: Sequence[str], name: str) -> str:
    return COLORS[list(names).index(name) % len(COLORS)]
