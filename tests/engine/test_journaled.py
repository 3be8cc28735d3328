"""A call of the engine that goes on where a journal ends gives the unbroken one's results.

On a scripted engine, which writes its script behind the ids that it is given.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.generation import Generation
from serve_app.core.replay.journal import EngineStep, Journal, TokenLogprobs, read
from serve_app.engine.journaled import EngineCall, JournaledEngine, JournalMismatchError
from serve_app.engine.vllm.resumption import resumed_ids
from tests.engine.fake_generation import (
    BLANK,
    END,
    PLAN,
    START,
    USER,
    FakeBinder,
    FakeGenerate,
    FakeOutput,
    FakeParams,
    FakeResult,
    Kind,
    Said,
    a_guard,
    asked_by_the_edge,
    decode,
    ends,
)

# Of the first sequence of a seeded request.
SEED = 100
BINDER = FakeBinder()
JSON = SimpleNamespace(json={}, json_object=None, structural_tag=None)
Content = list[tuple[int, str, tuple[int, ...], str | None, Any]]


@dataclass
class RecordedResult(FakeResult):
    """With what a journal takes of a RequestOutput beside its outputs."""

    num_cached_tokens: int | None = 7
    num_cache_creation_tokens: int | None = 5


class FakePast:
    """What `engine/vllm/past_results.py` makes of a journal."""

    def __init__(self, call: EngineCall) -> None:
        self.call = call

    def result(self, step: EngineStep, *, finished: bool) -> Any:
        ids = list(step.token_ids)
        output = FakeOutput(step.index, decode(ids), ids, step.finish_reason, step.stop_reason)
        output.logprobs = [dict(with_values(of_token)) for of_token in step.logprobs] or None
        return RecordedResult(self.call.prompt["prompt_token_ids"], [output], finished)


@dataclass
class Params(FakeParams):
    logprobs: int | None = None
    prompt_logprobs: int | None = None


@dataclass
class ScriptedEngine:
    """`said` by the engine's name of a call, of each sequence. It goes on behind resumed ids, which
    must be its own. `asked`: each call's name, sequences, seed and resumed ids."""

    said: Mapping[str, Sequence[Said]]
    delta_tokens: int = 1
    # Of these calls the first result comes late.
    slow: frozenset[str] = frozenset()
    with_logprobs: bool = False
    asked: list[tuple[str, int, int | None, list[int]]] = field(default_factory=list)
    open: int = 0

    async def __call__(
        self, prompt: Any, params: Any, request_id: str, **options: Any
    ) -> AsyncGenerator[Any, None]:
        past = resumed_ids(params)
        self.asked.append((request_id, params.n, params.seed, past))
        script = [within(one, params.max_tokens) for one in self.said[request_id]]
        if params.n == 1:
            at = 0 if params.seed is None or len(script) == 1 else params.seed - SEED
            script = [script[at]]
            assert list(script[0].ids)[: len(past)] == past
        self.open += 1
        try:
            ids = prompt["prompt_token_ids"]
            inner = FakeGenerate([], delta_tokens=self.delta_tokens)
            left = [Said(list(one.ids)[len(past) :], one.finish, one.stop_reason) for one in script]
            if request_id in self.slow:
                await asyncio.sleep(0.01)
            for result in inner._deltas(ids, left):
                await asyncio.sleep(0)
                if self.with_logprobs:
                    for output in result.outputs:
                        values = [((token, -token / 8),) for token in output.token_ids]
                        output.logprobs = [dict(with_values(each)) for each in values]
                yield RecordedResult(result.prompt_token_ids, result.outputs, result.finished)
        finally:
            self.open -= 1


def within(said: Said, max_tokens: int) -> Said:
    """As the engine ends it at its limit."""
    ids = list(said.ids)
    return said if len(ids) <= max_tokens else Said(ids[:max_tokens], "length")


def with_values(of_token: TokenLogprobs) -> Iterator[tuple[int, Any]]:
    """As vLLM has the log probabilities of one token."""
    return ((token, SimpleNamespace(logprob=value)) for token, value in of_token)


