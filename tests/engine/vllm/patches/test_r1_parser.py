"""Where R1's reasoning ends, on a fake of vLLM's parser that takes all without a closing mark for a
reasoning; tests/engine/test_patched_vllm.py has the real one."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from serve_app.core.generation import Generation, SequenceFacts
from serve_app.core.reasoning.trace import ThoughtTrace
from serve_app.engine.vllm.patches.r1_parser import exact_parser
from tests.engine.fake_generation import END, MARKS, START, asked_by_the_edge, decode


class FakeParser:
    start_token_id, end_token_id = START, END
    start_token, end_token = "<think>", "</think>"
    model_tokenizer = SimpleNamespace(decode=decode)

    def is_reasoning_end(self, input_ids: Sequence[int]) -> bool:
        return END in input_ids

    def count_reasoning_tokens(self, token_ids: Sequence[int]) -> int:
        return 0


def thinking(budget_tokens: int | None) -> AbstractContextManager[None]:
    """Inside a request whose thought has this budget."""
    facts = SequenceFacts(ThoughtTrace(MARKS, budget_tokens))
    return asked_by_the_edge(Generation(sequences={0: facts}))


PARSER: Any = cast("Any", exact_parser)(FakeParser, dict)()


def test_where_there_is_no_thought_all_is_answer() -> None:
    with thinking(None):
        assert PARSER.extract_reasoning("4", None) == (None, "4")
        assert PARSER.extract_reasoning("4</think>5", None) == (None, "4</think>5")
        assert PARSER.is_reasoning_end([5])
        assert PARSER.count_reasoning_tokens([5, 6]) == 0


@pytest.mark.parametrize(
    "generation", [None, Generation(), Generation(sequences={0: SequenceFacts()})]
)
def test_where_nothing_is_known_of_the_thought_vllms_parser_decides(
    generation: Generation | None,
) -> None:
    with asked_by_the_edge(generation):
        assert PARSER.extract_reasoning("4", None) == ("4", None)
        assert PARSER.extract_reasoning("4</think>5", None) == ("4", "5")
        assert not PARSER.is_reasoning_end([5])
        assert PARSER.is_reasoning_end([5, END])


def test_where_there_is_a_thought_vllms_parser_decides() -> None:
    with thinking(5):
        assert PARSER.extract_reasoning("4</think>5", None) == ("4", "5")
        assert not PARSER.is_reasoning_end([5])


@pytest.mark.parametrize(
    ("ids", "tokens"),
    [([5, 6, END, 9], 2), ([5, 6], 2), ([START, 5, END, 9], 1), ([END, 9], 0), ([], 0)],
)
def test_the_tokens_of_a_thought_are_counted_that_the_prompt_has_opened(
    ids: list[int], tokens: int
) -> None:
    with thinking(5):
        assert PARSER.count_reasoning_tokens(ids) == tokens
    with asked_by_the_edge(None):
        assert PARSER.count_reasoning_tokens(tuple(ids)) == tokens


@pytest.mark.parametrize(
    ("ids", "delta"),
    [
        ([5, 6], {"reasoning": "5 6 ", "content": None}),
        ([5, END, 6], {"reasoning": "5 ", "content": "6 "}),
        ([START, 5], {"reasoning": "5 ", "content": None}),
        ([5, START], {"reasoning": "5 <think>", "content": None}),
        ([5, END, 6, END], {"reasoning": "5 ", "content": "6 </think>"}),
        ([END], None),
    ],
)
def test_a_stream_and_a_whole_answer_are_divided_at_the_same_id(
    ids: list[int], delta: dict[str, Any] | None
) -> None:
    text = decode(ids)
    with thinking(5):
        sent = PARSER.extract_reasoning_streaming("", text, text, [], ids, ids)
        thought, content = PARSER.extract_reasoning(text, None)
    assert sent == delta
    assert (thought or None, content) == (
        (None, None) if delta is None else (delta["reasoning"], delta["content"])
    )


def test_a_mark_that_is_spelt_out_in_a_thought_does_not_end_it() -> None:
    text = "say </think> so</think>4"
    facts = SequenceFacts(ThoughtTrace(MARKS, 5), text=text, answer_at=text.rindex("4"))
    with asked_by_the_edge(Generation(sequences={0: SequenceFacts(), 1: facts})):
        assert PARSER.extract_reasoning(text, None) == ("say </think> so", "4")
