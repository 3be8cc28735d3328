"""When a budget ends, on a fake of vLLM's holder that counts a reasoning which the model has closed
itself and then writes the phrase; tests/engine/test_patched_vllm.py has the real one."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from serve_app.engine.vllm.patches.thinking_budget import ended_with_the_reasoning
from tests.engine.fake_generation import END, PHRASE, START


class FakeHolder:
    def __init__(self, reasoning_config: Any, max_num_seqs: int, *, device: str) -> None:
        self.made_with = (reasoning_config, max_num_seqs, device)

    def _update_think_state(self, state: dict[str, Any]) -> None:
        state["in_end"] = len(state["output_tok_ids"]) >= state["thinking_token_budget"]
        state["force_index"] = [0] if state["in_end"] else []


PATCHED: Any = cast("Any", ended_with_the_reasoning)(FakeHolder)


def a_holder(natural: list[int] | None = None) -> Any:
    config = SimpleNamespace(natural_reasoning_end_token_ids=[END] if natural is None else natural)
    return PATCHED(config, 4, device="cpu")


def a_state(budget: int = 4) -> dict[str, Any]:
    return {
        "output_tok_ids": [],
        "thinking_token_budget": budget,
        "in_end": False,
        "force_index": [],
    }


def forced(holder: Any, state: dict[str, Any], *steps: Sequence[int]) -> list[bool]:
    """After each step, whether the phrase is being written."""
    found = []
    for step in steps:
        state["output_tok_ids"] = [*state["output_tok_ids"], *step]
        holder._update_think_state(state)
        found.append(state["in_end"])
    return found


def test_the_fake_holder_writes_the_phrase_into_an_answer_and_the_patched_one_does_not() -> None:
    steps = [[5], [END], [9], [9], [9]]
    plain = FakeHolder(None, 4, device="cpu")
    assert forced(plain, a_state(), *steps) == [False, False, False, True, True]
    state = a_state()
    assert forced(a_holder(), state, *steps) == [False] * 5
    assert state["force_index"] == []


def test_a_thought_is_closed_at_its_budget_and_left_alone_behind_the_mark() -> None:
    steps = [[5, 5, 5], [5], [PHRASE[0]], [PHRASE[1]], [END], [9]]
    reported = forced(a_holder(), a_state(), *steps)
    assert reported == [False, True, True, True, False, False]


def test_a_mark_among_several_new_tokens_is_found_once_and_for_all() -> None:
    holder, state = a_holder(), a_state()
    assert forced(holder, state, [5, END, 9, 9, 9, 9], [START, 5], []) == [False] * 3
    assert state["thinking_token_budget"] == -1


def test_the_end_of_an_earlier_thought_in_the_prompt_does_not_end_this_one() -> None:
    state = {**a_state(), "prompt_tok_ids": [START, 5, END, START]}
    assert forced(a_holder(), state, [5, 5, 5, 5]) == [True]


def test_of_several_marks_that_close_naturally_the_last_one_counts() -> None:
    assert forced(a_holder([77, END]), a_state(), [5, 5, 5, END], [9]) == [False, False]


@pytest.mark.parametrize("config", [None, SimpleNamespace(natural_reasoning_end_token_ids=None)])
def test_without_a_mark_the_holder_is_vllms(config: Any) -> None:
    holder: Any = PATCHED(config, 4, device="cpu")
    assert holder.made_with == (config, 4, "cpu")
    assert forced(holder, a_state(), [5, END, 9, 9]) == [True]


@pytest.mark.parametrize(
    ("changed", "room"),
    [
        ({}, 5),
        # Of the last step nothing is counted yet.
        ({"output_tok_ids": [5] * 6}, 3),
        ({"output_tok_ids": [5] * 9}, 0),
        ({"output_tok_ids": [5] * 40}, 0),
        ({"output_tok_ids": [5, 5, 5, 5, END]}, None),
        ({"thinking_token_budget": -1}, None),
        ({"in_end": True}, 0),
        ({"start_thinking": -1}, 0),
    ],
    ids=str,
)
def test_drafts_leave_the_budgets_last_token_to_a_step_of_its_own(
    changed: dict[str, Any], room: int | None
) -> None:
    """Ten tokens, of which four are counted: after five drafts and one token the tenth is made, and
    the next step begins the phrase."""
    holder = a_holder()
    state = a_state(10) | {
        "output_tok_ids": [5] * 4,
        "looked_at": 4,
        "prev_output_length": 4,
        "check_count_down": 6,
        "start_thinking": 0,
    }
    holder._state = {1: state | changed}
    assert holder.tokens_to_draft(1) == room
    assert holder.tokens_to_draft(0) is None
