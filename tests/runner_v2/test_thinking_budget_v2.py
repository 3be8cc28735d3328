"""Model runner V2's own kernels of the thinking budget, with our patches of them, on the cases of
runner V1 (tests/engine/test_patched_vllm.py)."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.core.reasoning.trace import ThoughtTrace
from tests.engine.budget_cases import (
    BEHIND_REASONING,
    BUDGETS,
    CASES,
    CLOSING,
    LEAN,
    OPEN_TOKENS,
    PROMPT,
    WANTS,
    Case,
    asked,
    differs_where_it_joins,
    expected,
    forced,
    written,
)
from tests.engine.fake_generation import END, MARKS, PHRASE, START
from tests.runner_v2.batch import Batch, begin, begin_unpatched

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(900)]

# A step takes the interpreter 10 ms.
few = settings(max_examples=20)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_budget_ends_its_reasoning_once(case: Case) -> None:
    assert written(begin([], case.budget), case.wants) == list(case.ids)


def test_vllms_own_counts_anew_at_each_mark() -> None:
    """What `single_reasoning` is for: the phrase in an answer, and a reasoning without an end."""
    answer = CASES["a mark that opens one, in the answer"]
    spoilt = written(begin_unpatched([], answer.budget), answer.wants)
    assert set(PHRASE) & set(spoilt[2:])
    endless = [START] * 40
    assert written(begin_unpatched([], 4), endless) == endless


def test_a_phrase_that_the_model_has_begun_is_gone_on_with() -> None:
    """Runner V1 writes all of it. Both are reported as a truncation."""
    budget = 5
    own = [5] * (budget - OPEN_TOKENS - 1)
    wants = [*own, PHRASE[0], *[9] * 9]
    ids = written(begin([], budget), wants)
    assert ids == [*own, *CLOSING, *[9] * 9]
    trace = ThoughtTrace(MARKS, budget - OPEN_TOKENS)
    trace.take(ids)
    assert trace.end == "cut"


@few
@given(WANTS, BUDGETS)
def test_what_comes_out_is_what_counting_says(wants: list[int], budget: int) -> None:
    ids = written(begin([], budget), wants)
    assert ids == expected(wants, budget, goes_on=True)
    trace = ThoughtTrace(MARKS, max(0, budget - OPEN_TOKENS))
    trace.take(ids)
    if END in ids:
        assert trace.end == ("cut" if trace.tokens + OPEN_TOKENS >= budget else "complete")


@pytest.mark.parametrize(
    "wants", [[5, 6, END, *[9] * 6], [9] * 12, [5, END, START, *[9] * 5]], ids=str
)
def test_an_output_that_is_there_counts_as_if_it_had_been_written_here(
    wants: Sequence[int],
) -> None:
    assert differs_where_it_joins(begin, wants, 9) == []


@few
@given(st.lists(st.sampled_from([5, *PHRASE, START, END]), max_size=8), BUDGETS)
def test_it_does_so_whatever_it_is(wants: list[int], budget: int) -> None:
    assert differs_where_it_joins(begin, [*wants, 9, 9], budget) == []


@few
@given(
    st.lists(st.sampled_from([5, *PHRASE, END]), max_size=8),
    st.lists(st.sampled_from([5, *PHRASE, END]), min_size=1, max_size=5),
    BUDGETS,
)
def test_behind_drafted_tokens_it_is_as_if_they_had_been_written(
    output: list[int], draft: list[int], budget: int
) -> None:
    """Speculative decoding: a row for each draft, of which the engine takes as many as fit."""
    batch = Batch(drafts=5)
    slot = batch.join("one", asked(budget), output)
    rows = batch.logits([slot], [draft])
    for at, row in enumerate(rows):
        if END in draft[:at] and END not in output:
            break
        alone = begin([*output, *draft[:at]], budget)
        token = int(row.argmax()) if row.any() else None
        assert token == forced(alone), (at, rows)


def test_several_tokens_of_one_step_are_all_looked_at() -> None:
    batch = Batch(drafts=3)
    slot = batch.join("one", asked(4))
    assert not batch.logits([slot]).any()
    batch.write(slot, 5, END, START)
    for _ in range(8):
        assert not batch.logits([slot]).any()
        batch.write(slot, 9)


def test_a_slot_forgets_who_had_it() -> None:
    """With the same budget, which vLLM does not send once more."""
    batch = Batch()
    first = batch.join("first", asked(4), [5, START, END])
    assert not batch.logits([first]).any()
    batch.leave("first")
    second = batch.join("second", asked(4))
    assert second == first
    for _ in range(3):
        assert not batch.logits([second]).any()
        batch.write(second, 5)
    assert int(batch.logits([second])[0].argmax()) == CLOSING[0]


def test_sequences_of_a_batch_have_each_its_own() -> None:
    batch = Batch()
    free = batch.join("free", asked(None))
    short, over = batch.join("short", asked(2)), batch.join("over", asked(9), [5, END])
    rows = []
    for _ in range(4):
        rows = batch.logits([over, free, short])
        assert not rows[:2].any()
        for slot in (over, free, short):
            batch.write(slot, int(rows[2].argmax()) if slot == short and rows[2].any() else 5)
    assert int(batch.requests.all_token_ids.gpu[short, len(PROMPT) + 3]) == CLOSING[2]


@pytest.mark.parametrize("output", [[], [5] * 4], ids=["begins", "resumed"])
def test_the_reasonings_end_gets_a_bias_that_grows_with_what_is_spent(output: list[int]) -> None:
    budget = 9
    sequence = begin(output, budget, LEAN)
    for spent in range(OPEN_TOKENS + len(output), budget):
        row = sequence.logits()
        assert row[END] == pytest.approx(LEAN.bias(spent, budget))
        assert row.sum() == pytest.approx(LEAN.bias(spent, budget))
        sequence.write(5)
    assert forced(sequence) == CLOSING[0]


def test_a_second_mark_changes_no_bias() -> None:
    budget = 9
    sequence = begin([5, START, 5], budget, LEAN)
    assert sequence.logits()[END] == pytest.approx(LEAN.bias(OPEN_TOKENS + 3, budget))


@pytest.mark.parametrize("output", BEHIND_REASONING.values(), ids=BEHIND_REASONING)
def test_nothing_leans_behind_the_reasoning(output: list[int]) -> None:
    assert begin(output, 9, LEAN).logits()[END] == 0.0
    assert begin([5, END, START, 5], 9, LEAN).logits()[END] == 0.0
