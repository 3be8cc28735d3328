"""When a trial answer is due, and when those that there are end the reasoning."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.reasoning.answer_policy import AnswerPolicy, PolicyPlan
from serve_app.core.reasoning.early_exit import is_stable, trial_is_due

VALUES = st.lists(st.none() | st.sampled_from(["20", "21", ""]), max_size=8)


@pytest.mark.parametrize(
    ("values", "stable"),
    [
        ([], False),
        (["20"], False),
        (["20", "20"], True),
        (["20", "21"], False),
        (["20", "20", "21"], False),
        (["21", "20", "20"], True),
        ([None, None], False),
        (["20", None, "20"], False),
    ],
)
def test_two_trials_in_a_row_that_agree_end_it(values: list[str | None], stable: bool) -> None:
    assert is_stable(values) is stable


@given(VALUES)
def test_what_came_before_the_last_two_changes_nothing(values: list[str | None]) -> None:
    assert is_stable(values) == is_stable(values[-2:])
    assert not is_stable([*values, None])


@given(st.integers(1, 5000), st.integers(4, 300))
def test_no_more_trials_are_due_than_are_paid_for(tokens: int, every: int) -> None:
    """The quota of a request has room for all of them."""
    asked_at = trials = 0
    for at in range(1, tokens + 1):
        if trial_is_due(at, asked_at=asked_at, every_tokens=every):
            asked_at, trials = at, trials + 1
    plan = PolicyPlan(AnswerPolicy.EARLY_EXIT, every, trial_tokens=7)
    assert trials * 7 == plan.unseen_tokens(tokens)
    assert PolicyPlan(AnswerPolicy.DIRECT).unseen_tokens(tokens) == 0