class DeadError(Exception):
    pass


async def until_dead() -> None:
    raise DeadError


def content(results: Sequence[Any]) -> Content:
    assert {(result.num_cached_tokens, result.num_cache_creation_tokens) for result in results} <= {
        (7, 5),
        (0, 0),
    }
    return [
        (output.index, output.text, tuple(output.token_ids), output.finish_reason, result.finished)
        for result in results
        for output in result.outputs
    ]


async def guarded(
    engine: ScriptedEngine,
    past: str = "",
    *,
    names: Sequence[str] = ("id",),
    generation: Generation | None = None,
    prompt: Sequence[int] = (USER, START, BLANK),
    max_model_len: int = 1000,
    binder: FakeBinder = BINDER,
    **params: Any,
) -> tuple[list[Any], list[str]]:
    """The results of a call through the guard for each of `names`, merged as vLLM merges those of
    more prompts, and behind each the journal until there."""
    journal = Journal(read(past))
    generation = generation or Generation(PLAN)
    generation.journal = journal
    journaled: Any = JournaledEngine
    generate: Any = engine
    guard = a_guard(
        generate,
        binder=binder,
        max_model_len=max_model_len,
        journaled=journaled(engine, FakePast, max_model_len, until_dead),
    )
    results: list[Any] = []
    journals: list[str] = []
    written = past
    with asked_by_the_edge(generation):
        calls = [
            guard(
                {"prompt_token_ids": list(prompt), "prompt": "text"},
                Params(output_kind=Kind.DELTA, **params),
                name,
            )
            for name in names
        ]
    async for result in merged(calls):
        unsent = journal.take_unsent()
        written = ";".join(part for part in (written, unsent) if part)
        results.append(deepcopy(result))
        journals.append(written)
        await asyncio.sleep(0)
    assert engine.open == 0
    return results, journals


async def merged(calls: Sequence[AsyncGenerator[Any, None]]) -> AsyncGenerator[Any, None]:
    """vLLM's `merge_async_iterators`."""
    awaits = {asyncio.ensure_future(anext(call)): call for call in calls}
    while awaits:
        done, _ = await asyncio.wait(awaits, return_when=asyncio.FIRST_COMPLETED)
        for each in done:
            call = awaits.pop(each)
            try:
                result = each.result()
            except StopAsyncIteration:
                continue
            awaits[asyncio.ensure_future(anext(call))] = call
            yield result


def broken_anywhere(said: Mapping[str, Sequence[Said]], delta_tokens: int = 1, **call: Any) -> None:
    """Each place in which the results can be broken off, and two of them in turn."""

    async def run(past: str = "") -> tuple[Content, list[str], ScriptedEngine]:
        engine = ScriptedEngine(said, delta_tokens)
        results, journals = await guarded(engine, past, **call)
        return content(results), journals, engine

    async def all_cuts() -> None:
        whole, journals, _ = await run()
        for cut in range(len(whole)):
            again, then, _ = await run(journals[cut])
            assert sorted(again[: cut + 1]) == sorted(whole[: cut + 1])
            assert by_index(again) == by_index(whole)
            assert then[-1].count(";") == journals[-1].count(";")
            later = (cut + len(whole)) // 2
            twice, _, _ = await run(then[later])
            assert by_index(twice) == by_index(whole)

    asyncio.run(all_cuts())


def by_index(found: Content) -> dict[int, list[Any]]:
    indices = {index for index, *_ in found}
    return {at: [one[1:4] for one in found if one[0] == at] for at in indices}


@pytest.mark.parametrize("delta_tokens", [1, 3])
def test_a_stream_goes_on_from_each_of_its_results(delta_tokens: int) -> None:
    broken_anywhere({"id": [ends(5, 6, 7, END, 30, 31, 32, 33)]}, delta_tokens)


def test_a_thought_that_is_closed_and_an_answer_of_blanks_are_gone_on_with() -> None:
    said = {
        "id": [ends(5, 6, 7)],
        "id-0-1": [ends(BLANK)],
        "id-0-2": [ends(BLANK, 30, 31, 32, 33)],
    }
    broken_anywhere(said)


