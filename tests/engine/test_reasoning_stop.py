"""Reasoning that is closed from outside: each sequence goes on with its answer from there."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from serve_app.core.generation import CloseReasoning, Generation
from serve_app.engine.vllm.stop_scope import stop_id_of
from tests.engine.fake_generation import (
    BLANK,
    END,
    EOS,
    MARKS,
    PHRASE,
    PLAN,
    USER,
    FakeBinder,
    FakeGenerate,
    FakeParams,
    Kind,
    Said,
    a_guard,
    asked_by_the_edge,
    decode,
    ends,
    generated,
)
from tests.engine.test_journaled import ScriptedEngine, content, guarded

STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
LONG = ends(*range(10, 40), END, 50)
ROOM = 100 - PLAN.answer_tokens - len(MARKS.closing)
JSON = SimpleNamespace(json={"type": "object"}, json_object=None, structural_tag=None, regex=None)


def after(tokens: int, reason: str = "deadline") -> CloseReasoning:
    return lambda _, so_far: reason if so_far >= tokens else None


@pytest.mark.parametrize("delta_tokens", [1, 3, 4])
async def test_the_answer_follows_where_the_reasoning_is_closed(delta_tokens: int) -> None:
    outcome = await generated(
        LONG, ends(60, 61), stream=True, close_reasoning=after(5), delta_tokens=delta_tokens
    )
    # Behind the first result with so many.
    cut = -(-5 // delta_tokens) * delta_tokens
    written = [*range(10, 10 + cut), *MARKS.closing, 60, 61, EOS]
    assert outcome.ids == {0: written}
    assert outcome.texts == {0: decode(written)}
    assert outcome.finish == {0: ["stop"]}
    assert outcome.thought == ("cut", cut + len(PHRASE), 3)
    facts = outcome.generation.sequences[0]
    assert facts.thought is not None
    assert (facts.thought.cut_by, facts.tokens, facts.cut) == ("deadline", len(written), False)
    first, second = outcome.asked
    assert second.prompt_ids == [*first.prompt_ids, *range(10, 10 + cut), *MARKS.closing]
    assert second.params.max_tokens == 100 - cut - len(MARKS.closing)
    assert second.options["reasoning_ended"]


async def test_a_whole_answer_is_asked_for_in_parts_and_put_together() -> None:
    outcome = await generated(LONG, ends(60), close_reasoning=after(5), with_logprobs=True)
    written = [*range(10, 15), *MARKS.closing, 60, EOS]
    (result,) = outcome.results
    assert result.finished
    assert outcome.ids == {0: written}
    assert outcome.texts == {0: decode(written)}
    none = [None] * len(MARKS.closing)
    assert outcome.logprobs == {
        0: [*({token: -0.5} for token in range(10, 15)), *none, {60: -0.5}, {EOS: -0.5}]
    }
    assert [asked.params.output_kind for asked in outcome.asked] == [Kind.DELTA, Kind.FINAL_ONLY]


@STREAMED
async def test_what_is_never_closed_is_as_without_anybody_who_may(stream: bool) -> None:
    scripts = ([ends(5, 6, END, 9)], [ends(5, 6), ends(9)], [ends(5, END, BLANK), ends(9, 9)])
    for script in scripts:
        found = [
            await generated(*script, stream=stream, close_reasoning=close, with_logprobs=True)
            for close in (None, lambda *_: None)
        ]
        plain, asked = found
        assert (asked.ids, asked.texts, asked.finish) == (plain.ids, plain.texts, plain.finish)
        assert asked.logprobs == plain.logprobs
        assert asked.generation.sequences == plain.generation.sequences


@STREAMED
async def test_an_answer_is_not_closed(stream: bool) -> None:
    asked_at: list[int] = []

    def close(_: int, tokens: int) -> str | None:
        asked_at.append(tokens)
        return "late" if tokens > 2 else None

    outcome = await generated(ends(5, 6, END, 9, 9), stream=stream, close_reasoning=close)
    assert outcome.ids == {0: [5, 6, END, 9, 9, EOS]}
    assert asked_at == [1, 2]
    assert outcome.thought[0] == "complete"


@STREAMED
async def test_nobody_is_asked_from_the_budget_on(stream: bool) -> None:
    """The engine writes its closing there, which must not stand there twice."""
    own = [5] * ROOM
    script = ends(*own, *MARKS.closing, 9)
    outcome = await generated(script, stream=stream, close_reasoning=after(ROOM))
    assert outcome.ids == {0: [*own, *MARKS.closing, 9, EOS]}
    assert outcome.thought[0] == "cut"
    thought = outcome.generation.sequences[0].thought
    assert thought is not None
    assert thought.cut_by is None


@STREAMED
async def test_reasoning_stays_open_where_its_end_leaves_no_token_of_an_answer(
    stream: bool,
) -> None:
    """As where the prompt fills the context."""
    prompt = [USER, *MARKS.opening]
    room = len(MARKS.closing) + 3
    outcome = await generated(
        Said([5, 6, 7, 8, 9, 10], "length"),
        stream=stream,
        prompt=prompt,
        max_model_len=len(prompt) + room,
        close_reasoning=after(3),
    )
    assert outcome.ids == {0: [5, 6, 7, 8, 9, 10]}
    closed = await generated(
        Said([5, 6, 7, 8], "length"),
        Said([9], "length"),
        stream=stream,
        prompt=prompt,
        max_model_len=len(prompt) + room,
        close_reasoning=after(2),
    )
    assert closed.ids == {0: [5, 6, *MARKS.closing, 9]}


@STREAMED
async def test_stops_count_in_the_answer_behind_it(stream: bool) -> None:
    """Of a stream the engine keeps back what may begin a stop string, and would never give it."""
    outcome = await generated(
        LONG, ends(60), stream=stream, close_reasoning=after(2), stop=["1234"], seed=7
    )
    assert stop_id_of(outcome.asked[0].params) == END  # pyright: ignore
    assert stop_id_of(outcome.asked[1].params) is None  # pyright: ignore
    assert outcome.asked[1].params.seed == 7


class KeepsBack(FakeGenerate):
    """With vLLM's detokenizer: of a stream the last signs come once it has ended."""

    signs = 3

    def _deltas(self, prompt: list[int], said: Any) -> Any:
        results = super()._deltas(prompt, said)
        text, sent = "", 0
        for result in results:
            (output,) = result.outputs
            text += output.text
            until = len(text) if output.finish_reason else max(sent, len(text) - self.signs)
            output.text, sent = text[sent:until], until
        return results


