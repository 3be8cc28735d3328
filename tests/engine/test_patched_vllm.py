"""The patches on vLLM's own classes, driven by hand with a vocabulary of twenty tokens."""

import json
import subprocess
import sys
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.generation import Generation, SequenceFacts
from serve_app.core.reasoning.lean import Lean
from serve_app.core.reasoning.trace import ThoughtTrace
from serve_app.engine.vllm.cpu import computes_on_cpu
from serve_app.engine.vllm.fast_path import FIELD_LOG, build_chunks_unchecked, chunk_models
from serve_app.engine.vllm.patches.plain_ranks import count_at_least
from serve_app.engine.vllm.patches.r1_parser import exact_parser
from serve_app.engine.vllm.patches.reasoning_lean import (
    adding_what_leans,
    applying_a_lean,
    knowing_what_leans,
    with_a_lean,
)
from serve_app.engine.vllm.patches.registry import IN_EVERY_PROCESS, ON_CPU
from serve_app.engine.vllm.patches.stop_strings import stopping_in_answers, with_stop_scope
from serve_app.engine.vllm.patches.stop_token_ids import stop_ids_in_answers
from serve_app.engine.vllm.patches.thinking_budget import ended_with_the_reasoning
from serve_app.engine.vllm.stop_scope import stop_behind, stop_outside_calls
from tests.engine.budget_cases import (
    BEHIND_REASONING,
    BUDGETS,
    CASES,
    CONFIG,
    FORCED_LOGIT,
    LEAN,
    OPEN_TOKENS,
    PROMPT,
    VOCABULARY,
    WANTS,
    Case,
    Sequenced,
    asked,
    differs_where_it_joins,
    expected,
    written,
)
from tests.engine.fake_generation import END, MARKS, PHRASE, START, asked_by_the_edge
from tests.engine.grammars import micro_tokenizer

# Importing vLLM takes longer than all quick tests of this folder, and warns of what is its own.
pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(300)]


class SequenceV1:
    """One sequence in a holder of model runner V1."""

    def __init__(self, holder: Any, output: Sequence[int], params: Any) -> None:
        self.holder, self.ids = holder, list(output)
        added = [(0, params, PROMPT, self.ids)]
        holder.sync_batch(SimpleNamespace(removed=[], added=added, moved=[]))

    def logits(self) -> Any:
        import torch

        self.holder.update_state([self.ids], None)
        return self.holder.apply_to_logits(torch.zeros(1, VOCABULARY), False, None)[0]

    def write(self, token: int) -> None:
        self.ids.append(token)


def begin(output: Sequence[int], budget: int, lean: Lean | None = None) -> Sequenced:
    """On runner V1 as it is patched."""
    return SequenceV1(leaning_holder(), output, asked(budget, lean))


def begin_unpatched(output: Sequence[int], budget: int) -> Sequenced:
    import torch
    from vllm.v1.sample.thinking_budget_state import ThinkingBudgetStateHolder

    config: Any = CONFIG
    holder = ThinkingBudgetStateHolder(config, 2, 0, torch.device("cpu"), False)
    return SequenceV1(holder, output, asked(budget))


def test_vllms_holder_writes_the_phrase_into_an_answer() -> None:
    own = CASES["ends itself"]
    spoilt = written(begin_unpatched([], own.budget), own.wants)
    assert spoilt[:3] == list(own.wants[:3])
    assert set(PHRASE) & set(spoilt[3:])


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_budget_ends_its_reasoning_once(case: Case) -> None:
    assert written(begin([], case.budget), case.wants) == list(case.ids)


@given(WANTS, BUDGETS)
def test_what_comes_out_is_what_counting_says(wants: list[int], budget: int) -> None:
    """The budget is counted with the one token that the prompt holds of the thought, and the
    trace says `cut` where it has closed it."""
    ids = written(begin([], budget), wants)
    assert ids == expected(wants, budget, goes_on=False)
    trace = ThoughtTrace(MARKS, max(0, budget - OPEN_TOKENS))
    trace.take(ids)
    if END in ids:
        assert trace.end == ("cut" if trace.tokens + OPEN_TOKENS >= budget else "complete")


@pytest.mark.parametrize("wants", [[5, 6, END, *[9] * 30], [9] * 40], ids=["itself", "truncated"])
def test_an_output_that_is_there_counts_as_if_it_had_been_written_here(wants: list[int]) -> None:
    """A request that was preempted, or that began elsewhere, joins the batch with its output."""
    assert differs_where_it_joins(begin, wants, 9) == []


