"""The margin that the gate allows itself on its forecasts."""

from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.admission.forecasts import DERIVED_MARGIN, KEPT_S, MOST_MARGIN, Forecasts

RATIOS = st.lists(st.floats(0.1, 5), min_size=100, max_size=400)


@given(RATIOS)
def test_once_in_a_hundred_a_forecast_falls_short(ratios: list[float]) -> None:
    forecasts = Forecasts()
    for ratio in ratios:
        forecasts.observe(now_s=0.0, forecast_s=2.0, took_s=2.0 * ratio)
    margin, last = forecasts.margin(0.0), ratios[-200:]
    assert 1 <= margin <= MOST_MARGIN
    if margin < MOST_MARGIN:
        assert sum(ratio > margin for ratio in last) <= len(last) // 100


def test_before_there_are_any_a_little_is_allowed() -> None:
    assert Forecasts().margin(0.0) == DERIVED_MARGIN


def test_bad_ones_are_forgotten() -> None:
    forecasts = Forecasts()
    forecasts.observe(now_s=0.0, forecast_s=1.0, took_s=9.0)
    assert forecasts.margin(KEPT_S - 1) == MOST_MARGIN
    assert forecasts.margin(KEPT_S + 1) == DERIVED_MARGIN


def test_good_ones_need_no_margin() -> None:
    forecasts = Forecasts()
    for _ in range(50):
        forecasts.observe(now_s=0.0, forecast_s=1.0, took_s=0.5)
    assert forecasts.margin(0.0) == 1.0
