"""Quantiles of what was only counted in buckets."""

from collections.abc import Sequence


def quantile(bounds: Sequence[float], cumulative: Sequence[int], q: float) -> float | None:
    """The value that a fraction `q` of the values is at most; None where there are none.

    `cumulative` has the count up to each of `bounds`, and last the count of all. Within a bucket
    values count as spread evenly, as Prometheus' `histogram_quantile` has them; above the last
    bound nothing is known but that bound.
    """
    total = cumulative[-1]
    if total <= 0:
        return None
    rank = q * total
    below, lower = 0, 0.0
    for bound, count in zip(bounds, cumulative, strict=False):
        if count >= rank:
            inside = count - below
            return bound if inside <= 0 else lower + (bound - lower) * (rank - below) / inside
        below, lower = count, bound
    return bounds[-1]
