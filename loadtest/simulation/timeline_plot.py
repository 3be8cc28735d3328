"""The picture of a simulated run: what came, what served, what waited, what was refused."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from loadtest.report.pictures import COLORS, LEGEND, SMALL, make_figure, save
from loadtest.simulation.outcome import Moment
from serve_app.core.tiers import Tier

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HOUR_S = 3600.0
MINUTE_S = 60.0
# Longer runs have an axis of hours.
MINUTES_UNTIL_S = 3 * HOUR_S


def plot(timeline: Sequence[Moment], title: str, path: Path) -> None:
    """Arrivals, replicas by tier and GPU, queue depth and refusals over time, as PNG."""
    tiers = list(dict.fromkeys(moment.tier for moment in timeline))
    figure = make_figure(12.0, 8.4)
    arrivals, replicas, queue, refusals = figure.subplots(4, 1, sharex=True)
    unit_s, unit = _unit(timeline)
    for tier in tiers:
        own = [moment for moment in timeline if moment.tier is tier]
        at = [moment.at_s / unit_s for moment in own]
        color = COLORS[tiers.index(tier)]
        arrived = _per_s(own, [moment.arrived for moment in own])
        refused = _per_s(own, [moment.refused for moment in own])
        _line(arrivals, at, arrived, color, tier, where="pre")
        _line(queue, at, [moment.queued for moment in own], color, tier)
        _line(refusals, at, refused, color, tier, where="pre")
    _replicas(replicas, timeline, tiers, unit_s)
    arrivals.set_title("arrivals a second", **SMALL)
    replicas.set_title("replicas (dotted: those that start or drain, too)", **SMALL)
    queue.set_title("queue depth: accepted and not yet computing", **SMALL)
    refusals.set_title("refusals a second", **SMALL)
    for axis in (arrivals, replicas, queue, refusals):
        _finish(axis)
    refusals.set_xlabel(unit, fontsize=9)
    figure.suptitle(title, fontsize=11)
    save(figure, path)


def _replicas(axis: "Axes", timeline: Sequence[Moment], tiers: list[Tier], unit_s: float) -> None:
    gpu_types = sorted({gpu_type for moment in timeline for gpu_type in moment.held})
    for tier in tiers:
        own = [moment for moment in timeline if moment.tier is tier]
        at = [moment.at_s / unit_s for moment in own]
        for gpu_type in gpu_types:
            held = [moment.held.get(gpu_type, 0) for moment in own]
            if not any(held):
                continue
            color = COLORS[
                (tiers.index(tier) + len(tiers) * gpu_types.index(gpu_type)) % len(COLORS)
            ]
            serving = [moment.serving.get(gpu_type, 0) for moment in own]
            _line(axis, at, serving, color, f"{tier} on {gpu_type}")
            axis.step(at, held, where="post", color=color, linestyle=":", linewidth=1.2)


def _per_s(moments: Sequence[Moment], counts: Sequence[int]) -> list[float]:
    """Counts since the moment before, as a rate."""
    before_s = [0.0, *(moment.at_s for moment in moments)]
    return [
        count / max(moment.at_s - before, 1e-9) if moment.at_s > before else 0.0
        for moment, before, count in zip(moments, before_s, counts, strict=False)
    ]


def _line(
    axis: "Axes",
    at: Sequence[float],
    values: Sequence[float],
    color: str,
    name: str,
    *,
    where: Literal["pre", "post"] = "post",
) -> None:
    axis.step(at, values, where=where, color=color, linewidth=1.4, label=name)


def _unit(timeline: Sequence[Moment]) -> tuple[float, str]:
    if timeline[-1].at_s > MINUTES_UNTIL_S:
        return HOUR_S, "hours from the trace's beginning"
    return MINUTE_S, "minutes from the trace's beginning"


def _finish(axis: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    _, top = axis.get_ylim()
    axis.set_ylim(0, max(1.0, top) * 1.18)
    axis.set_xlim(left=0)
    axis.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=top >= 1))
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:,.4g}")
    axis.legend(loc="upper right", ncols=6, **LEGEND)
