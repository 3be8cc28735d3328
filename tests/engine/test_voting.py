"""A vote: which of the samples the client gets, when, and what becomes of the others."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from serve_app.core.generation import Generation
from serve_app.core.reasoning.answer_policy import AnswerPolicy, PolicyPlan
from serve_app.core.reasoning.deadline import RunningDeadline
from serve_app.core.reasoning.vote import Verdict
from serve_app.engine.voting import RESULTS_AT_A_TIME
from tests.engine.fake_generation import (
    MARKS,
    PLAN,
    USER,
    FakeOutput,
    FakeParams,
    FakeResult,
    Kind,
    a_guard,
    asked_by_the_edge,
)

STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
JSON = SimpleNamespace(json={"type": "object"}, json_object=None, structural_tag=None, regex=None)
END_TEXT = "</think>"


@dataclass
class Engine:
    """`said` by sample: its answer's signs, one a token, behind reasoning of so many tokens."""

    said: Mapping[str, tuple[int, str]]
    # How a sample ends that the model does not end itself.
    finish: Mapping[str, str] = field(default_factory=dict[str, str])
    asked: list[tuple[str, FakeParams]] = field(default_factory=list)
    open: int = 0
    ended: int = 0

    async def __call__(
        self, prompt: Any, params: FakeParams, request_id: str, **options: Any
    ) -> AsyncGenerator[FakeResult, None]:
        self.asked.append((request_id, params))
        thought, answer = self.said[request_id]
        tokens = [("9 ", 9)] * thought + [(END_TEXT, MARKS.end)]
        tokens += [(sign, 100 + at) for at, sign in enumerate(answer)]
        self.open += 1
        try:
            whole = FakeOutput(0, "", [])
            for number, (text, token) in enumerate(tokens, 1):
                await asyncio.sleep(0)
                output = FakeOutput(0, text, [token])
                whole.text, whole.token_ids = whole.text + text, [*whole.token_ids, token]
                last = number == len(tokens)
                output = output if params.output_kind is Kind.DELTA else whole
                output.finish_reason = self.finish.get(request_id, "stop") if last else None
                if params.output_kind is Kind.DELTA or last:
                    yield FakeResult([USER], [output], last)
        finally:
            self.open -= 1
            self.ended += 1


async def voted(
    engine: Engine,
    *,
    stream: bool,
    samples: int = 3,
    seed: int | None = 7,
    time: RunningDeadline | None = None,
    **params: Any,
) -> tuple[Generation, str, list[FakeResult]]:
    generation = Generation(PLAN, policy=PolicyPlan(AnswerPolicy.VOTE, samples=samples))
    if time is not None:
        generation.time, generation.close_reasoning = time, lambda *_: None
    kind = Kind.DELTA if stream else Kind.FINAL_ONLY
    made: Any = engine
    with asked_by_the_edge(generation):
        outputs = a_guard(made)(
            {"prompt_token_ids": [USER, *MARKS.opening]},
            FakeParams(output_kind=kind, seed=seed, max_tokens=200, **params),
            "id",
        )
    results = [result async for result in outputs]
    assert engine.open == 0
    text = "".join(output.text for result in results for output in result.outputs)
    assert {output.index for result in results for output in result.outputs} == {0}
    return generation, text, results


def boxed(value: str) -> str:
    return f"So \\boxed{{{value}}}."


@STREAMED
async def test_the_first_of_the_majority_is_the_answer_in_whole(stream: bool) -> None:
    engine = Engine({"id-0": (9, boxed("1")), "id-1": (3, boxed("2.0")), "id-2": (5, boxed("2"))})
    generation, text, results = await voted(engine, stream=stream)
    assert text == "9 " * 3 + END_TEXT + boxed("2.0")
    assert [result.finished for result in results] == [False] * (len(results) - 1) + [True]
    assert generation.verdict == Verdict(1, 2, 2)
    (facts,) = generation.sequences.values()
    assert facts.tokens == 3 + 1 + len(boxed("2.0"))
    assert facts.thought is not None
    assert facts.thought.tokens == 3
    # The one that could not change it was ended before it had all of its tokens.
    assert len(generation.unseen) == 2
    assert generation.prompt_tokens == 3


@STREAMED
async def test_each_sample_is_another_one(stream: bool) -> None:
    engine = Engine({f"id-{at}": (at, boxed(str(at))) for at in range(4)})
    generation, text, _ = await voted(engine, stream=stream, samples=4)
    seeds = [(params.n, params.seed) for _, params in engine.asked]
    assert seeds == [(1, 7), (1, 8), (1, 9), (1, 10)]
    assert text.endswith(boxed("0"))
    assert generation.verdict == Verdict(0, 1, 4)
    assert generation.saved_tokens == 0


async def test_samples_of_a_request_without_a_seed_have_none() -> None:
    engine = Engine({f"id-{at}": (2, boxed("5")) for at in range(3)})
    await voted(engine, stream=True, seed=None)
    assert [params.seed for _, params in engine.asked] == [None] * 3


@STREAMED
async def test_it_ends_as_soon_as_it_cannot_change(stream: bool) -> None:
    engine = Engine({"id-0": (1, boxed("5")), "id-1": (2, boxed("5")), "id-2": (900, boxed("5"))})
    generation, _, _ = await voted(engine, stream=stream)
    assert generation.verdict == Verdict(0, 2, 2)
    # Of a whole answer nobody sees how far the engine is.
    made = max(facts.tokens for facts in generation.unseen)
    assert generation.saved_tokens > 150
    assert made < 30


