"""Where a thought ends, and how, by the token ids of a generation."""

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from serve_app.core.generation import Generation
from serve_app.core.reasoning.trace import ThoughtEnd, ThoughtMarks, ThoughtTrace

START, END = 1, 2
PHRASE = (7, 8, 9)
MARKS = ThoughtMarks(START, END, opening=(START, 3), closing=(*PHRASE, END), none=(3, END, 4))
IDS = st.lists(st.sampled_from([2, 5, 6, 7, 8, 9]), max_size=30)
THOUGHT_IDS = st.lists(st.sampled_from([5, 6, 7, 8, 9]), max_size=12)


def traced(*deltas: Sequence[int], budget: int | None = 5) -> ThoughtTrace:
    trace = ThoughtTrace(MARKS, budget)
    for delta in deltas:
        trace.take(delta)
    return trace


def facts(trace: ThoughtTrace) -> tuple[int, int, ThoughtEnd]:
    return trace.tokens, trace.answer_tokens, trace.end


# --- what a prompt leaves open


@pytest.mark.parametrize(
    ("prompt", "open_tokens"),
    [
        ([], None),
        ([5, 6], None),
        ([5, START], 0),
        ([5, START, 3], 1),
        ([START, 5, END], None),
        ([START, 5, END, 6, START, 3, 3], 2),
        ([5, *MARKS.opening, *MARKS.none], None),
    ],
)
def test_the_last_mark_of_a_prompt_says_whether_a_thought_is_open(
    prompt: list[int], open_tokens: int | None
) -> None:
    assert MARKS.open_tokens(prompt) == open_tokens


# --- how a thought ends


def test_a_generation_begins_inside_its_thought() -> None:
    trace = traced()
    assert (trace.is_open, trace.end) == (True, ThoughtEnd.UNFINISHED)


def test_a_thought_that_the_model_closes_is_complete() -> None:
    assert facts(traced([5, 6], [END, 5, 5])) == (2, 2, ThoughtEnd.COMPLETE)


def test_a_thought_that_never_ends_is_unfinished_and_all_of_it_counts() -> None:
    assert facts(traced([5, 6], [5])) == (3, 0, ThoughtEnd.UNFINISHED)


def test_without_a_budget_there_is_no_thought_and_all_is_answer() -> None:
    trace = traced([5, 6], [END, 5], budget=None)
    assert facts(trace) == (0, 4, ThoughtEnd.OFF)
    assert not trace.is_open


def test_a_second_closing_mark_is_a_part_of_the_answer() -> None:
    assert facts(traced([5, END, 6, END, 6])) == (1, 3, ThoughtEnd.COMPLETE)


def test_a_thought_closed_outside_its_budget_is_cut_with_the_phrase_counted() -> None:
    trace = traced([5, 6])
    trace.cut(MARKS.closing)
    trace.take([5])
    assert facts(trace) == (2 + len(PHRASE), 1, ThoughtEnd.CUT)


@given(THOUGHT_IDS, st.integers(0, 12))
def test_cut_is_said_only_where_the_phrase_stands_at_the_budget(
    own: list[int], budget: int
) -> None:
    """Or across it: model runner V2 goes on with a phrase that the model has begun."""
    end = traced([*own, *MARKS.closing, 5], budget=budget).end
    forced = len(own) <= budget <= len(own) + len(PHRASE)
    assert end is (ThoughtEnd.CUT if forced else ThoughtEnd.COMPLETE)


@given(THOUGHT_IDS)
def test_a_thought_without_the_phrase_is_complete_even_at_its_budget(own: list[int]) -> None:
    assume(tuple(own[-len(PHRASE) :]) != PHRASE)
    assert traced([*own, END], budget=len(own) - len(PHRASE)).end is ThoughtEnd.COMPLETE
    assert traced([*own, END], budget=len(own)).end is ThoughtEnd.COMPLETE


def test_without_a_phrase_only_the_budget_shows_a_truncation() -> None:
    bare = ThoughtMarks(START, END, opening=(START,), closing=(END,), none=(END,))
    for own, end in ([5, 5], ThoughtEnd.CUT), ([5], ThoughtEnd.COMPLETE):
        trace = ThoughtTrace(bare, 2)
        trace.take([*own, END, 6])
        assert facts(trace) == (len(own), 1, end)


# --- laws


@given(IDS, st.lists(st.integers(0, 30), max_size=8), st.none() | st.integers(0, 12))
def test_what_is_counted_does_not_depend_on_how_the_ids_are_cut_into_deltas(
    ids: list[int], cuts: list[int], budget: int | None
) -> None:
    at = [0, *sorted(min(cut, len(ids)) for cut in cuts), len(ids)]
    deltas = [ids[a:b] for a, b in itertools.pairwise(at)]
    whole = facts(traced(ids, budget=budget))
    assert facts(traced(*deltas, budget=budget)) == whole
    assert facts(traced(*([token] for token in ids), budget=budget)) == whole


@given(IDS, st.integers(0, 12))
def test_each_id_is_counted_once_and_the_closing_mark_never(ids: list[int], budget: int) -> None:
    tokens, answer_tokens, end = facts(traced(ids, budget=budget))
    assert tokens + answer_tokens == len(ids) - (end is not ThoughtEnd.UNFINISHED)


def test_two_requests_share_no_sequences() -> None:
    assert Generation().sequences is not Generation().sequences
