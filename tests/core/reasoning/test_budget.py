"""How a request's tokens are divided between its thought and its answer."""

from math import ceil
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.reasoning.budget import (
    EFFORT_SHARES,
    LEAST_THOUGHT_TOKENS,
    ThinkingPlan,
    ThoughtBudget,
    thought_budget,
)

CLOSING = 12
SHARES = st.floats(min_value=0.01, max_value=0.99)
EFFORTS = st.sampled_from(sorted(set(EFFORT_SHARES.values())))
LIMITS = st.integers(1, 40_000)
PLANS = st.builds(
    ThinkingPlan,
    enabled=st.just(True),
    answer_tokens=st.integers(1, 10_000),
    answer_share=SHARES,
    most_tokens=st.none() | st.integers(0, 40_000),
    effort=EFFORTS,
)


def a_plan(**changed: Any) -> ThinkingPlan:
    plan: dict[str, Any] = {"enabled": True, "answer_tokens": 512, "answer_share": 0.25}
    return ThinkingPlan(**{**plan, **changed})


def budget(plan: ThinkingPlan, max_tokens: int = 2048) -> ThoughtBudget:
    return thought_budget(plan, max_tokens=max_tokens, closing_tokens=CLOSING)


def tokens(plan: ThinkingPlan, max_tokens: int = 2048) -> int:
    return budget(plan, max_tokens).tokens or 0


# --- examples


def test_a_thought_gets_what_is_neither_the_answers_nor_its_closings() -> None:
    assert budget(a_plan()) == ThoughtBudget(2048 - 512 - CLOSING, "2048 less 512 for the answer")


def test_of_a_smaller_limit_a_share_is_kept_for_the_answer() -> None:
    assert tokens(a_plan(), 100) == 100 - 25 - CLOSING


def test_what_is_kept_for_an_answer_is_bounded_however_large_the_limit() -> None:
    assert tokens(a_plan(answer_tokens=64)) == 2048 - 64 - CLOSING


def test_the_requests_own_bound_is_taken_and_a_larger_one_gives_no_more() -> None:
    assert tokens(a_plan(most_tokens=30)) == 30
    assert tokens(a_plan(most_tokens=100_000)) == tokens(a_plan())


def test_the_effort_is_a_share_of_what_the_limit_leaves() -> None:
    room = 2048 - 512 - CLOSING
    assert [tokens(a_plan(effort=share)) for share in (0.1, 0.25, 0.5)] == [
        int(room * share) for share in (0.1, 0.25, 0.5)
    ]


# --- no thought, and why


@pytest.mark.parametrize(
    ("plan", "max_tokens", "why"),
    [
        (a_plan(enabled=False), 2048, "thinking is off"),
        (a_plan(most_tokens=0), 2048, "the request wants no thought"),
        (a_plan(), 20, "20 tokens leave 3 beside the answer's 5"),
        (a_plan(), 4, "4 tokens leave 0 beside the answer's 1"),
    ],
)
def test_where_there_is_to_be_no_reasoning_the_cause_is_reported(
    plan: ThinkingPlan, max_tokens: int, why: str
) -> None:
    assert budget(plan, max_tokens) == ThoughtBudget(None, why)


def test_the_shortest_thought_begins_where_its_room_is_just_enough() -> None:
    plan = a_plan(answer_tokens=1)
    enough = 1 + CLOSING + LEAST_THOUGHT_TOKENS
    assert budget(plan, enough - 1).tokens is None
    assert budget(plan, enough).tokens == LEAST_THOUGHT_TOKENS


def test_a_thought_that_there_is_has_a_token() -> None:
    assert budget(a_plan(effort=0.1, answer_tokens=1), 1 + CLOSING + 8).tokens == 1


# --- laws


@given(PLANS, LIMITS, st.integers(1, 40))
def test_thought_closing_and_what_is_kept_for_the_answer_fit_into_the_limit(
    plan: ThinkingPlan, max_tokens: int, closing_tokens: int
) -> None:
    given_tokens = thought_budget(plan, max_tokens=max_tokens, closing_tokens=closing_tokens).tokens
    if given_tokens is None:
        return
    kept = min(plan.answer_tokens, ceil(max_tokens * plan.answer_share))
    assert kept >= 1
    assert given_tokens >= 1
    assert given_tokens + closing_tokens + kept <= max_tokens
    assert plan.most_tokens is None or given_tokens <= plan.most_tokens


@given(PLANS, LIMITS, st.integers(1, 5000))
def test_a_larger_limit_never_gives_a_smaller_budget(
    plan: ThinkingPlan, max_tokens: int, more: int
) -> None:
    assert tokens(plan, max_tokens) <= tokens(plan, max_tokens + more)


@given(SHARES, LIMITS, EFFORTS, EFFORTS)
def test_more_effort_never_gives_a_smaller_budget(
    share: float, max_tokens: int, one: float, other: float
) -> None:
    less, more = sorted((one, other))
    assert tokens(a_plan(answer_share=share, effort=less), max_tokens) <= tokens(
        a_plan(answer_share=share, effort=more), max_tokens
    )


def test_the_names_of_the_efforts_stand_in_their_order() -> None:
    shares = [EFFORT_SHARES[name] for name in ("minimal", "low", "medium", "high", "xhigh", "max")]
    assert shares == sorted(shares)
    assert shares[0] > 0
    assert shares[-1] == 1.0