@pytest.mark.parametrize("is_swapped", [False, True])
@pytest.mark.parametrize("cut", [1, 4, 8, 12])
def test_one_that_joins_with_an_output_is_counted_itself(cut: int, *, is_swapped: bool) -> None:
    """And no other: vLLM may swap both rows in the update by which it joins, as it sorts prompts
    behind what decodes."""
    other = RowOf([50], [9] * 40, budget=9)
    joined = RowOf(PROMPT, [5, END, 9, START, *[9] * 30], budget=6)
    holder = leaning_holder()
    holder.sync_batch(SimpleNamespace(removed=[], added=[other.added(0)], moved=[]))
    for _ in range(3):
        other.step(holder, 0, [other])
    joined.ids += joined.wants[:cut]
    moved = [(0, 1, swap())] if is_swapped else []
    holder.sync_batch(SimpleNamespace(removed=[], added=[joined.added(1)], moved=moved))
    rows = [joined, other] if is_swapped else [other, joined]
    for _ in range(20):
        for at, row in enumerate(rows):
            row.step(holder, at, rows)
    assert (other.forced_ids, joined.forced_ids) == ([], [])


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=12), st.integers(1, 4))
def test_ranks_are_those_that_vllm_compiles_a_kernel_for(row: list[int], rows: int) -> None:
    import torch

    x = torch.tensor([row] * rows, dtype=torch.float32)
    values = x[:, -1:]
    found = count_at_least(x, values)
    assert torch.equal(found, (x >= values).sum(-1))


class RowOf:
    """A sequence among others in a holder of model runner V1, and what it was forced to write."""

    def __init__(self, prompt: Sequence[int], wants: Sequence[int], budget: int) -> None:
        self.prompt, self.wants, self.params = prompt, wants, asked(budget)
        self.ids: list[int] = []
        self.forced_ids: list[int] = []

    def added(self, index: int) -> tuple[int, Any, Sequence[int], list[int]]:
        return index, self.params, self.prompt, self.ids

    def step(self, holder: Any, at: int, rows: "Sequence[RowOf]") -> None:
        import torch

        holder.update_state([row.ids for row in rows], None)
        row = holder.apply_to_logits(torch.zeros(len(rows), VOCABULARY), False, None)[at]
        token = int(row.argmax())
        if float(row[token]) >= FORCED_LOGIT:
            self.forced_ids.append(token)
        else:
            token = self.wants[len(self.ids)]
        self.ids.append(token)


def leaning_holder(spec_tokens: int = 0) -> Any:
    """The patched one of two sequences, that leans where it is asked to."""
    import torch
    from vllm.v1.sample.thinking_budget_state import ThinkingBudgetStateHolder

    patched = ended_with_the_reasoning(ThinkingBudgetStateHolder)

    class Leaning(patched):
        sync_batch = knowing_what_leans(patched.sync_batch)
        apply_to_logits = with_a_lean(patched.apply_to_logits)

    config: Any = CONFIG
    return Leaning(config, 4, spec_tokens, torch.device("cpu"), False)


def swap() -> Any:
    from vllm.v1.sample.logits_processor.interface import MoveDirectionality

    return MoveDirectionality.SWAP


def test_the_reasonings_end_gets_a_bias_that_grows_with_what_is_spent() -> None:
    """One sequence of two leans; a third joins with an output that is there, and is moved."""
    import torch

    lean, budget = LEAN, 9
    holder = leaning_holder()
    rows: list[list[int]] = [[], []]
    added = [
        (0, asked(budget), PROMPT, rows[0]),
        (1, asked(budget, lean), PROMPT, rows[1]),
    ]
    holder.sync_batch(SimpleNamespace(removed=[], added=added, moved=[]))
    for written_tokens in range(budget - 1):
        holder.update_state(rows, None)
        logits = holder.apply_to_logits(torch.zeros(2, VOCABULARY), False, None)
        # The prompt holds one token of the reasoning.
        bias = lean.bias(written_tokens + 1, budget)
        assert logits[1, END] == pytest.approx(bias)
        assert logits.sum() == pytest.approx(bias)
        for row in rows:
            row.append(5)
    resumed = [5] * 4
    third = (2, asked(budget, lean), PROMPT, resumed)
    moved = [(2, 0, swap())]
    holder.sync_batch(SimpleNamespace(removed=[1], added=[third], moved=moved))
    holder.update_state([resumed, [], rows[0]], None)
    logits = holder.apply_to_logits(torch.zeros(3, VOCABULARY), False, None)
    assert logits[0, END] == pytest.approx(lean.bias(5, budget))
    # The one that does not lean is closed by its budget.
    assert int(logits[2].argmax()) == PHRASE[0]


@pytest.mark.parametrize("output", BEHIND_REASONING.values(), ids=BEHIND_REASONING)
def test_nothing_leans_behind_the_reasoning(output: list[int]) -> None:
    sequence = begin([], 9, LEAN)
    for token in output:
        sequence.logits()
        sequence.write(token)
    assert sequence.logits()[END] == 0.0