@STREAMED
async def test_signs_that_are_kept_back_for_a_stop_string_are_given(stream: bool) -> None:
    generate = KeepsBack([[LONG], [ends(60, 61, 62)]])
    kind = Kind.DELTA if stream else Kind.FINAL_ONLY
    with asked_by_the_edge(Generation(PLAN, close_reasoning=after(4))):
        outputs = a_guard(generate)(
            {"prompt_token_ids": [USER, *MARKS.opening]},
            FakeParams(output_kind=kind, stop=["zzzz"]),
            "id",
        )
        text = "".join([result.outputs[0].text async for result in outputs if result.outputs])
    assert text == decode([10, 11, 12, 13, *MARKS.closing, 60, 61, 62])
    assert generate.open == 0


@STREAMED
async def test_json_is_bound_behind_it_and_closed_at_its_limit(stream: bool) -> None:
    outcome = await generated(
        LONG,
        Said(range(40, 44), "length"),
        stream=stream,
        close_reasoning=after(2),
        structured_outputs=JSON,
        max_tokens=40,
        binder=FakeBinder(ids=(9, 9)),
    )
    assert not outcome.asked[0].options["reasoning_ended"]
    assert outcome.asked[1].options["reasoning_ended"]
    assert outcome.ids[0][: 2 + len(MARKS.closing)] == [10, 11, *MARKS.closing]
    assert outcome.ids[0][-2:] == [9, 9]
    assert len(outcome.ids[0]) <= 40
    assert outcome.generation.sequences[0].closed


# --- several sequences