def test_sequences_of_one_prompt_go_on_each_for_itself() -> None:
    said = {
        "id": [ends(5, END, 30, 31, 32), ends(6, END, 40), ends(7)],
        "id-2-1": [ends(50, 51)],
    }
    broken_anywhere(said, n=3, seed=SEED)


def test_json_that_its_limit_cuts_is_closed_as_in_the_unbroken_stream() -> None:
    binder = FakeBinder(ids=(9, 9))
    said = {"id": [Said([5, END, *range(30, 47)], "length")]}
    broken_anywhere(said, binder=binder, structured_outputs=JSON, max_tokens=19)


@given(st.lists(st.integers(1, 9), min_size=2, max_size=3), st.integers(0, 30))
def test_prompts_of_one_request_go_on_in_the_order_in_which_they_were(
    lengths: list[int], cut: int
) -> None:
    """Whichever prompt's engine call answers first in the replay."""
    said = {f"id-{at}": [ends(*[20 + at] * length)] for at, length in enumerate(lengths)}

    async def broken() -> None:
        names = list(said)
        plain: Any = {"names": names, "generation": Generation(), "prompt": (USER,)}
        results, journals = await guarded(ScriptedEngine(said), **plain)
        at = cut % len(results)
        plain["generation"] = Generation()
        slow = ScriptedEngine(said, slow=frozenset(names[:1]))
        again, _ = await guarded(slow, journals[at], **plain)
        assert content(again)[: at + 1] == content(results)[: at + 1]
        assert sorted(content(again)) == sorted(content(results))

    asyncio.run(broken())


class AnyScript(dict[str, Sequence[Said]]):
    """What is asked for behind an answer that is none gets one."""

    def __missing__(self, name: str) -> Sequence[Said]:
        return [ends(BLANK, 44, 45, 33)]


@st.composite
def sequences(draw: st.DrawFn, max_tokens: int) -> Said:
    """A thought that is closed or not, an answer or none; ended by the model, a stop string, or the
    limit."""
    thought = draw(st.lists(st.integers(4, 8), max_size=5))
    answer = draw(st.lists(st.integers(30, 40), max_size=12))
    ids = [*thought, *([END] if draw(st.booleans()) else []), *answer]
    if len(ids) >= max_tokens:
        return within(Said(ids, "length"), max_tokens)
    if ids and draw(st.booleans()):
        return Said(ids, "stop", f"{ids[-1]};0 ")
    return ends(*ids)


@given(st.data())
def test_any_answer_goes_on_from_wherever_it_is_broken_off(data: st.DataObject) -> None:
    """With reasoning that is closed, JSON that is, several answers, log probabilities, stop strings
    and limits; broken off twice."""
    draw = data.draw
    max_tokens = draw(st.integers(4, 20), "max_tokens")
    copies = draw(st.integers(1, 3), "n")
    said = [draw(sequences(max_tokens)) for _ in range(copies)]
    with_logprobs, delta_tokens = draw(st.booleans(), "logprobs"), draw(st.integers(1, 4))
    asked: dict[str, Any] = {"n": copies, "max_tokens": max_tokens}
    if copies > 1:
        asked["seed"] = SEED
    if draw(st.booleans(), "JSON"):
        asked |= {"structured_outputs": JSON, "binder": FakeBinder(ids=(9, 9))}
    if with_logprobs:
        asked["logprobs"] = 0

    async def run(past: str = "") -> tuple[dict[int, list[Any]], list[str]]:
        engine = ScriptedEngine(AnyScript({"id": said}), delta_tokens, with_logprobs=with_logprobs)
        results, journals = await guarded(engine, past, **asked)
        return answers_in(results), journals

    async def broken_twice() -> None:
        whole, journals = await run()
        past = ""
        for _ in range(2):
            past = draw(st.sampled_from([past, *(each for each in journals if each)]), "cut")
            again, journals = await run(past)
            assert again == whole

    asyncio.run(broken_twice())


