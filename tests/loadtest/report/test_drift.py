"""Sen's slope over replaced processes, its interval, and what is too little for one."""

import math
import random

import pytest

from loadtest.report.statistics import sen_slope, span_s


def test_a_line_has_its_slope_and_outliers_do_not_move_it() -> None:
    points = [(float(t), 3.0 * t + (1000.0 if t == 5 else 0.0)) for t in range(20)]
    slope = sen_slope([points])
    assert slope is not None
    assert slope.value == pytest.approx(3.0)
    assert slope.low <= 3.0 <= slope.high


def test_a_process_that_starts_anew_is_no_step_down() -> None:
    series = [[(t + start, 2.0 * t) for t in range(8)] for start in (0, 100, 200)]
    slope = sen_slope(series)
    assert slope is not None
    assert (slope.low, slope.value, slope.high) == pytest.approx((2, 2, 2))


def test_the_interval_holds_the_slope_of_noise_about_as_often_as_it_says() -> None:
    rng = random.Random(3)
    held = 0
    for _ in range(400):
        slope = sen_slope([[(float(t), rng.gauss(0, 1)) for t in range(15)] for _ in range(2)])
        assert slope is not None
        held += slope.low <= 0 <= slope.high
    assert 0.92 <= held / 400 <= 1.0


def test_few_points_have_no_interval_and_one_has_no_slope() -> None:
    slope = sen_slope([[(0.0, 1.0), (1.0, 2.0), (2.0, 2.5)]])
    assert slope is not None
    assert (slope.value, slope.low, slope.high) == (0.75, -math.inf, math.inf)
    assert sen_slope([[(0.0, 1.0)], []]) is None


def test_the_span_is_that_of_the_longest_lived_process() -> None:
    assert span_s([[(0.0, 1.0), (5.0, 1.0)], [(7.0, 1.0), (19.0, 1.0)], []]) == 12.0
    assert span_s([]) == 0.0
