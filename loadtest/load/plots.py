"""The report's pictures: distributions of latencies, and what happened when."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from loadtest.evaluation.plots import DPI, FIRST, GRID, INK, SECOND

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Told apart by those who do not tell red from green.
COLORS = (FIRST, SECOND, "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
# Points of a drawn distribution: more are not seen.
POINTS = 400
# Below this a time is drawn at the axis' begin: a logarithm has no 0.
LEAST_MS = 0.01
# A wider axis has no room for two marks in each decade.
FEW_DECADES = 300
SMALL: dict[str, Any] = {"fontsize": 9.5, "color": INK, "loc": "left"}
LEGEND: dict[str, Any] = {"frameon": False, "fontsize": 8}

Series = Mapping[str, Sequence[float]]


def distributions(
    panels: Mapping[str, Series],
    path: Path,
    *,
    limits_s: Mapping[str, Mapping[str, float]] | None = None,
) -> None:
    """A panel for each measure: the share of values (in seconds) up to each time. `limits_s`: SLOs
    by panel and series, dashed."""
    figure = make_figure(12.0, 6.6)
    columns = 3
    rows = -(-len(panels) // columns)
    axes = figure.subplots(rows, columns, squeeze=False).flat
    names = list(dict.fromkeys(name for series in panels.values() for name in series))
    for axis, (title, series) in zip(axes, panels.items(), strict=False):
        axis.set_title(title, **SMALL)
        for name, values in series.items():
            _distribution(axis, values, _color(names, name), name)
        for name, limit_s in ((limits_s or {}).get(title) or {}).items():
            color = _color(names, name)
            axis.axvline(1e3 * limit_s, color=color, linestyle="--", linewidth=1.2)
        _finish_distribution(axis, any(len(values) for values in series.values()))
    for axis in list(axes)[len(panels) :]:
        axis.set_visible(False)
    if limits_s and any(limits_s.values()):
        figure.supxlabel("dashed: the SLO", fontsize=8.5, color=INK)
    save(figure, path, grid="both")


def timeline(told: Mapping[str, Any], path: Path) -> None:
    """Arrivals, refusals, errors, requests in flight, tokens a second, the generator's lag."""
    at_s, tiers = told["at_s"], told["tiers"]
    figure = make_figure(12.0, 9.0)
    arrivals, refusals, flight, tokens, lag = figure.subplots(5, 1, sharex=True)
    rows = (
        (arrivals, "arrivals a second", "arrivals_per_s"),
        (flight, "requests in flight: sent or waiting to come back, and not ended", "in_flight"),
        (tokens, "output tokens a second", "tokens_per_s"),
    )
    for axis, title, key in rows:
        axis.set_title(title, **SMALL)
        for name, tier in tiers.items():
            _steps(axis, at_s, tier[key], _color(list(tiers), name), name)
        axis.legend(loc="upper right", ncols=len(tiers), **LEGEND)
    refusals.set_title("refusals and errors a second", **SMALL)
    for name, tier in tiers.items():
        color = _color(list(tiers), name)
        _steps(refusals, at_s, tier["refusals_per_s"], color, f"{name} refused")
        _steps(refusals, at_s, tier["errors_per_s"], color, f"{name} errors", linestyle=":")
    refusals.legend(loc="upper right", ncols=2 * len(tiers), **LEGEND)
    lag.set_title("lag of the generator's event loop, ms (largest of each step)", **SMALL)
    _steps(lag, at_s, [1e3 * value for value in told["lag_s"]], INK, "lag")
    _finish_timeline([arrivals, refusals, flight, tokens, lag], at_s, told["step_s"])
    save(figure, path)


