"""Judges a soak's folder, and writes what was found: `soak.json`, two pictures and one HTML file
that needs nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from loadtest.load import report as load_report
from loadtest.results_file import write
from loadtest.soak import plots
from loadtest.soak.judge import judge
from loadtest.soak.told import Told, read
from loadtest.soak.verdicts import Row, Verdict, overall

RESULT, PAGE = "soak.json", "soak.html"
PICTURES = ("held.png", "seen.png")
STYLES = {Verdict.PASS: "green", Verdict.FAIL: "bold red", Verdict.SHORT: "yellow"}
# Above it the times that the soak took are partly its own.
MOST_LAG_S = 0.1


def finish(path: Path, console: Console) -> int:
    """Write and show it; 0 if nothing failed, else 1. Raises LoadFault."""
    told = read(path)
    rows = judge(path, told)
    document = summary(told, rows)
    write(path / RESULT, document)
    plots.seen(told, path / PICTURES[1])
    shown = [PICTURES[1]]
    if plots.held(told, path / PICTURES[0]):
        shown.insert(0, PICTURES[0])
    page = load_report.render(
        "soak.html.j2",
        beside=Path(__file__).parent,
        told=document,
        faults=told.faults,
        pictures={name: load_report.inline(path / name) for name in shown},
    )
    (path / PAGE).write_text(page, encoding="utf-8")
    _show(document, rows, console)
    console.print(f"wrote {path / PAGE}", highlight=False, soft_wrap=True)
    return 1 if document["verdict"] == Verdict.FAIL else 0


def summary(told: Told, rows: Sequence[Row]) -> dict[str, Any]:
    """What `soak.json` holds: no word of it is not in the folder's lines."""
    lag_s = np.asarray(told.scalars.get("lag_s", ()))
    late_s = float(np.nanpercentile(lag_s, 95)) if len(lag_s) else 0.0
    calibration: Mapping[str, Any] = told.events.get("calibration", {})
    return {
        "verdict": overall(rows).value,
        "sentence": _sentence(rows),
        "meta": {key: value for key, value in told.meta.items() if key != "scenario"},
        "soaked_s": round(told.at_s[-1] if told.at_s else 0.0, 1),
        "baselines": len(told.baselines),
        "capacity_per_s": calibration.get("capacity_per_s"),
        "rates_per_s": calibration.get("rates_per_s"),
        "requests": dict(told.ended),
        "wrong": len(told.wrong),
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
