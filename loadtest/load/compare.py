"""`python -m loadtest run --compare A B`: two runs side by side, with intervals."""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from loadtest.client.record import Record
from loadtest.load import plots
from loadtest.load.run import Run, read
from loadtest.load.summary import LATENCIES, is_good, latencies, span_s
from loadtest.report.formatting import short_time
from loadtest.report.pages import inline, render
from loadtest.report.results_file import write
from loadtest.report.run_folder import default_folder
from loadtest.report.statistics import RESAMPLES, SEED, Estimate, bootstrap

NAME = "compare"
# Requests that come together wait together, so whole stretches of a run are drawn, not requests.
BLOCKS = 20


@dataclass(frozen=True, slots=True)
class Compared:
    """A figure of one tier in both runs. `ratio` is B over A, `difference` B less A."""

    tier: str
    title: str
    unit: str
    a: float
    b: float
    difference: Estimate
    ratio: Estimate | None

    @property
    def differs(self) -> bool:
        return not self.difference.low <= 0 <= self.difference.high


# From values and the stretch of each, and how often each stretch is drawn (a row a resample): one
# number a row. The last argument: the seconds that the values are over.
SumUp = Callable[[Any, Any, Any, float], Any]


@dataclass(frozen=True, slots=True)
class Figure:
    """`value` of a request, None where it has none; `sum_up` makes one number of them all."""

    title: str
    unit: str
    value: Callable[[Record], float | None]
    sum_up: SumUp


def run(a: Path, b: Path, out: Path | None, console: Console) -> int:
    runs = read(a), read(b)
    rows = compare(*runs)
    folder = out or default_folder("load", NAME)
    folder.mkdir(parents=True, exist_ok=True)
    names = [_label(a), _label(b)] if _label(a) != _label(b) else [str(a), str(b)]
    document = _document(rows, runs, names)
    write(folder / f"{NAME}.json", document)
    drawn = [(f"{row.tier}: {row.title}", row.ratio) for row in rows if row.ratio is not None]
    plots.differences(drawn, folder / f"{NAME}.png")
    _draw_latency(runs, names, folder / "latency.png")
    page = render(
        "compare.html.j2",
        run=document,
        rows=rows,
        words=value_words,
        pictures=[inline(folder / name) for name in (f"{NAME}.png", "latency.png")],
    )
    (folder / f"{NAME}.html").write_text(page, encoding="utf-8")
    console.print(_table(rows, names))
    console.print(document["interval"], highlight=False, soft_wrap=True)
    for warning in document["warnings"]:
        console.print(warning, style="yellow", highlight=False, markup=False, soft_wrap=True)
    console.print(f"wrote {folder / NAME}.html", highlight=False, soft_wrap=True)
    return 0


def value_words(value: float, unit: str, *, signed: bool = False) -> str:
    sign = ("+" if value >= 0 else "-") if signed else ""
    size = abs(value) if signed else value
    if unit == "s":
        return sign + short_time(size)
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
            value_words(v, row.unit, signed=True) for v in (row.difference.low, row.difference.high)
        )
        table.add_row(
            row.tier,
            row.title,
            value_words(row.a, row.unit),
            value_words(row.b, row.unit),
            value_words(row.difference.value, row.unit, signed=True),
            f"{low} to {high}",
            style="bold" if row.differs else None,
        )
    return table


def _label(folder: Path) -> str:
    return folder.resolve().name


def compare(a: Run, b: Run, only: Container[str] | None = None) -> list[Compared]:
    """Every figure that both runs have, of the tiers that both have; `only`: by their titles."""
    tiers = [{record.tier for record in run.records if record.counts} for run in (a, b)]
    found = []
    for tier in sorted(tiers[0] & tiers[1]):
        sides = [of_tier(run, tier) for run in (a, b)]
        chosen = [each for each in figures(a, b) if only is None or each.title in only]
        found += [_compared(tier, figure, sides) for figure in chosen]
    return [row for row in found if row is not None]


def of_tier(run: Run, tier: str) -> list[Record]:
    return [record for record in run.records if record.counts and record.tier == tier]


