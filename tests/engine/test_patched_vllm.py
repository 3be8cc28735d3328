"""The patches on vLLM's own classes, driven by hand with a vocabulary of twenty tokens."""

import json
import subprocess
import sys
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from serve_app.core.generation import Generation, SequenceFacts
from serve_app.core.reasoning.lean import Lean
from serve_app.core.reasoning.trace import ThoughtTrace
from serve_app.engine.vllm.cpu import computes_on_cpu
from serve_app.engine.vllm.fast_path import FIELD_LOG, build_chunks_unchecked, chunk_models
from serve_app.engine.vllm.lean_params import lean_to_end
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
from tests.engine.fake_generation import END, MARKS, PHRASE, START, asked_by_the_edge
from tests.engine.grammars import micro_tokenizer

# Importing vLLM takes longer than all quick tests of this folder, and warns of what is its own.
pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(300)]

PROMPT = [50, START, 3]
VOCABULARY = 20
CONFIG = SimpleNamespace(
    reasoning_start_token_ids=[START],
    reasoning_end_token_ids=[*PHRASE, END],
    natural_reasoning_end_token_ids=[END],
)


def written(holder_class: Any, wants: Sequence[int], budget: int) -> list[int]:
    """The ids that come out where the model wants `wants`, one after the other."""
    import torch

    holder = holder_class(CONFIG, 2, 0, torch.device("cpu"), False)
    ids: list[int] = []
    params = SimpleNamespace(thinking_token_budget=budget)
    holder.sync_batch(SimpleNamespace(removed=[], added=[(0, params, PROMPT, ids)], moved=[]))
    demand = iter(wants)
    wanted = next(demand)
    while True:
        holder.update_state([ids], None)
        logits = torch.zeros(1, VOCABULARY)
        logits[0, wanted] = 1.0
        token = int(holder.apply_to_logits(logits, False, None).argmax())
        ids.append(token)
        if token == wanted:
            wanted = next(demand, -1)
        if wanted == -1 or len(ids) > 40:
            return ids


def holders() -> tuple[Any, Any]:
    from vllm.v1.sample.thinking_budget_state import ThinkingBudgetStateHolder

    return ThinkingBudgetStateHolder, ended_with_the_reasoning(ThinkingBudgetStateHolder)


def test_vllms_holder_writes_the_phrase_into_an_answer_and_the_patched_one_does_not() -> None:
    own, patched = holders()
    wants = [5, 6, END, *[9] * 12]
    spoilt = written(own, wants, budget=6)
    assert spoilt[:3] == wants[:3]
    assert set(PHRASE) & set(spoilt[3:])
    assert written(patched, wants, budget=6) == wants


@pytest.mark.parametrize("budget", [2, 5, 8])
def test_a_thought_is_closed_after_exactly_its_budget_and_never_again(budget: int) -> None:
    """The budget is counted with the one token that the prompt holds of the thought, and the
    trace says `cut` only if the two agree."""
    _, patched = holders()
    ids = written(patched, [*[5] * (budget - 1), *[9] * 12], budget)
    assert ids == [*[5] * (budget - 1), *PHRASE, END, *[9] * 12]
    trace = ThoughtTrace(MARKS, budget - 1)
    trace.take(ids)
    assert trace.end == "cut"


def forced_next(holder: Any, ids: list[int], budget: int) -> int | None:
    """Behind this output, the id that the holder makes the model write."""
    import torch

    holder.update_state([ids], None)
    logits = holder.apply_to_logits(torch.zeros(1, VOCABULARY), False, None)
    return int(logits.argmax()) if logits.any() else None


@pytest.mark.parametrize("natural", [True, False])
def test_an_output_that_is_there_counts_as_if_it_had_been_written_here(natural: bool) -> None:
    """A request that was preempted, or that began elsewhere, joins the batch with its output."""
    import torch

    _, patched = holders()
    budget = 9
    wants = [5, 6, END, *[9] * 30] if natural else [9] * 40
    whole = written(patched, wants, budget)
    params = SimpleNamespace(thinking_token_budget=budget)
    for cut in range(1, len(whole)):
        holder = patched(CONFIG, 2, 0, torch.device("cpu"), False)
        ids = whole[:cut]
        batch = SimpleNamespace(removed=[], added=[(0, params, PROMPT, ids)], moved=[])
        holder.sync_batch(batch)
        unbroken = patched(CONFIG, 2, 0, torch.device("cpu"), False)
        grown: list[int] = []
        unbroken.sync_batch(
            SimpleNamespace(removed=[], added=[(0, params, PROMPT, grown)], moved=[])
        )
        for token in whole[:cut]:
            forced_next(unbroken, grown, budget)
            grown.append(token)
        for token in [*whole[cut:], 9, 9]:
            expected = forced_next(unbroken, grown, budget)
            assert forced_next(holder, ids, budget) == expected, (cut, ids)
            ids.append(token if expected is None else expected)
            grown.append(ids[-1])


