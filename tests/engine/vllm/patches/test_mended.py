"""What is put around vLLM's classes, on small fakes of them; test_mended_vllm.py has the real ones.

The fakes have the faults of vLLM's: FakeParser takes all without a closing mark for a thought,
FakeHolder counts a thought that the model has closed itself and then writes the phrase.
"""

import asyncio
from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from serve_app.core.generation import Generation, SequenceFacts
from serve_app.core.reasoning.trace import ThoughtTrace
from serve_app.engine.vllm.patches.mended import (
    LOOK_EVERY_TOKENS,
    exact_parser,
    looked_for_rarely,
    mended_budget,
    rewound_on_cpu,
    taking_turns,
)
from tests.engine.fake_generation import END, MARKS, PHRASE, START, asked_by_the_edge, decode


class FakeParser:
    start_token_id, end_token_id = START, END
    start_token, end_token = "<think>", "</think>"
    model_tokenizer = SimpleNamespace(decode=decode)

    def is_reasoning_end(self, input_ids: Sequence[int]) -> bool:
        return END in input_ids

    def count_reasoning_tokens(self, token_ids: Sequence[int]) -> int:
        return 0


class FakeHolder:
    def __init__(self, reasoning_config: Any, max_num_seqs: int, *, device: str) -> None:
        self.made_with = (reasoning_config, max_num_seqs, device)

    def _update_think_state(self, state: dict[str, Any]) -> None:
        state["in_end"] = len(state["output_tok_ids"]) >= state["thinking_token_budget"]
        state["force_index"] = [0] if state["in_end"] else []


def thinking(budget_tokens: int | None) -> AbstractContextManager[None]:
    """Inside a request whose thought has this budget."""
    facts = SequenceFacts(ThoughtTrace(MARKS, budget_tokens))
    return asked_by_the_edge(Generation(sequences={0: facts}))


# --- the parser


PARSER: Any = exact_parser(FakeParser, dict)()


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


# --- the budget


def a_holder(natural: list[int] | None = None) -> Any:
    config = SimpleNamespace(natural_reasoning_end_token_ids=[END] if natural is None else natural)
    return mended_budget(FakeHolder)(config, 4, device="cpu")


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


def test_the_fake_holder_writes_the_phrase_into_an_answer_and_the_mended_one_does_not() -> None:
    steps = [[5], [END], [9], [9], [9]]
    plain = FakeHolder(None, 4, device="cpu")
    assert forced(plain, a_state(), *steps) == [False, False, False, True, True]
    state = a_state()
    assert forced(a_holder(), state, *steps) == [False] * 5
    assert state["force_index"] == []


def test_a_thought_is_closed_at_its_budget_and_left_alone_behind_the_mark() -> None:
    steps = [[5, 5, 5], [5], [PHRASE[0]], [PHRASE[1]], [END], [9]]
    told = forced(a_holder(), a_state(), *steps)
    assert told == [False, True, True, True, False, False]


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
    holder: Any = mended_budget(FakeHolder)(config, 4, device="cpu")
    assert holder.made_with == (config, 4, "cpu")
    assert forced(holder, a_state(), [5, END, 9, 9]) == [True]


# --- repetition


def test_a_repetition_is_looked_for_at_every_sixteenth_token_only() -> None:
    looked: list[int] = []

    def check(token_ids: Sequence[int], params: Any) -> bool:
        looked.append(len(token_ids))
        return params == "found"

    rarely = looked_for_rarely(check)
    told = [rarely([5] * length, "found") for length in range(1, 4 * LOOK_EVERY_TOKENS + 1)]
    assert looked == [LOOK_EVERY_TOKENS * times for times in (1, 2, 3, 4)]
    assert sum(told) == len(looked)
    assert not rarely([5] * LOOK_EVERY_TOKENS, "nothing")


class FakeGenerator:
    """Knows its seed, as torch's on the CPU does, and no offset."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.samples = 1

    def initial_seed(self) -> int:
        return self.seed

    def manual_seed(self, seed: int) -> "FakeGenerator":
        self.seed, self.samples = seed, 0
        return self


def test_a_prompt_that_is_partly_read_begins_its_samples_anew() -> None:
    """Where vLLM would take a sample back by the generator's offset, there is no generator."""
    partly_read, read = FakeGenerator(7), FakeGenerator(8)
    generators = {0: read, 2: partly_read}
    batch = SimpleNamespace(num_reqs=3, generators=generators)
    mask = SimpleNamespace(np=np.array([False, True, True, True]))
    runner = SimpleNamespace(input_batch=batch, discard_request_mask=mask)
    seen: list[set[int]] = []

    def keep_books(runner: Any, *args: object) -> tuple[object, ...]:
        seen.append(set(runner.input_batch.generators))
        return args

    assert rewound_on_cpu(keep_books)(runner, "samples") == ("samples",)
    assert seen == [{0}]
    assert generators == {0: read, 2: partly_read}
    assert (partly_read.seed, partly_read.samples, read.samples) == (7, 0, 1)


# --- outputs of the engine


class BusyCore:
    """A client of an engine that is far ahead: all outputs are there already."""

    def __init__(self, outputs: int) -> None:
        self.outputs_queue: asyncio.Queue[int] = asyncio.Queue()
        for number in range(outputs):
            self.outputs_queue.put_nowait(number)

    async def get_output_async(self) -> int:
        return await self.outputs_queue.get()


async def test_others_get_a_turn_between_the_steps_of_an_engine_that_is_ahead() -> None:
    core, turns = BusyCore(outputs=100), 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    waiting = asyncio.ensure_future(others())
    get_output = taking_turns(core)
    assert [await get_output() for _ in range(100)] == list(range(100))
    waiting.cancel()
    assert turns >= 100


async def test_an_output_that_comes_later_is_waited_for_as_before() -> None:
    core = BusyCore(outputs=0)
    coming = asyncio.ensure_future(taking_turns(core)())
    await asyncio.sleep(0)
    core.outputs_queue.put_nowait(7)
    assert await coming == 7