def server(told: Mapping[str, Any], path: Path) -> bool:
    """Queue depth, running requests and replicas as the server tells them; False if it does not."""
    samples = told["server"]
    if not samples:
        return False
    names = sorted({name for sample in samples for name in sample["tiers"]})
    at_s = [sample["at_s"] for sample in samples]
    figure = make_figure(12.0, 6.2)
    depth, running, replicas = figure.subplots(3, 1, sharex=True)
    parts = (
        (depth, "queue depth: accepted and not yet computing", "queue_depth", None),
        (running, "running (dotted: slots)", "running", "slots"),
        (replicas, "replicas (dotted: wanted)", "replicas_running", "replicas_wanted"),
    )
    for axis, title, key, dotted in parts:
        axis.set_title(title, **SMALL)
        for name in names:
            color = _color(names, name)
            _steps(axis, at_s, _column(samples, name, key), color, name)
            if dotted:
                values = _column(samples, name, dotted)
                axis.step(at_s, values, where="post", color=color, linestyle=":", linewidth=1.2)
        axis.legend(loc="upper right", ncols=len(names), **LEGEND)
    _finish_timeline([depth, running, replicas], at_s, 1.0)
    save(figure, path)
    return True


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


def make_figure(width_in: float, height_in: float) -> "Figure":
    # A figure of its own, with the backend of its file type: nothing global, no window.
    from matplotlib.figure import Figure

    return Figure(figsize=(width_in, height_in), layout="constrained")


def save(figure: "Figure", path: Path, *, grid: Any = "y") -> None:
    for axis in figure.axes:
        axis.grid(axis=grid, color=GRID, linewidth=0.8)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8.5, colors=INK)
    # No metadata, so that the same figures make the same file.
    figure.savefig(path, dpi=DPI, metadata={"Software": None})


def _distribution(axis: "Axes", values: Sequence[float], color: str, name: str) -> None:
    if not len(values):
        return
    shares = np.linspace(0, 100, min(POINTS, max(2, len(values))))
    at_ms = np.maximum(1e3 * np.percentile(np.asarray(values, dtype=float), shares), LEAST_MS)
    axis.step(at_ms, shares, where="post", color=color, linewidth=1.6, label=name)


def _finish_distribution(axis: "Axes", has_values: bool) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_ylim(0, 102)
    axis.set_ylabel("% of values up to", fontsize=8.5)
    if not has_values:
        axis.text(0.5, 0.5, "not told", transform=axis.transAxes, ha="center", color=INK)
        axis.set_xticks([])
        return
    axis.set_xscale("log")
    low, high = axis.get_xlim()
    marks = (1, 3) if high < FEW_DECADES * low else (1,)
    axis.xaxis.set_major_locator(LogLocator(base=10, subs=marks, numticks=8))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.xaxis.set_major_formatter(lambda value, _: duration(value))
    if high < 12 * low:
        # One distribution that is narrower than a decade still needs marks on its axis.
        middle = (low * high) ** 0.5
        axis.set_xlim(middle / 3.5, middle * 3.5)
    axis.legend(loc="best", **LEGEND)


def _steps(
    axis: "Axes",
    at_s: Sequence[float],
    values: Sequence[float],
    color: str,
    name: str,
    linestyle: str = "-",
) -> None:
    axis.step(
        at_s, values, where="post", color=color, linewidth=1.4, linestyle=linestyle, label=name
    )


def _finish_timeline(axes: Sequence["Axes"], at_s: Sequence[float], step_s: float) -> None:
    from matplotlib.ticker import MaxNLocator

    for axis in axes:
        _, top = axis.get_ylim()
        axis.set_ylim(0, max(1.0, top) * 1.18)
        axis.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=top >= 3))
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:,.4g}")
        axis.set_xlim(0, max([step_s, *at_s]))
    axes[-1].set_xlabel("seconds from the run's beginning", fontsize=9)


def duration(value_ms: float) -> str:
    """Of an axis: `30 ms`, `3 s`."""
    return f"{value_ms:g} ms" if value_ms < 1000 else f"{value_ms / 1e3:g} s"


def _column(samples: Sequence[Mapping[str, Any]], name: str, key: str) -> list[float]:
    """A gap where a sample does not tell it."""
    return [sample["tiers"].get(name, {}).get(key, float("nan")) for sample in samples]


def _color(names: Sequence[str], name: str) -> str:
    return COLORS[list(names).index(name) % len(COLORS)]