@STREAMED
async def test_answers_in_words_are_not_voted_on(stream: bool) -> None:
    engine = Engine({"id-0": (9, "It is red."), "id-1": (2, "Blue."), "id-2": (4, "Well.")})
    generation, text, _ = await voted(engine, stream=stream)
    assert text.endswith("Blue.")
    assert generation.verdict == Verdict(1, 0, 2)


@pytest.mark.parametrize("why", ["length", "repetition"])
@STREAMED
async def test_what_is_cut_or_in_circles_is_no_answer_in_words(stream: bool, why: str) -> None:
    said = {"id-0": (1, "red red"), "id-1": (2, "red red"), "id-2": (40, "Blue.")}
    engine = Engine(said, finish={"id-0": why, "id-1": why})
    generation, text, _ = await voted(engine, stream=stream)
    assert text.endswith("Blue.")
    assert generation.verdict == Verdict(2, 0, 3)


@STREAMED
async def test_an_empty_box_does_not_vote(stream: bool) -> None:
    engine = Engine({"id-0": (1, boxed(" ")), "id-1": (40, boxed("5"))})
    generation, text, _ = await voted(engine, stream=stream, samples=2)
    assert text.endswith(boxed("5"))
    assert generation.verdict == Verdict(1, 1, 2)


@STREAMED
async def test_bound_answers_that_are_empty_are_not_taken_for_words(stream: bool) -> None:
    engine = Engine({"id-0": (1, " "), "id-1": (2, " "), "id-2": (40, '{"a": 1}')})
    generation, text, _ = await voted(engine, stream=stream, structured_outputs=JSON)
    assert text.endswith('{"a": 1}')
    assert generation.verdict == Verdict(2, 1, 3)


@pytest.mark.parametrize(("chosen", "cut"), [("5", False), ("", True)])
@STREAMED
async def test_the_deadline_has_cut_the_answer_if_it_has_cut_the_chosen_one(
    stream: bool, chosen: str, cut: bool
) -> None:
    """The time is over once the first two have ended: the last one is cut then, and has the only
    value where the others have none."""
    said = {
        "id-0": (60, boxed(chosen) if chosen else "So."),
        "id-1": (30, boxed("6") if chosen else "Well."),
        "id-2": (1, boxed("7") + "!" * 900),
    }
    engine = Engine(said, finish={} if chosen else {"id-1": "length"})
    time = RunningDeadline(1000, 10.0, lambda: 100.0 if engine.ended >= 2 else 0.0)
    generation, text, _ = await voted(engine, stream=stream, time=time)
    assert generation.verdict is not None
    assert generation.verdict.samples == 3
    assert any(facts.cut_in_time for facts in [*generation.unseen, *generation.sequences.values()])
    assert boxed("7" if cut else "6") in text
    assert time.answer_cut == cut


async def test_others_have_their_turn_while_a_decided_stream_is_sent() -> None:
    engine = Engine({f"id-{at}": (300, boxed("5")) for at in range(2)})
    generation = Generation(PLAN, policy=PolicyPlan(AnswerPolicy.VOTE, samples=2))
    made: Any = engine
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    with asked_by_the_edge(generation):
        params = FakeParams(output_kind=Kind.DELTA, max_tokens=2000)
        outputs = a_guard(made)({"prompt_token_ids": [USER, *MARKS.opening]}, params, "id")
    await anext(outputs)
    others = asyncio.create_task(take_turns())
    results = [result async for result in outputs]
    others.cancel()
    assert turns >= len(results) // RESULTS_AT_A_TIME - 1 > 5


@STREAMED
async def test_json_is_compared_as_json(stream: bool) -> None:
    said = ['{"a": 1}', '{"b": 2, "a": 1}', '{"a":1,"b":2}']
    engine = Engine({f"id-{at}": (20 * at, text) for at, text in enumerate(said)})
    generation, text, _ = await voted(engine, stream=stream, structured_outputs=JSON)
    assert generation.verdict is not None
    assert generation.verdict.agreeing == 2
    assert text.endswith('{"b": 2, "a": 1}')


async def test_who_leaves_before_it_is_decided_ends_all_samples() -> None:
    engine = Engine({f"id-{at}": (500, boxed(str(at))) for at in range(3)})
    generation = Generation(PLAN, policy=PolicyPlan(AnswerPolicy.VOTE, samples=3))
    made: Any = engine
    with asked_by_the_edge(generation):
        outputs = a_guard(made)(
            {"prompt_token_ids": [USER, *MARKS.opening]},
            FakeParams(output_kind=Kind.DELTA, max_tokens=2000),
            "id",
        )
    first = asyncio.ensure_future(anext(outputs))
    for _ in range(20):
        await asyncio.sleep(0)
    assert engine.open == 3
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert engine.open == 0
    # What was made until then is charged.
    assert len(generation.unseen) == 3
    assert sum(facts.tokens for facts in generation.unseen) > 0
    assert generation.sequences == {}


async def test_a_sample_that_fails_fails_the_request() -> None:
    engine = Engine({"id-0": (50, "a"), "id-1": (50, "b")})
    with pytest.raises(KeyError):
        await voted(engine, stream=True)
    assert engine.open == 0
