"""Statistics of all reports: plain numbers in, plain numbers out. What was not reported is None."""

import math
import statistics
from array import array
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, TypeVar

import numpy as np

CONFIDENCE = 0.95
SEED = 0
# Of means, which cost little; of statistics that cost more.
RESAMPLES_OF_MEANS, RESAMPLES = 10_000, 1000
# Bounds the memory of a bootstrap: so many resamples are drawn at once.
CHUNK = 500
# The normal distribution's quantiles: one-sided 95 %, and two-sided.
Z_95, Z_TWO_SIDED = 1.6448536269514722, 1.959964

Vote = TypeVar("Vote", bound=Hashable)
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, drawn: Any) -> "Estimate":
        """With the percentile interval of a bootstrap's `drawn` values."""
        tail = (1 - CONFIDENCE) / 2 * 100
        low, high = np.nanpercentile(drawn, [tail, 100 - tail])
        return cls(float(value), float(low), float(high))

    def rounded(self, digits: int) -> dict[str, float]:
        return {name: round(value, digits) for name, value in asdict(self).items()}


def bootstrap(
    count: int, statistic: Callable[[Any], Any], *, resamples: int = RESAMPLES, seed: int = SEED
) -> Any:
    """`statistic` of so many resamples of `count` things: it gets their indices, a row for each
    resample, and gives a number for each row."""
    rng = np.random.default_rng(seed)
    sizes = [min(CHUNK, resamples - done) for done in range(0, resamples, CHUNK)]
    return np.concatenate([statistic(rng.integers(0, count, size=(n, count))) for n in sizes])


def mean_of_runs(accuracies: Sequence[float]) -> Estimate | None:
    """Mean of the runs with Student's t interval; None for fewer than two: what another run over
    the same problems would give."""
    runs = len(accuracies)
    if runs < 2:
        return None
    mean = statistics.fmean(accuracies)
    half = t_quantile(runs - 1) * statistics.stdev(accuracies) / runs**0.5
    return Estimate(mean, max(0.0, mean - half), min(1.0, mean + half))


def t_quantile(degrees: int) -> float:
    """Student's t for the two-sided interval; the tails' mass is the incomplete beta function."""
    import mpmath

    def too_much_in_the_tails(t: Any) -> Any:
        x = degrees / (degrees + t * t)
        return mpmath.betainc(degrees / 2, 0.5, 0, x, regularized=True) - (1 - CONFIDENCE)

    return float(mpmath.findroot(too_much_in_the_tails, (1, 20), solver="ridder", tol=1e-12))


def bootstrapped_mean(scores: Any) -> Estimate:
    """Mean with a percentile bootstrap: what other things of the same kind would give. What is
    alike, as the runs of one problem, is to be one score, so that it is drawn together."""
    values = np.asarray(scores, dtype=float)
    drawn = bootstrap(
        len(values), lambda picks: values[picks].mean(axis=1), resamples=RESAMPLES_OF_MEANS
    )
    return Estimate.of(values.mean(), drawn)


def paired_difference(a: Sequence[float], b: Sequence[float]) -> Estimate:
    """Mean of `b - a` over problems, with a paired bootstrap: the same problems on both sides."""
    if len(a) != len(b):
        raise ValueError("both sides need the same problems")
    return bootstrapped_mean(np.subtract(b, a).tolist())


def majority(votes: Iterable[Vote | None]) -> Vote | None:
    """The most frequent vote, at a tie the one seen first; None abstains."""
    counts = Counter(vote for vote in votes if vote is not None)
    return max(counts, key=lambda vote: counts[vote], default=None)


def fraction(count: int, total: int) -> float | None:
    """None of nothing."""
    return count / total if total else None


def quantile(values: Iterable[float | None], percent: float) -> float | None:
    reported = [value for value in values if value is not None]
    return float(np.percentile(reported, percent)) if reported else None


def total(values: Iterable[int | None]) -> int | None:
    reported = [value for value in values if value is not None]
    return sum(reported) if reported else None


def mean(values: Iterable[float | None]) -> float | None:
    reported = [value for value in values if value is not None]
    return statistics.fmean(reported) if reported else None


def spread(values: Iterable[float | None]) -> dict[str, Any]:
    """Mean and percentiles, each None of nothing."""
    if not isinstance(values, array):
        values = [value for value in values if value is not None]
    reported = np.asarray(values, dtype=float)
    names = ("p50", "p90", "p95", "p99")
    if not reported.size:
        return {"count": 0, "mean": None, **dict.fromkeys(names), "max": None}
    at = np.percentile(reported, [50, 90, 95, 99])
    return {
        "count": int(reported.size),
        "mean": round(float(reported.mean()), 6),
        **{name: round(float(value), 6) for name, value in zip(names, at, strict=True)},
        "max": round(float(reported.max()), 6),
    }


def busy_s(spans: Iterable[tuple[float, float]]) -> float:
    """Seconds in which at least one request ran: an evaluation may have paused between."""
    busy, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    return busy


def sen_slope(series: Sequence[Points]) -> Estimate | None:
    """The median slope of all pairs of points `(time, value)` of the same series, and its 95 %
    interval, which is infinite where the points are too few for one; None without a pair.

    Pairs are of one series only, so a process that starts anew is no step down. That is the
    seasonal Kendall slope of Hirsch, Slack and Smith (Water Resources Research 18(1), 1982), with
    a process in a season's place; scipy.stats.theilslopes has the case of one series. The
    interval is Gilbert's (Statistical Methods for Environmental Pollution Monitoring, 1987,
    17.3): ranks of slopes, from the variance of Kendall's S. Ties would make it narrower and are
    not subtracted. It holds for points that do not depend on each other: give medians of
    stretches, not samples.
    """
    slopes = sorted(
        (after[1] - before[1]) / (after[0] - before[0])
        for points in series
        for before, after in combinations(points, 2)
        if after[0] != before[0]
    )
    if not slopes:
        return None
    middle = statistics.median(slopes)
    variance = sum(n * (n - 1) * (2 * n + 5) / 18 for n in map(len, series))
    width = Z_TWO_SIDED * math.sqrt(variance)
    low = math.floor((len(slopes) - width) / 2) - 1
    high = math.ceil((len(slopes) + width) / 2)
    if low < 0 or high >= len(slopes):
        return Estimate(middle, -math.inf, math.inf)
    return Estimate(middle, slopes[low], slopes[high])


def span_s(series: Sequence[Points]) -> float:
    """The longest time that one series covers."""
    return max((points[-1][0] - points[0][0] for points in series if points), default=0.0)