def test_runner_v2_leans_alike() -> None:
    """Its marker kernels need a GPU, and stand for themselves here; rows are of the slots 2, 0, 2,
    the last one behind a drafted token."""
    import numpy as np
    import torch

    lean, budget = LEAN, 9

    class State:
        max_num_reqs = 3
        natural_reasoning_end_token_ids = torch.tensor([END])
        reasoning_start_token_ids = torch.tensor([START])
        thinking_token_budget = SimpleNamespace(gpu=torch.tensor([-1, -1, budget]))
        cached_last_start = torch.tensor([-1, -1, 3])
        cached_last_end = torch.tensor([-1, -1, -1])
        req_states = SimpleNamespace(total_len=SimpleNamespace(gpu=torch.tensor([20, 0, 0])))

        def add(self, slot: int, params: Any) -> bool:
            return params.thinking_token_budget is not None

        def apply(self, logits: Any, ctx: Any) -> None:
            self.applied = True

    add: Any = adding_what_leans(State.add)
    apply: Any = applying_a_lean(State.apply)
    state, ctx = State(), SimpleNamespace(idx_mapping_np=np.array([2, 0]))
    ctx.expanded_idx_mapping = torch.tensor([2, 0, 2], dtype=torch.int32)
    ctx.expanded_local_pos = torch.tensor([0, 0, 1])
    assert add(state, 0, asked(budget))
    apply(state, logits := torch.zeros(3, VOCABULARY), ctx)
    assert not logits.any()
    assert add(state, 2, asked(budget, lean))
    for spent in range(budget + 3):
        state.req_states.total_len.gpu[2] = 3 + 1 + spent
        apply(state, logits := torch.zeros(3, VOCABULARY), ctx)
        bias = lean.bias(spent, budget) if spent < budget else 0.0
        assert logits[0, END] == pytest.approx(bias)
        assert logits.sum() == pytest.approx(bias)
    state.req_states.total_len.gpu[2] = 3 + 1 + budget - 1
    state.cached_last_end[2] = 5
    apply(state, logits := torch.zeros(3, VOCABULARY), ctx)
    assert not logits.any()
    state.cached_last_end[2] = -1
    # Another request has the slot.
    assert add(state, 2, asked(budget))
    apply(state, logits := torch.zeros(3, VOCABULARY), ctx)
    assert not logits.any()


class FakeTokenizer:
    def get_vocab(self) -> dict[str, int]:
        return {"<think>": START, "</think>": END}


@pytest.mark.parametrize(("budget", "field"), [(None, "content"), (5, "reasoning")])
def test_a_stream_without_a_thought_is_answer_from_its_first_token_on(
    budget: int | None, field: str
) -> None:
    from vllm.entrypoints.generate.base.protocol import DeltaMessage
    from vllm.reasoning.deepseek_r1_reasoning_parser import DeepSeekR1ReasoningParser

    tokenizer: Any = FakeTokenizer()
    parser = exact_parser(DeepSeekR1ReasoningParser, DeltaMessage)(tokenizer)
    trace = ThoughtTrace(MARKS, budget)
    request: Any = None
    with asked_by_the_edge(Generation(sequences={0: SequenceFacts(trace)})):
        assert parser.is_reasoning_end([50]) is (field == "content")
        reasoning, content = parser.extract_reasoning("4", request)
    assert {"reasoning": reasoning, "content": content}[field] == "4"


def test_a_chunk_is_the_same_when_it_is_built_plainly() -> None:
    from vllm.entrypoints.generate.base.protocol import DeltaMessage
    from vllm.entrypoints.openai.chat_completion import protocol as chat
    from vllm.entrypoints.serve.engine.protocol import UsageInfo

    models = chunk_models()
    assert all(FIELD_LOG in it.__pydantic_decorators__.model_validators for it in models)

    def chunk() -> str:
        delta = DeltaMessage(role="assistant", content="Hi", reasoning=None)
        choice = chat.ChatCompletionResponseStreamChoice(index=0, delta=delta)
        usage = UsageInfo(prompt_tokens=3, completion_tokens=1, total_tokens=4)
        whole = chat.ChatCompletionStreamResponse(
            id="a", created=1, model="m", choices=[choice], usage=usage
        )
        return whole.model_dump_json(exclude_unset=True)

    before = chunk()
    build_chunks_unchecked(models)
    assert chunk() == before


# --- stops


