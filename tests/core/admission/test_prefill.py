"""How long prompts take, as reckoned and as learnt."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.admission.prefill import (
    ENGINE_LIMIT_S,
    QUICKEST,
    SLOWEST,
    STEP_TOKENS,
    PrefillAhead,
    PrefillPace,
    engine_limit_s,
    observe_prefill,
    prompt_token_s,
)


def test_a_whole_chunk_takes_its_tokens_and_one_step_beside_it() -> None:
    assert prompt_token_s(0.1, 40.0) * STEP_TOKENS == pytest.approx(0.1 * STEP_TOKENS / 1e3 + 0.04)


def test_until_anything_is_read_the_reckoned_time_holds() -> None:
    assert PrefillPace().factor == 1.0


@given(st.floats(QUICKEST, 50), st.lists(st.floats(0.1, 10), min_size=150, max_size=200))
def test_the_pace_converges_to_what_is_measured(factor: float, reckoned: list[float]) -> None:
    pace = PrefillPace()
    for reckoned_s in reckoned:
        pace = observe_prefill(pace, took_s=factor * reckoned_s, reckoned_s=reckoned_s)
    assert pace.factor == pytest.approx(factor, rel=0.1)


@given(st.lists(st.tuples(st.floats(0, 1e4), st.floats(0, 1e4)), max_size=50))
def test_no_measurement_leads_out_of_bounds(times: list[tuple[float, float]]) -> None:
    pace = PrefillPace()
    for took_s, reckoned_s in times:
        pace = observe_prefill(pace, took_s=took_s, reckoned_s=reckoned_s)
        assert QUICKEST <= pace.factor <= SLOWEST


@given(st.floats(0.1, 1000))
def test_the_engine_is_given_little_of_the_longest_wait(max_wait_s: float) -> None:
    limit_s = engine_limit_s(max_wait_s)
    assert 0 < limit_s <= ENGINE_LIMIT_S
    assert limit_s * 10 <= max_wait_s * (1 + 1e-9)


def test_a_first_token_waits_for_its_slot_and_for_the_prompts_before_it() -> None:
    ahead = PrefillAhead(engine_s=1.0, queued_s=2.0, own_s=0.5)
    assert ahead.first_token_in_s(0.0) == 3.5
    assert ahead.first_token_in_s(10.0) == 10.5
