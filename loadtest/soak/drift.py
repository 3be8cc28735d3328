"""How fast something grows: Sen's slope, over processes that were replaced meanwhile."""

import math
from collections.abc import Sequence
from itertools import combinations
from statistics import median

from loadtest.stats import Estimate

# The normal distribution's quantile of a two-sided 95 % interval.
Z = 1.959964

Points = Sequence[tuple[float, float]]


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
    variance = sum(n * (n - 1) * (2 * n + 5) / 18 for n in map(len, series))
    width = Z * math.sqrt(variance)
    low = math.floor((len(slopes) - width) / 2) - 1
    high = math.ceil((len(slopes) + width) / 2)
    if low < 0 or high >= len(slopes):
        return Estimate(median(slopes), -math.inf, math.inf)
    return Estimate(median(slopes), slopes[low], slopes[high])


def span_s(series: Sequence[Points]) -> float:
    """The longest time that one series covers."""
    return max((points[-1][0] - points[0][0] for points in series if points), default=0.0)