def texts_until_stop(
    text: str, behind: bool, calls: tuple[str, str] | None = None, **params: Any
) -> tuple[str | None, str]:
    """What stops a generation of this text token by token, and what is left of the text."""
    from vllm import SamplingParams
    from vllm.v1.engine.detokenizer import FastIncrementalDetokenizer, check_stop_strings

    class Patched(FastIncrementalDetokenizer):
        update = stopping_in_answers(FastIncrementalDetokenizer.update, check_stop_strings)

    tokenizer = micro_tokenizer()
    end = tokenizer.convert_tokens_to_ids("</think>")
    sampling = SamplingParams(skip_special_tokens=False, **params)
    stop_behind(sampling, end if behind else None)
    if calls is not None:
        stop_outside_calls(sampling, *calls)
    request: Any = SimpleNamespace(sampling_params=sampling, request_id="a", prompt_token_ids=[5])
    detokenizer: Any = Patched(tokenizer, request)
    with_stop_scope(lambda *_: None)(detokenizer, request)
    for token in tokenizer.encode(text, add_special_tokens=False):
        stop = detokenizer.update([token], False)
        if stop is not None:
            return stop, detokenizer.output_text
    return None, detokenizer.output_text


@pytest.mark.parametrize(
    ("text", "stop", "found"),
    [
        ("12 and 15</think>27 and 15 more", "15", ("15", "12 and 15</think>27 and ")),
        ("12 and 15</think>\n\n15", "15", ("15", "12 and 15</think>\n\n")),
        ("a\n\nb</think>\n\nc\n\nd", "\n\n", ("\n\n", "a\n\nb</think>\n\nc")),
        ("12</think>27", "</think>", (None, "12</think>27")),
        ("12</think>27</think>28", "</think>", ("</think>", "12</think>27")),
        ("12 15", "15", (None, "12 15")),
    ],
)
def test_stop_strings_are_looked_for_in_the_answer(
    text: str, stop: str, found: tuple[str | None, str]
) -> None:
    assert texts_until_stop(text, behind=True, stop=[stop]) == found


def test_a_request_may_want_them_in_its_thought_too() -> None:
    assert texts_until_stop("12 and 15</think>27", behind=False, stop=["15"]) == ("15", "12 and ")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('5</think>4<call>{"a": "b\n"}</call>\n', ("\n", '5</think>4<call>{"a": "b\n"}</call>')),
        ("5</think>4\n<call>", ("\n", "5</think>4")),
        ("<call>5\n</think>4\n", ("\n", "<call>5\n</think>4")),
    ],
)
def test_stop_strings_are_not_looked_for_inside_calls(
    text: str, found: tuple[str | None, str]
) -> None:
    assert texts_until_stop(text, behind=True, calls=("<call>", "</call>"), stop=["\n"]) == found


def test_an_answers_first_word_may_be_kept_or_be_too_early_to_stop() -> None:
    kept = texts_until_stop("1</think>15 2", True, stop=["15"], include_stop_str_in_output=True)
    assert kept == ("15", "1</think>15")
    assert texts_until_stop("1</think>15 2", True, stop=["15"], min_tokens=9) == (
        None,
        "1</think>15 2",
    )


@pytest.mark.parametrize(
    ("ids", "behind", "stopped"),
    [([7, 9], END, False), ([7, END, 9], END, True), ([7, 9], None, True), ([7, END], END, False)],
)
def test_stop_ids_end_the_answer_and_not_the_thought(
    ids: list[int], behind: int | None, stopped: bool
) -> None:
    from vllm import SamplingParams
    from vllm.v1.core.sched.utils import check_stop

    params = SamplingParams(stop_token_ids=[9, END], max_tokens=100)
    stop_behind(params, behind)
    request: Any = SimpleNamespace(
        sampling_params=params,
        pooling_params=None,
        output_token_ids=ids,
        num_tokens=50,
        num_output_tokens=len(ids),
        max_tokens=100,
    )
    assert stop_ids_in_answers(check_stop)(request, 1000) is stopped
    assert params.stop_token_ids == [9, END]


# --- all of them


INSTALLING = """
import json
from serve_app.engine.vllm.patches.patch import find
from serve_app.engine.vllm.patches.registry import *
install_in_this_process()
names = [name for patch in IN_EVERY_PROCESS for name in patch.replaces]
once = [find(name) for name in names]
install_in_this_process()
same = all(find(name) == before for name, before in zip(names, once))
from vllm.v1.core.sched import scheduler, utils
print(json.dumps([outcomes(), same, scheduler.check_stop is utils.check_stop]))
"""


def test_every_patch_is_installed_in_this_vllm_once() -> None:
    """In a process of its own, whose vLLM the other tests do not see."""
    ran = subprocess.run(
        [sys.executable, "-c", INSTALLING], capture_output=True, text=True, check=True
    )
    outcomes, same, seen_by_scheduler = json.loads(ran.stdout.splitlines()[-1])
    needed = (*IN_EVERY_PROCESS, *(ON_CPU if computes_on_cpu() else ()))
    assert outcomes == {patch.name: True for patch in needed}
    assert same
    assert seen_by_scheduler
