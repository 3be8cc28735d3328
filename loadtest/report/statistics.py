"""Statistics of an evaluation: plain numbers in, plain numbers out."""

import statistics
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np

from loadtest.stats import CONFIDENCE, Estimate

RESAMPLES = 10_000
SEED = 0
# Bounds the memory of a bootstrap: so many resamples are drawn at once.
CHUNK = 500

Vote = TypeVar("Vote", bound=Hashable)


def mean_of_runs(accuracies: Sequence[float]) -> Estimate | None:
    """Mean of the runs with Student's t interval; None for fewer than two. It tells what another
    run over the same problems would give."""
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


def over_problems(scores: Sequence[float]) -> Estimate:
    """Mean with a percentile bootstrap over problems, each with all its runs. `scores`: by problem.

    It tells what other problems of the same kind would give; runs of one problem are alike, so they
    are drawn together.
    """
    values = np.asarray(scores, dtype=float)
    low, high = _percentiles(values)
    return Estimate(float(values.mean()), low, high)


def paired_difference(a: Sequence[float], b: Sequence[float]) -> Estimate:
    """Mean of `b - a` over problems, with a paired bootstrap: the same problems on both sides."""
    if len(a) != len(b):
        raise ValueError("both sides need the same problems")
    return over_problems(np.subtract(b, a).tolist())


def _percentiles(values: "np.ndarray") -> tuple[float, float]:
    dice = np.random.default_rng(SEED)
    count = len(values)
    means = np.concatenate(
        [
            values[dice.integers(0, count, size=(CHUNK, count))].mean(axis=1)
            for _ in range(RESAMPLES // CHUNK)
        ]
    )
    tail = (1 - CONFIDENCE) / 2 * 100
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)


def majority(votes: Iterable[Vote | None]) -> Vote | None:
    """The most frequent vote, at a tie the one seen first; None abstains."""
    counts = Counter(vote for vote in votes if vote is not None)
    return max(counts, key=lambda vote: counts[vote], default=None)


def share(count: int, total: int) -> float | None:
    """None of nothing."""
    return count / total if total else None


def quantile(values: Iterable[float | None], percent: float) -> float | None:
    """Of what was told; None if nothing was."""
    told = [value for value in values if value is not None]
    return float(np.percentile(told, percent)) if told else None


def total(values: Iterable[int | None]) -> int | None:
    """None if nothing was told."""
    told = [value for value in values if value is not None]
    return sum(told) if told else None


def mean(values: Iterable[float | None]) -> float | None:
    told = [value for value in values if value is not None]
    return statistics.fmean(told) if told else None


def busy_s(spans: Iterable[tuple[float, float]]) -> float:
    """Seconds in which at least one request ran: an evaluation may have paused between."""
    busy, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    return busy
