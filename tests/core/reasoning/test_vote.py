"""A vote is decided once it cannot change, and by the first of the majority."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.reasoning.vote import ABSTENTIONS, Ballot, Verdict, verdict

VALUES = st.none() | st.sampled_from(["a", "b", "c"])


def ballots(*values: str | None) -> list[Ballot]:
    return [Ballot(sample, value) for sample, value in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "samples", "found"),
    [
        ([], 3, None),
        (["a"], 3, None),
        (["a", "a"], 3, Verdict(0, 2, 2)),
        (["a", "b"], 3, None),
        (["a", "b", "b"], 3, Verdict(1, 2, 3)),
        (["a", "b", "c"], 3, Verdict(0, 1, 3)),
        (["a", "a"], 4, Verdict(0, 2, 2)),
        (["a", "b", "a"], 4, Verdict(0, 2, 3)),
        ([None, "a"], 3, Verdict(1, 1, 2)),
        ([None], 3, None),
        ([None, None], 5, Verdict(0, 0, 2)),
        (["a", None, None], 5, None),
        (["a"], 1, Verdict(0, 1, 1)),
        (["a", "a", "b", "b"], 5, None),
        (["b", "a", "a"], 4, None),
        (["b", "a", "a", "b"], 4, Verdict(0, 2, 4)),
    ],
)
def test_the_verdict(values: list[str | None], samples: int, found: Verdict | None) -> None:
    assert verdict(ballots(*values), samples) == found


def test_only_whole_samples_are_answers_in_words() -> None:
    failed, whole = Ballot(0, None, whole=False), Ballot(1, None)
    assert verdict([failed, failed], 3) is None
    assert verdict([failed, whole], 3) is None
    assert verdict([failed, whole, failed], 3) == Verdict(1, 0, 3)
    assert verdict([failed, whole, Ballot(2, None)], 5) == Verdict(1, 0, 3)
    assert verdict([failed, Ballot(2, "a", whole=False), whole], 3) == Verdict(2, 1, 3)
    # Some answer is better than none.
    assert verdict([failed, Ballot(1, None, whole=False)], 2) == Verdict(0, 0, 2)


def test_where_all_have_to_have_a_value_none_is_given_up() -> None:
    assert verdict(ballots(None, None), 3, abstentions=None) is None
    assert verdict(ballots(None, None, None), 3, abstentions=None) == Verdict(0, 0, 3)


def test_the_first_to_finish_stands_for_its_answer() -> None:
    late = [Ballot(2, "a"), Ballot(0, "b"), Ballot(1, "a")]
    assert verdict(late, 3) == Verdict(2, 2, 3)


@given(st.lists(VALUES, min_size=1, max_size=5), st.integers(0, 3))
def test_no_sample_to_come_changes_what_was_decided(values: list[str | None], more: int) -> None:
    """But where no sample has a final answer: then nothing is voted on."""
    samples = len(values) + more
    decided = verdict(ballots(*values), samples)
    if decided is None:
        assert more > 0
        return
    if decided.agreeing == 0:
        assert all(value is None for value in values)
        assert more == 0 or len(values) >= ABSTENTIONS
        return
    for rest in product(["a", "b", "new", None], repeat=more):
        later = verdict(ballots(*values, *rest), samples)
        assert later is not None
        assert later.sample == decided.sample


@given(st.lists(VALUES, min_size=1, max_size=6))
def test_with_all_samples_there_always_is_one(values: list[str | None]) -> None:
    found = verdict(ballots(*values), len(values))
    assert found is not None
    said = [value for value in values if value is not None]
    most = max((said.count(value) for value in said), default=0)
    assert found.agreeing == most
    if most:
        winner = values[found.sample]
        assert winner is not None
        assert said.count(winner) == most
        assert values.index(values[found.sample]) == found.sample


@given(st.lists(VALUES, min_size=1, max_size=4), st.integers(1, 3))
def test_it_is_decided_as_early_as_it_can_be(values: list[str | None], more: int) -> None:
    """While it is open, two samples to come can still make a difference."""
    samples = len(values) + more
    if verdict(ballots(*values), samples) is not None:
        return
    ends = {
        found.sample
        for rest in product(["a", "b", "c", "new", None], repeat=more)
        if (found := verdict(ballots(*values, *rest), samples)) is not None
    }
    assert len(ends) > 1
