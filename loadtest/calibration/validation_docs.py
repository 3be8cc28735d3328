"""What docs/calibration.md shows: the last comparison in full, and every one so far."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loadtest.calibration.bars import BARS, THROUGHPUT, TTFT
from loadtest.evaluation.words import markdown_table, number, seconds
from loadtest.readme_table import between_markers
from loadtest.results_file import META

LAST, ALL = "validation", "validations"
FIGURES = {
    "output_tokens_per_s": "output tokens/s",
    "ttft_p50_s": "TTFT p50",
    "ttft_p95_s": "TTFT p95",
    "tpot_p50_s": "TPOT p50",
    "e2e_p50_s": "E2E p50",
}
Results = Mapping[str, Any]


def keep_former(last: Path) -> None:
    """Move the results that are about to be replaced to where all of them are kept."""
    if not last.exists():
        return
    date = json.loads(last.read_text(encoding="utf-8"))[META]["date"]
    folder = last.with_suffix("")
    folder.mkdir(exist_ok=True)
    last.rename(folder / f"{date[:19].replace(':', '')}.json")


def read_runs(last: Path) -> list[Results]:
    """Every comparison that was kept, the last one last."""
    files = [*sorted(last.with_suffix("").glob("*.json")), last]
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def write_docs(runs: Sequence[Results], docs: Path) -> None:
    """Put the tables between the page's markers."""
    text = between_markers(docs.read_text(encoding="utf-8"), LAST, table(runs[-1]))
    docs.write_text(between_markers(text, ALL, all_table(runs)), encoding="utf-8")


def table(results: Results) -> str:
    """A row for each load and figure: measured, simulated, and how far apart they are."""
    meta = results[META]
    rows = [
        (f"{load['share_of_most']:.0%}, {load['rate_rps']:.2f}/s", title, *_cells(load, name))
        for load in results["loads"]
        for name, title in FIGURES.items()
    ]
    header = ("load", "figure", "measured", "simulated", "off by", "bar")
    told = meta["machine"]
    bars = (
        f"Shares are of {meta['most_rps']:.2f} requests/s, what the profile says is the most. "
        f"{' / '.join(str(load['requests']) for load in results['loads'])} requests; one replica "
        f"with {meta['slots']} slots, {meta['profile']['model']}, {told['cores']} cores of "
        f"{told['cpu']}, {meta['date'][:10]}, commit {meta['commit']}{_in_between(meta)}."
    )
    return f"{markdown_table(header, rows)}\n\n{bars}"


def all_table(runs: Sequence[Results]) -> str:
    """A row for each load of each comparison, and how many keep both bars."""
    loads = [(run[META], load) for run in runs for load in run["loads"]]
    rows = [
        (
            f"{meta['date'][:16].replace('T', ' ')}, {meta['commit']}{_in_between(meta)}",
            f"{meta['profile']['model']}, {meta['machine']['cores']} cores of "
            f"{meta['machine']['cpu']}",
            f"{load['share_of_most']:.0%}, {load['rate_rps']:.2f}/s",
            *(f"{load['off_by'][name]:+.1%}" for name in FIGURES),
            "kept" if all(load["kept"].values()) else "missed",
        )
        for meta, load in loads
    ]
    header = ("compared, commit", "model, machine", "load", *FIGURES.values(), "bars")
    kept = sum(all(load["kept"].values()) for _, load in loads)
    return (
        f"{markdown_table(header, rows)}\n\n"
        f"How far the simulation is above what was measured. {kept} of {len(loads)} loads keep "
        f"both bars: {BARS[THROUGHPUT]:.0%} of throughput, {BARS[TTFT]:.0%} of the "
        "median TTFT."
    )


def _in_between(meta: Mapping[str, Any]) -> str:
    return ", calibrated in between" if meta.get("recalibrated_rounds") else ""


def _cells(load: Mapping[str, Any], name: str) -> tuple[str, ...]:
    def shown(value: float) -> str:
        return seconds(value) if name.endswith("_s") and "per" not in name else number(value, 1)

    bar = BARS.get(name)
    return (
        shown(load["measured"][name]),
        shown(load["simulated"][name]),
        f"{load['off_by'][name]:+.1%}" if name in load["off_by"] else "",
        "" if bar is None else f"{bar:.0%}",
    )
