"""The table of docs/replay.md: the replay and the simulation of each cell, side by side."""

from collections.abc import Mapping
from typing import Any

from loadtest.results_file import META

HEADER = (
    "| cell | law | | GPU-hours | goodput | TTFT p95 | TPOT p95 | refused | scale actions |",
    "|---|---|---|---:|---:|---:|---:|---:|---:|",
)


def table(results: Mapping[str, Any]) -> str:
    """Two rows for each cell of the results file, its difference, and a caption."""
    lines: list[str] = []
    for name, cell in results.items():
        if name == META:
            continue
        for side in ("replayed", "simulated"):
            lines.append(_row(name, cell, side))
        told = cell["difference"]
        lines.append(
            f"| | | difference | {told['gpu_hours']:+.1%} | {told['goodput']:+.1%} | | | | |"
        )
    return "\n".join([*HEADER, *lines, "", _caption(results)])


def _row(name: str, cell: Mapping[str, Any], side: str) -> str:
    figures = cell[side]
    ttft = _by_tier(figures, "ttft_p95_s", "{:.2f} s", 1.0)
    tpot = _by_tier(figures, "tpot_p95_s", "{:.0f} ms", 1e3)
    return (
        f"| {_name(name, cell)} | {cell['law']} | {side} | {figures['gpu_hours']:.3f} "
        f"| {figures['goodput']:.1%} | {ttft} | {tpot} | {figures['refused']} "
        f"| {figures['scale_actions']} |"
    )


def _name(name: str, cell: Mapping[str, Any]) -> str:
    slow = "" if cell["slow"] == 1 else f", GPUs {cell['slow']:g} times as slow"
    return f"{name}, {cell['minutes']:g} min{slow}"


def _by_tier(figures: Mapping[str, Any], name: str, form: str, factor: float) -> str:
    values = [tier[name] for tier in figures["tiers"].values()]
    return ", ".join("none" if value is None else form.format(value * factor) for value in values)


def _caption(results: Mapping[str, Any]) -> str:
    meta = results[META]
    cells = [cell for name, cell in results.items() if name != META]
    dates = ", ".join(sorted({cell["date"] for cell in cells}))
    commits = ", ".join(sorted({cell["commit"] for cell in cells}))
    return (
        "In real time, at the step times of the GPUs' profiles; of two tiers chat's times come "
        f"first. {meta['machine']['cpu']}, {meta['machine']['cores']} cores. Last: "
        f"`{meta['command']}`; {dates}, commit {commits}."
    )