def leaning_holder(spec_tokens: int = 0) -> Any:
    """The patched one of two sequences, that leans where it is asked to."""
    import torch

    _, patched = holders()

    class Leaning(patched):
        sync_batch = knowing_what_leans(patched.sync_batch)
        apply_to_logits = with_a_lean(patched.apply_to_logits)

    return Leaning(CONFIG, 4, spec_tokens, torch.device("cpu"), False)


def swap() -> Any:
    from vllm.v1.sample.logits_processor.interface import MoveDirectionality

    return MoveDirectionality.SWAP


def leaning_params(budget: int, lean: Lean | None) -> Any:
    params = SimpleNamespace(thinking_token_budget=budget, extra_args=None)
    if lean is not None:
        lean_to_end(cast("Any", params), lean)
    return params


def test_the_reasonings_end_gets_a_bias_that_grows_with_what_is_spent() -> None:
    """One sequence of two leans; a third joins with an output that is there, and is moved."""
    import torch

    lean, budget = Lean(6.0, 0.25), 9
    holder = leaning_holder()
    rows: list[list[int]] = [[], []]
    added = [
        (0, leaning_params(budget, None), PROMPT, rows[0]),
        (1, leaning_params(budget, lean), PROMPT, rows[1]),
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
    third = (2, leaning_params(budget, lean), PROMPT, resumed)
    moved = [(2, 0, swap())]
    holder.sync_batch(SimpleNamespace(removed=[1], added=[third], moved=moved))
    holder.update_state([resumed, [], rows[0]], None)
    logits = holder.apply_to_logits(torch.zeros(3, VOCABULARY), False, None)
    assert logits[0, END] == pytest.approx(lean.bias(5, budget))
    # The one that does not lean is closed by its budget.
    assert int(logits[2].argmax()) == PHRASE[0]


@pytest.mark.parametrize("ended", [[5, 6, END, 9], [5] * 8 + [PHRASE[0]]], ids=["itself", "forced"])
def test_nothing_leans_behind_the_reasoning(ended: list[int]) -> None:
    import torch

    holder = leaning_holder()
    params = leaning_params(9, Lean(6.0, 0.0))
    row: list[int] = []
    holder.sync_batch(SimpleNamespace(removed=[], added=[(0, params, PROMPT, row)], moved=[]))
    for token in ended:
        holder.update_state([row], None)
        holder.apply_to_logits(torch.zeros(1, VOCABULARY), False, None)
        row.append(token)
    holder.update_state([row], None)
    logits = holder.apply_to_logits(torch.zeros(1, VOCABULARY), False, None)
    assert logits[0, END] == 0.0


def test_runner_v2_leans_alike() -> None:
    """Its marker kernels need a GPU, and stand for themselves here; rows are of the slots 2, 0, 2,
    the last one behind a drafted token."""
    import numpy as np
    import torch

    lean, budget = Lean(6.0, 0.25), 9

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
    assert add(state, 0, leaning_params(budget, None))
    apply(state, logits := torch.zeros(3, VOCABULARY), ctx)
    assert not logits.any()
    assert add(state, 2, leaning_params(budget, lean))
    for spent in range(budget + 3):
        state.req_states.total_len.gpu[2] = 3 + 1 + spent
        apply(state, logits := torch.zeros(3, VOCABULARY), ctx)
        assert logits[0, END] == pytest.approx(lean.bias(spent, budget))
        assert logits.sum() == pytest.approx(lean.bias(spent, budget))
    state.cached_last_end[2] = 5
    apply(state, logits := torch.zeros(3, VOCABULARY), ctx)
    assert not logits.any()
    state.cached_last_end[2] = -1
    # Another request has the slot.
    assert add(state, 2, leaning_params(budget, None))
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
