"""`python -m loadtest run --compare A B`: two runs side by side, with intervals."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from loadtest.load import plots, report, run_dir
from loadtest.load.compared import BLOCKS, SEED, Compared, compare, of_tier
from loadtest.load.run_dir import Run
from loadtest.load.summary import latencies
from loadtest.results_file import write
from loadtest.stats import RESAMPLES

NAME = "compare"


def run(a: Path, b: Path, out: Path | None, console: Console) -> int:
    runs = run_dir.read(a), run_dir.read(b)
    rows = compare(*runs)
    folder = out or run_dir.default_folder(NAME)
    folder.mkdir(parents=True, exist_ok=True)
    names = [_label(a), _label(b)] if _label(a) != _label(b) else [str(a), str(b)]
    document = _document(rows, runs, names)
    write(folder / f"{NAME}.json", document)
    drawn = [(f"{row.tier}: {row.title}", row.ratio) for row in rows if row.ratio is not None]
    plots.differences(drawn, folder / f"{NAME}.png")
    _draw_latency(runs, names, folder / "latency.png")
    page = report.render(
        "compare.html.j2",
        told=document,
        rows=rows,
        words=words,
        pictures=[report.inline(folder / name) for name in (f"{NAME}.png", "latency.png")],
    )
    (folder / f"{NAME}.html").write_text(page, encoding="utf-8")
    console.print(_table(rows, names))
    console.print(document["interval"], highlight=False, soft_wrap=True)
    for warning in document["warnings"]:
        console.print(warning, style="yellow", highlight=False, markup=False, soft_wrap=True)
    console.print(f"wrote {folder / NAME}.html", highlight=False, soft_wrap=True)
    return 0


def words(value: float, unit: str, *, signed: bool = False) -> str:
    sign = ("+" if value >= 0 else "-") if signed else ""
    size = abs(value) if signed else value
    if unit == "s":
        return sign + report.time_words(size)
    if unit == "share":
        return f"{sign}{size:.1%}"
    return f"{sign}{size:,.1f}"


def _document(
    rows: Sequence[Compared], runs: Sequence[Run], names: Sequence[str]
) -> dict[str, Any]:
    warnings = [
        f"{name}: the generator did not keep up ({run.summary['generator']['why_not']})."
        for name, run in zip(names, runs, strict=True)
        if not run.summary["generator"]["kept_up"]
    ]
    other = _otherwise(runs[0].summary["scenario"], runs[1].summary["scenario"])
    if other:
        warnings.append(f"The scenarios differ in {', '.join(other)}.")
    return {
        "a": {"name": names[0], "meta": runs[0].summary["meta"]},
        "b": {"name": names[1], "meta": runs[1].summary["meta"]},
        "interval": f"95 %: bootstrap over {BLOCKS} stretches of each run ({RESAMPLES} resamples, "
        f"seed {SEED}). What differs from run to run is not in it: repeat runs to see that.",
        "warnings": warnings,
        "rows": [
            {
                "tier": row.tier,
                "figure": row.title,
                "a": row.a,
                "b": row.b,
                "difference": row.difference.rounded(6),
                "ratio": None if row.ratio is None else row.ratio.rounded(4),
            }
            for row in rows
        ],
    }


def _otherwise(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """What was asked differently; the server and the run's name may differ."""
    return sorted(key for key in {*a, *b} - {"base_url", "name"} if a.get(key) != b.get(key))


def _draw_latency(runs: Sequence[Run], names: Sequence[str], path: Path) -> None:
    tiers = sorted({r.tier for r in runs[0].records} & {r.tier for r in runs[1].records})
    panels = {
        f"{tier}: {key.removesuffix('_s').upper()}": {
            name: latencies([r for r in of_tier(run, tier) if r.served], key)
            for name, run in zip(names, runs, strict=True)
        }
        for tier in tiers
        for key in ("ttft_s", "tpot_s", "e2e_s")
    }
    plots.distributions(panels, path)


def _table(rows: Sequence[Compared], names: Sequence[str]) -> Table:
    table = Table(title=f"A {names[0]}, B {names[1]}", title_justify="left")
    for name in ("tier", "figure"):
        table.add_column(name)
    for name in ("A", "B", "B - A", "95 %"):
        table.add_column(name, justify="right")
    for row in rows:
        low, high = (
            words(v, row.unit, signed=True) for v in (row.difference.low, row.difference.high)
        )
        table.add_row(
            row.tier,
            row.title,
            words(row.a, row.unit),
            words(row.b, row.unit),
            words(row.difference.value, row.unit, signed=True),
            f"{low} to {high}",
            style="bold" if row.differs else None,
        )
    return table


def _label(folder: Path) -> str:
    return folder.resolve().name