def answers_in(results: Sequence[Any]) -> dict[int, list[Any]]:
    """Of each answer its text, ids, log probabilities and end."""
    found: dict[int, list[Any]] = {}
    for output in (output for result in results for output in result.outputs):
        text, ids, logprobs, ended = found.setdefault(output.index, ["", [], [], []])
        # Those of the tokens with which JSON is closed are not known.
        values = [
            {t: each.logprob for t, each in (of or {}).items()} for of in output.logprobs or []
        ]
        end = [] if output.finish_reason is None else [(output.finish_reason, output.stop_reason)]
        found[output.index] = [
            text + output.text,
            ids + list(output.token_ids),
            logprobs + values,
            ended + end,
        ]
    return found


def test_a_call_without_a_journal_is_the_engines_own() -> None:
    async def plain() -> None:
        engine: Any = ScriptedEngine({"id": [ends(5, END, 30)]})
        guard = a_guard(engine)
        with asked_by_the_edge(Generation(PLAN)):
            call = guard({"prompt_token_ids": [USER]}, Params(output_kind=Kind.DELTA), "id")
        assert [result async for result in call]

    asyncio.run(plain())


def test_a_sequence_keeps_the_seed_that_vllm_would_have_given_it() -> None:
    async def seeded() -> None:
        said = {"id": [ends(5, END, 30, 31), ends(6, END, 40, 41)]}
        _, journals = await guarded(ScriptedEngine(said), n=2, seed=SEED)
        engine = ScriptedEngine(said)
        await guarded(engine, journals[3], n=2, seed=SEED)
        assert engine.asked == [("id", 1, SEED, [5, END]), ("id", 1, SEED + 1, [6, END])]

    asyncio.run(seeded())


def test_one_that_has_all_its_tokens_ends_without_the_engine() -> None:
    async def full() -> None:
        engine = ScriptedEngine({})
        results, journals = await guarded(engine, "0 0 5,6;0 0 7,8", max_tokens=4)
        assert content(results)[-1][2:] == ((), "length", True)
        assert journals[-1] == "0 0 5,6;0 0 7,8;0 0  length null"
        assert engine.asked == []

    asyncio.run(full())


def test_an_ended_call_is_replayed_without_the_engine() -> None:
    async def ended() -> None:
        said = {"id": [ends(5, END, 30)]}
        results, journals = await guarded(ScriptedEngine(said))
        engine = ScriptedEngine({})
        again, then = await guarded(engine, journals[-1])
        assert content(again) == content(results)
        assert then[-1] == journals[-1]
        assert engine.asked == []

    asyncio.run(ended())


@pytest.mark.parametrize("past", ["0 1 5", "0 0 5 stop null;0 0 6"])
def test_a_journal_of_another_request_is_refused(past: str) -> None:
    with pytest.raises(JournalMismatchError):
        asyncio.run(guarded(ScriptedEngine({"id": [ends(5)]}), past))


def test_a_client_that_leaves_ends_what_goes_on_for_it() -> None:
    async def left() -> None:
        said = {"id": [ends(5, END, *range(30, 60)), ends(6, END, *range(60, 90))]}
        engine = ScriptedEngine(said)
        journal = Journal(read("0 0 5;0 1 6"))
        journaled: Any = JournaledEngine(engine, FakePast, 1000, until_dead)  # pyright: ignore
        params = Params(output_kind=Kind.DELTA, n=2, seed=SEED)
        call = journaled(journal, 0, {"prompt_token_ids": [USER]}, params, "id")
        for _ in range(4):
            await anext(call)
        assert engine.open == 2
        await call.aclose()
        assert engine.open == 0

    asyncio.run(left())


def test_an_engine_that_is_ended_has_not_finished_its_requests() -> None:
    """As SIGTERM ends vLLM's: each request with a result that looks like an end."""

    async def ended() -> None:
        aborted = ScriptedEngine({"id": [Said([5, END, 30], "abort")]})
        with pytest.raises(DeadError):
            await guarded(aborted)
        with pytest.raises(DeadError):
            await guarded(aborted, "0 0 5")

    asyncio.run(ended())
