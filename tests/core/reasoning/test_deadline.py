"""What the time allows: never more than fits, more time never less, and when it is over."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from serve_app.core.reasoning.budget import ThinkingPlan
from serve_app.core.reasoning.deadline import (
    BY_DEADLINE,
    BY_QUEUE,
    END_S,
    DeadlinePlan,
    Pace,
    RunningDeadline,
    plan_within,
)

LEFT_S = st.floats(0, 120)
PACES = st.builds(Pace, st.floats(0, 30), st.floats(1e-4, 1.0))
THINKING = st.one_of(
    st.none(),
    st.builds(
        ThinkingPlan,
        st.booleans(),
        st.integers(1, 600),
        st.floats(0.01, 0.99),
        st.none() | st.integers(0, 2000),
        st.sampled_from([0.1, 0.25, 0.5, 1.0]),
    ),
)
R1 = ThinkingPlan(enabled=True, answer_tokens=512, answer_share=0.25)


def planned(
    left_s: float,
    pace: Pace,
    thinking: ThinkingPlan | None = R1,
    *,
    max_new_tokens: int = 2048,
    least_answer_tokens: int = 32,
) -> DeadlinePlan:
    return plan_within(
        left_s,
        pace,
        thinking,
        max_new_tokens=max_new_tokens,
        least_answer_tokens=least_answer_tokens,
    )


@given(LEFT_S, PACES, THINKING, st.integers(1, 4096), st.integers(1, 64))
def test_given_true_speeds_what_is_planned_is_never_late(
    left_s: float, pace: Pace, thinking: ThinkingPlan | None, most: int, least: int
) -> None:
    plan = planned(left_s, pace, thinking, max_new_tokens=most, least_answer_tokens=least)
    if plan.max_new_tokens:
        assert pace.takes_s(plan.max_new_tokens) <= left_s
        assert min(least, most) <= plan.max_new_tokens <= most
        assert plan.answer_tokens >= min(least, most)
        assert (plan.reasoning_tokens or 0) + plan.answer_tokens <= plan.max_new_tokens
    else:
        # Not even the shortest direct answer would be in time.
        assert pace.takes_s(min(least, most)) > left_s


@given(LEFT_S, st.floats(0, 60), PACES, THINKING, st.integers(1, 4096))
def test_more_time_never_leaves_less(
    left_s: float, more_s: float, pace: Pace, thinking: ThinkingPlan | None, most: int
) -> None:
    less = planned(left_s, pace, thinking, max_new_tokens=most)
    more = planned(left_s + more_s, pace, thinking, max_new_tokens=most)
    assert more.max_new_tokens >= less.max_new_tokens
    assert (more.reasoning_tokens or 0) >= (less.reasoning_tokens or 0)


@given(LEFT_S, PACES, st.floats(1.0, 10.0))
def test_a_faster_stream_never_leaves_less(left_s: float, pace: Pace, times: float) -> None:
    fast = Pace(pace.first_token_s / times, pace.token_s / times)
    assert planned(left_s, fast).max_new_tokens >= planned(left_s, pace).max_new_tokens


@given(LEFT_S, PACES)
def test_the_most_tokens_that_fit_are_the_most(left_s: float, pace: Pace) -> None:
    tokens = pace.tokens_within(left_s)
    assume(tokens < 1_000_000)
    assert pace.takes_s(tokens) <= left_s or tokens == 0
    # But for what the quotient rounds.
    assert pace.takes_s(tokens + 2) > left_s


def test_a_request_with_all_the_time_gets_what_it_would_get_without_a_deadline() -> None:
    plan = planned(600.0, Pace(0.5, 0.02))
    assert (plan.max_new_tokens, plan.reasoning_cut, plan.answer_cut) == (2048, False, False)


def test_ten_seconds_at_fifty_tokens_a_second_are_divided_as_any_limit() -> None:
    plan = planned(10.1, Pace(0.02, 0.02))
    assert (plan.max_new_tokens, plan.answer_tokens) == (500, 125)
    assert plan.reasoning_tokens == 500 - 125 - 24
    assert plan.reasoning_cut
    assert plan.answer_cut


def test_where_little_time_is_left_the_answer_is_direct() -> None:
    plan = planned(1.1, Pace(0.02, 0.02))
    assert (plan.max_new_tokens, plan.reasoning_tokens, plan.reasoning_cut) == (50, None, True)


def test_where_the_shortest_answer_does_not_fit_nothing_is_planned() -> None:
    plan = planned(0.5, Pace(0.02, 0.02))
    assert plan.max_new_tokens == 0
    assert "0.50 s leave 20 tokens; an answer has 32" in plan.reason


def test_a_request_without_reasoning_keeps_all_for_its_answer() -> None:
    off = ThinkingPlan(enabled=False, answer_tokens=512, answer_share=0.25)
    for thinking in (None, off):
        plan = planned(4.11, Pace(0.02, 0.02), thinking)
        assert (plan.reasoning_tokens, plan.answer_tokens) == (None, 200)
        assert not plan.reasoning_cut


@given(st.floats(1, 60), st.floats(1e-3, 0.2), st.floats(0, 2))
def test_reasoning_that_is_closed_when_it_says_so_leaves_the_answer_its_time(
    left_s: float, token_s: float, turn_s: float
) -> None:
    """At a speed that is as measured, whatever the plan was made for."""
    plan = planned(left_s, Pace(turn_s, token_s / 2))
    assume(plan.reasoning_tokens is not None)
    now_s = 0.0
    running = RunningDeadline(
        round(left_s * 1e3), left_s, lambda: now_s, lambda: token_s, lambda _: turn_s, plan
    )
    assume(running.close_reasoning(0, 0) is None)
    tokens = 0
    while running.close_reasoning(0, tokens) is None:
        tokens, now_s = tokens + 1, now_s + token_s
    assert now_s + turn_s + plan.answer_tokens * token_s + END_S <= left_s + token_s


def test_reasoning_goes_on_while_there_is_time_and_is_closed_when_the_stream_slows_down() -> None:
    plan = planned(10.0, Pace(0.02, 0.02))
    speeds = {"token_s": 0.02}
    running = RunningDeadline(10_000, 10.0, lambda: 5.0, lambda: speeds["token_s"], plan=plan)
    assert running.close_reasoning(0, 250) is None
    speeds["token_s"] = 0.05
    assert running.close_reasoning(0, 250) == BY_DEADLINE


def test_reasoning_is_closed_for_those_that_wait_only_while_they_do() -> None:
    most: list[float | None] = [None]
    running = RunningDeadline(
        60_000,
        60.0,
        lambda: 0.0,
        plan=planned(60.0, Pace(0.02, 0.02)),
        crowded_tokens=lambda: most[0],
    )
    assert running.close_reasoning(0, 250) is None
    most[0] = 251.0
    assert running.close_reasoning(0, 250) is None
    assert running.close_reasoning(0, 251) == BY_QUEUE
    most[0] = None
    assert running.close_reasoning(0, 300) is None


def test_an_answer_is_due_when_another_token_may_be_late() -> None:
    now_s = 0.0
    running = RunningDeadline(5000, 5.0, lambda: now_s, lambda: 0.1)
    now_s = 4.7
    assert not running.is_due
    now_s = 4.85
    assert running.is_due
    assert running.met
    now_s = 5.01
    assert not running.met


@pytest.mark.parametrize("left_s", [0.0, -1.0, float("nan"), float("-inf")])
def test_no_time_leaves_no_token(left_s: float) -> None:
    assert Pace(0.0, 0.01).tokens_within(left_s) == 0
