"""Whether a request with a deadline is taken in, and when it would be."""

from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.admission.by_deadline import ShortestAnswer, too_late
from serve_app.core.reasoning.deadline import END_S, Pace

IDLE, BUSY, NOW = Pace(0.1, 0.01), Pace(0.2, 0.05), Pace(0.1, 0.02)


def shortest(left_s: float, *, tokens: int = 32) -> ShortestAnswer:
    return ShortestAnswer(left_s, tokens, IDLE, BUSY, NOW)


def test_one_that_starts_in_time_is_taken() -> None:
    late = too_late(shortest(5.0), start_in_s=2.0, margin=1.25, service_s=10.0)
    assert late is None


def test_one_that_an_idle_tier_could_not_answer_in_time_never_is() -> None:
    late = too_late(shortest(0.3), start_in_s=0.0, margin=1.0, service_s=10.0)
    assert late is not None
    assert late.never


def test_one_that_would_start_too_late_comes_back_when_the_wait_is_short_enough() -> None:
    late = too_late(shortest(5.0), start_in_s=20.0, margin=1.0, service_s=10.0)
    assert late is not None
    # It needs 0.2 + 31 x 0.05 + 0.1 s from its start on.
    assert late.retry_after_s == 17
    assert late.reason == "its slots come in 20.00 s, 16.85 s too late"


def test_where_no_wait_is_to_blame_it_comes_back_once_a_request_has_ended() -> None:
    late = too_late(shortest(0.6), start_in_s=None, margin=1.0, service_s=10.0)
    assert late is not None
    assert (late.never, late.retry_after_s) == (False, 10)


def test_one_that_has_its_slots_at_once_is_measured_by_the_speed_of_now() -> None:
    """0.82 s now, and 1.85 s in a full batch."""
    assert too_late(shortest(1.0), start_in_s=None, margin=1.25, service_s=10.0) is None
    assert too_late(shortest(1.0), start_in_s=0.0, margin=1.25, service_s=10.0) is not None


@given(st.floats(0.6, 60), st.floats(0, 60), st.integers(1, 64), st.floats(1, 2))
def test_what_is_taken_is_in_time_if_it_starts_as_forecast_and_a_retry_in_time_is_taken(
    left_s: float, start_in_s: float, tokens: int, margin: float
) -> None:
    one = shortest(left_s, tokens=tokens)
    late = too_late(one, start_in_s=start_in_s, margin=margin, service_s=10.0)
    if late is None:
        took_s = BUSY.first_token_s + (tokens - 1) * BUSY.token_s + END_S
        assert start_in_s * margin + took_s <= left_s + 1e-9
    elif not late.never and one.latest_start_s >= 0:
        # The queue has drained meanwhile.
        then_s = max(0.0, start_in_s - late.retry_after_s)
        assert too_late(one, start_in_s=then_s, margin=margin, service_s=10.0) is None


def test_it_counts_as_no_more_work_than_its_time_allows() -> None:
    assert shortest(10.2).most_tokens == 1 + 1000
    assert shortest(0.0).most_tokens == 32