@STREAMED
async def test_sequences_are_closed_each_for_itself(stream: bool) -> None:
    def close(index: int, tokens: int) -> str | None:
        return f"at {tokens}" if tokens >= 3 + index else None

    scripts = {"id-0": [LONG], "id-1": [ends(5, 6, END, 9)], "id-2": [LONG]}
    scripts |= {"id-0-0-1": [ends(60)], "id-2-0-1": [ends(62)]}
    generate = ByName(scripts)
    generation = Generation(PLAN, close_reasoning=close)
    kind = Kind.DELTA if stream else Kind.FINAL_ONLY
    with asked_by_the_edge(generation):
        outputs = a_guard(generate)(
            {"prompt_token_ids": [USER, *MARKS.opening]},
            FakeParams(output_kind=kind, n=3, seed=7),
            "id",
        )
        results = [result async for result in outputs]
    ids: dict[int, list[int]] = {}
    for output in (output for result in results for output in result.outputs):
        ids.setdefault(output.index, []).extend(output.token_ids)
    assert ids == {
        0: [10, 11, 12, *MARKS.closing, 60, EOS],
        1: [5, 6, END, 9, EOS],
        2: [10, 11, 12, 13, 14, *MARKS.closing, 62, EOS],
    }
    assert [result.finished for result in results] == [False] * (len(results) - 1) + [True]
    thoughts = [facts.thought for facts in generation.sequences.values()]
    assert [thought and thought.cut_by for thought in thoughts] == ["at 3", None, "at 5"]
    assert generation.prompt_tokens == 3
    seeds = {asked.name: (asked.params.n, asked.params.seed) for asked in generate.asked}
    assert seeds == {
        "id-0": (1, 7),
        "id-1": (1, 8),
        "id-2": (1, 9),
        "id-0-0-1": (1, 7),
        "id-2-0-1": (1, 9),
    }
    assert generate.open == 0


class ByName(FakeGenerate):
    """The script of each call by the engine's name of it."""

    def __init__(self, scripts: dict[str, Any]) -> None:
        super().__init__([])
        self.scripts = scripts

    async def __call__(self, prompt: Any, params: FakeParams, request_id: str, **options: Any):
        one = FakeGenerate([self.scripts[request_id]])
        self.open += 1
        try:
            async for result in one(prompt, params, request_id, **options):
                yield result
                await asyncio.sleep(0)
        finally:
            self.asked += one.asked
            self.open -= 1


@pytest.mark.parametrize("results", [1, 4, 7])
async def test_whoever_leaves_early_ends_all_of_its_sequences(results: int) -> None:
    scripts = {"id-0": [LONG], "id-1": [LONG], "id-0-0-1": [LONG], "id-1-0-1": [LONG]}
    generate = ByName(scripts)
    with asked_by_the_edge(Generation(PLAN, close_reasoning=after(2))):
        params = FakeParams(output_kind=Kind.DELTA, n=2)
        outputs = a_guard(generate)({"prompt_token_ids": [USER, *MARKS.opening]}, params, "id")
        for _ in range(results):
            await anext(outputs)
        await outputs.aclose()
    assert generate.open == 0


# --- a journal


def never(_: int, __: int) -> str | None:
    return None


def gone_on(
    said: dict[str, Any], first: CloseReasoning, then: Callable[..., Any], **call: Any
) -> list[tuple[Any, Any, str]]:
    """A stream in whole, and continued from each of its results by one who decides otherwise."""

    async def run() -> list[tuple[Any, Any, str]]:
        engine = ScriptedEngine(said)
        generation = Generation(PLAN, close_reasoning=first)
        whole, journals = await guarded(engine, generation=generation, **call)
        found: list[tuple[Any, Any, str]] = []
        for journal in journals:
            generation = Generation(PLAN, close_reasoning=then)
            again, _ = await guarded(ScriptedEngine(said), journal, generation=generation, **call)
            found.append((content(whole), content(again), journal))
        return found

    return asyncio.run(run())


@pytest.mark.parametrize("cut", [1, 2, 7, 25])
def test_what_was_decided_elsewhere_stands_in_a_replay(cut: int) -> None:
    said = {"id": [LONG], "id-0-1": [ends(60, 61, 62)]}
    closed = 0
    for whole, again, journal in gone_on(said, after(cut), never):
        if "closed" in journal:
            closed += 1
            assert again == whole
        else:
            # It was not said to anybody yet, so that another one may decide otherwise.
            assert [token for one in again for token in one[2]] == list(LONG.ids)
    # Where it is closed, what closes it, and each token behind it.
    assert closed == 6


def test_a_replica_that_goes_on_may_close_what_was_open() -> None:
    said = {"id": [LONG], "id-0-1": [ends(60)]}
    found = gone_on(said, never, after(8))
    for had, (whole, again, _) in enumerate(found[:7], 1):
        assert again[:had] == whole[:had]
        ids = [token for one in again for token in one[2]]
        assert ids == [*range(10, 18), *MARKS.closing, 60, EOS]


def test_sequences_of_a_journal_go_on_each_for_itself() -> None:
    said = {
        "id-0": [LONG],
        "id-1": [ends(20, 21, 22, END, 70)],
        "id-0-0-1": [ends(60)],
    }
    for whole, again, journal in gone_on(said, after(4), never, n=2):
        if "closed" in journal:
            assert sorted(again) == sorted(whole)
