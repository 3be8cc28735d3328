"""The figures of two runs, their differences, and how sure those are."""

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from loadtest.load.record import Record
from loadtest.load.run_dir import Run
from loadtest.load.slo import is_good
from loadtest.load.summary import LATENCIES, span_s
from loadtest.stats import CONFIDENCE, RESAMPLES, Estimate

SEED = 0
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
    dice = np.random.default_rng(SEED)
    numbers, drawn = [], []
    for records in sides:
        values, stretches = _in_stretches(records, figure.value)
        if not len(values):
            return None
        picks = dice.integers(0, BLOCKS, (RESAMPLES, BLOCKS))
        counts = np.apply_along_axis(np.bincount, 1, picks, minlength=BLOCKS)
        window_s = span_s(records)
        once = np.ones((1, BLOCKS), dtype=int)
        numbers.append(float(figure.sum_up(values, stretches, once, window_s)[0]))
        drawn.append(figure.sum_up(values, stretches, counts, window_s))
    a, b = numbers
    difference = _estimate(b - a, drawn[1] - drawn[0])
    ratio = None
    if figure.unit != "share" and a > 0 and not (drawn[0] <= 0).any():
        ratio = _estimate(b / a, drawn[1] / drawn[0])
    return Compared(tier, figure.title, figure.unit, a, b, difference, ratio)


def _in_stretches(
    records: Sequence[Record], value: Callable[[Record], float | None]
) -> tuple[Any, Any]:
    """The values, sorted, and the stretch of equal time in which each one's request was due."""
    begin_s = min(record.planned_s for record in records)
    length_s = (max(record.planned_s for record in records) - begin_s) / BLOCKS or 1.0
    pairs = [
        (told, min(BLOCKS - 1, int((record.planned_s - begin_s) / length_s)))
        for record in records
        if (told := value(record)) is not None
    ]
    pairs.sort()
    values, stretches = zip(*pairs, strict=True) if pairs else ((), ())
    return np.array(values, dtype=float), np.array(stretches, dtype=int)


def _estimate(value: float, drawn: Any) -> Estimate:
    tail = (1 - CONFIDENCE) / 2 * 100
    low, high = np.nanpercentile(drawn, [tail, 100 - tail])
    return Estimate(value, float(low), float(high))


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
