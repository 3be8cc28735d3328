"""Figures of repetitions, and how far a comparison can be trusted."""

import pytest

from loadtest.studies.overhead.measure import added_ms, estimate, pooled_ms, rate_ratio, summary
from tests.loadtest.builders import repetition


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([7.0], 95, 7.0),
        ([1.0, 3.0], 50, 2.0),
        ([float(n) for n in range(101)], 95, 95.0),
        ([3.0, 1.0, 2.0], 50, 2.0),
    ],
)
def test_percentiles_are_of_all_repetitions_together(
    values: list[float], percent: int, expected: float
) -> None:
    repetitions = [repetition(ttft_ms=(value,)) for value in values]

    assert pooled_ms(repetitions, "ttft_s", percent) == pytest.approx(expected)


def test_rates_are_medians_and_latencies_are_pooled() -> None:
    row = summary(
        [
            repetition(tokens_per_s=100, cpu_s=1.0, ttft_ms=(10, 20), itl_ms=(5, 5, 5)),
            repetition(tokens_per_s=110, cpu_s=1.1, ttft_ms=(30, 40), itl_ms=(7,)),
            repetition(tokens_per_s=500, cpu_s=5.0, ttft_ms=(50,), itl_ms=(9,)),
        ]
    )

    assert row == {
        "tokens_per_s": 110.0,
        "ttft_p50_ms": 30.0,
        "ttft_p95_ms": 48.0,
        "itl_p50_ms": 5.0,
        "cpu_s_per_ktoken": 5.0,
    }


def test_drift_of_the_machine_cancels_within_a_pair() -> None:
    pairs = [
        (repetition(tokens_per_s=speed), repetition(tokens_per_s=speed * 0.98))
        for speed in (200, 400, 800)
    ]

    assert rate_ratio(pairs) == pytest.approx(0.98, abs=0.005)


def test_one_disturbed_pair_does_not_move_the_ratio() -> None:
    even = [(repetition(), repetition())] * 4
    disturbed = (repetition(), repetition(tokens_per_s=20))

    assert rate_ratio([*even, disturbed]) == 1.0


def test_added_ttft_is_the_difference_of_the_pooled_percentiles() -> None:
    pairs = [(repetition(ttft_ms=(20, 22)), repetition(ttft_ms=(21, 23)))] * 3

    assert added_ms(pairs, "ttft_s", 50) == pytest.approx(1.0)


def test_the_interval_holds_the_value_and_widens_with_noise() -> None:
    calm = [(repetition(), repetition(tokens_per_s=s)) for s in (98, 99, 100, 101)]
    noisy = [(repetition(), repetition(tokens_per_s=s)) for s in (60, 90, 110, 140)]
    of_calm, of_noisy = (estimate(pairs, rate_ratio) for pairs in (calm, noisy))

    assert of_calm.low <= of_calm.value <= of_calm.high
    assert of_noisy.high - of_noisy.low > of_calm.high - of_calm.low


def test_the_same_run_gives_the_same_interval() -> None:
    pairs = [(repetition(), repetition(tokens_per_s=s)) for s in (90, 100, 110)]

    assert estimate(pairs, rate_ratio) == estimate(pairs, rate_ratio)