def figures(a: Run, b: Run) -> list[Figure]:
    found = [
        Figure(f"{name.removesuffix('_s').upper()} p{percent}", "s", _latency(name), _p(percent))
        for name in LATENCIES
        for percent in (50, 95)
    ]
    found.append(Figure("output tokens/s", "/s", _tokens, _per_s))
    for outcome in ("served", "refused", "error"):
        found.append(Figure(f"{outcome} share", "share", _is(outcome), _mean))
    loads = [(run.scenario, load) for run in (a, b) for load in run.scenario.loads]
    slos = [scenario.slo_of(load) for scenario, load in loads]
    if slos[0] is not None and all(slo == slos[0] for slo in slos):
        slo = slos[0]
        found.append(Figure("goodput share", "share", lambda r: float(is_good(r, slo)), _mean))
    return found


def _compared(tier: str, figure: Figure, sides: Sequence[Sequence[Record]]) -> Compared | None:
    numbers, drawn = [], []
    for seed, records in enumerate(sides):
        values, stretches = _in_stretches(records, figure.value)
        if not len(values):
            return None
        sum_up = partial(_of_picks, figure.sum_up, values, stretches, span_s(records))
        numbers.append(float(sum_up(np.arange(BLOCKS)[None])[0]))
        drawn.append(bootstrap(BLOCKS, sum_up, seed=SEED + seed))
    a, b = numbers
    difference = Estimate.of(b - a, drawn[1] - drawn[0])
    ratio = None
    if figure.unit != "share" and a > 0 and not (drawn[0] <= 0).any():
        ratio = Estimate.of(b / a, drawn[1] / drawn[0])
    return Compared(tier, figure.title, figure.unit, a, b, difference, ratio)


def _of_picks(sum_up: SumUp, values: Any, stretches: Any, window_s: float, picks: Any) -> Any:
    """Of resamples, a row of stretches each."""
    counts = np.apply_along_axis(np.bincount, 1, picks, minlength=BLOCKS)
    return sum_up(values, stretches, counts, window_s)


def _in_stretches(
    records: Sequence[Record], value: Callable[[Record], float | None]
) -> tuple[Any, Any]:
    """The values, sorted, and the stretch of equal time in which each one's request was due."""
    begin_s = min(record.planned_s for record in records)
    length_s = (max(record.planned_s for record in records) - begin_s) / BLOCKS or 1.0
    pairs = [
        (found, min(BLOCKS - 1, int((record.planned_s - begin_s) / length_s)))
        for record in records
        if (found := value(record)) is not None
    ]
    pairs.sort()
    values, stretches = zip(*pairs, strict=True) if pairs else ((), ())
    return np.array(values, dtype=float), np.array(stretches, dtype=int)


def _latency(name: str) -> Callable[[Record], float | None]:
    return lambda record: getattr(record, name) if record.served else None


def _tokens(record: Record) -> float:
    return float(record.output_tokens or 0) if record.served else 0.0


def _is(outcome: str) -> Callable[[Record], float]:
    return lambda record: float(record.outcome == outcome)


def _p(percent: int) -> SumUp:
    """The smallest value that so many are not above (numpy's `inverted_cdf`)."""

    def sum_up(values: Any, stretches: Any, counts: Any, _: float) -> Any:
        found = np.full(len(counts), np.nan)
        for place, row in enumerate(counts):
            reached = np.cumsum(row[stretches])
            if reached[-1]:
                found[place] = values[np.searchsorted(reached, percent / 100 * reached[-1])]
        return found

    return sum_up


def _mean(values: Any, stretches: Any, counts: Any, _: float) -> Any:
    sums, sizes = _sums(values, stretches), np.bincount(stretches, minlength=BLOCKS)
    total = counts @ sizes
    return np.divide(counts @ sums, total, out=np.full(len(total), np.nan), where=total > 0)


def _per_s(values: Any, stretches: Any, counts: Any, window_s: float) -> Any:
    return counts @ _sums(values, stretches) / window_s


def _sums(values: Any, stretches: Any) -> Any:
    return np.bincount(stretches, weights=values, minlength=BLOCKS)
