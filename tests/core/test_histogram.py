"""Quantiles of counts in buckets, as Prometheus computes them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.histogram import quantile

BOUNDS = (1.0, 2.0, 4.0)


@pytest.mark.parametrize(
    ("cumulative", "q", "expected"),
    [
        ((10, 10, 10, 10), 0.5, 0.5),  # all in the first bucket, half of the way through it
        ((0, 10, 10, 10), 0.5, 1.5),
        ((5, 5, 15, 15), 0.5, 2.5),
        ((0, 0, 0, 7), 0.95, 4.0),  # beyond the last bound nothing is known
        ((0, 0, 0, 0), 0.5, None),
    ],
)
def test_values_count_as_spread_evenly_within_their_bucket(
    cumulative: tuple[int, ...], q: float, expected: float | None
) -> None:
    assert quantile(BOUNDS, cumulative, q) == expected


@given(st.lists(st.integers(0, 50), min_size=4, max_size=4), st.floats(0.01, 0.99))
def test_a_quantile_is_between_zero_and_the_last_bound_and_grows_with_its_fraction(
    counts: list[int], q: float
) -> None:
    cumulative = [sum(counts[: at + 1]) for at in range(4)]
    found = quantile(BOUNDS, cumulative, q)
    if not sum(counts):
        assert found is None
        return
    more = quantile(BOUNDS, cumulative, min(0.99, q + 0.2))
    assert found is not None
    assert more is not None
    assert 0 <= found <= more <= BOUNDS[-1]
