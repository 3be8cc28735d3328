"""Statistics against values that were computed by hand."""

import pytest

from loadtest.report.statistics import (
    bootstrapped_mean,
    busy_s,
    fraction,
    majority,
    mean_of_runs,
    paired_difference,
    quantile,
    t_quantile,
    total,
)


@pytest.mark.parametrize(("degrees", "t"), [(1, 12.7062), (4, 2.7764), (30, 2.0423)])
def test_students_t_is_that_of_the_tables(degrees: int, t: float) -> None:
    assert t_quantile(degrees) == pytest.approx(t, abs=1e-4)


def test_the_interval_over_runs_is_students() -> None:
    # Mean 0.6, standard deviation 0.1, three runs: half a width of 4.3027 * 0.1 / sqrt(3).
    estimate = mean_of_runs([0.5, 0.6, 0.7])

    assert estimate is not None
    assert estimate.value == pytest.approx(0.6)
    assert estimate.high - estimate.value == pytest.approx(0.24841, abs=1e-4)
    assert mean_of_runs([0.5]) is None


def test_the_interval_bootstrapped_mean_is_as_wide_as_a_binomials() -> None:
    # 100 problems, half of them right: 1.96 * sqrt(0.25 / 100) = 0.098.
    estimate = bootstrapped_mean([1.0] * 50 + [0.0] * 50)

    assert estimate.value == 0.5
    assert estimate.low == pytest.approx(0.402, abs=0.01)
    assert estimate.high == pytest.approx(0.598, abs=0.01)


def test_runs_of_a_problem_are_drawn_together() -> None:
    """Ten alike runs of a problem tell no more of other problems than one does."""
    once = bootstrapped_mean([1.0, 0.0] * 20)
    assert once == bootstrapped_mean([10 / 10, 0 / 10] * 20)


def test_a_difference_that_is_the_same_for_every_problem_is_certain() -> None:
    a = [0.0, 0.25, 0.5, 0.75]
    difference = paired_difference(a, [value + 0.25 for value in a])

    assert (difference.value, difference.low, difference.high) == (0.25, 0.25, 0.25)
    with pytest.raises(ValueError, match="same problems"):
        paired_difference(a, a[:2])


def test_the_majority_is_the_first_seen_at_a_tie() -> None:
    assert majority([1, 2, 2]) == 2
    assert majority([3, 1, 1, 3]) == 3
    assert majority([None, 7, None]) == 7
    assert majority([None, None]) is None


def test_pauses_are_not_busy() -> None:
    assert busy_s([(0.0, 2.0), (1.0, 3.0), (10.0, 11.0), (10.2, 10.4)]) == pytest.approx(4.0)
    assert busy_s([]) == 0.0


def test_what_was_not_reported_is_none_and_not_zero() -> None:
    assert fraction(0, 0) is None
    assert total([None, None]) is None
    assert total([None, 2]) == 2
    assert quantile([None], 50) is None
    assert quantile([1.0, None, 3.0], 50) == 2.0
