"""Drafted tokens on real vLLM with micro-r1: what a request is given is what it is given without.

Two engines that differ in `engine.speculation` only, in 32 bits: in 16, two tokens are often
equally likely. SPECULATION=auto or suffix tests another setting, SPECULATION_PROBLEMS more problems
than are quick; `python -m loadtest speculation --problems 500` compares many.
"""

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from loadtest.studies.micro_r1.problems import held_out_problems
from loadtest.studies.speculation import greedy_ids, start_pair, stop_pair, token_ids
from serve_app.core.reasoning.answer_policy import AnswerPolicy, PolicyPlan
from tests.engine.real_engine import Asked, Stream, streamed
from tests.engine.stream_content import content
from tests.engine.vllm import test_replay
from tests.engine.vllm.test_replay import chat

# Importing vLLM takes longer than all quick tests of this folder, and warns of what is its own.
pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(1800)]

SETTING = os.environ.get("SPECULATION", "ngram")
PROBLEMS = [
    problem.text for problem in held_out_problems(1, int(os.environ.get("SPECULATION_PROBLEMS", 8)))
]
Run = Callable[[Any], Any]
Pair = tuple[Any, Any]
run = test_replay.run


@pytest.fixture(scope="module")
def pair(run: Run) -> Iterator[Pair]:
    """The engine without drafts, and the one with them."""
    pair = run(start_pair("micro-r1", SETTING, cpu_slice="1/2"))
    try:
        yield pair
    finally:

        async def shutdown() -> None:
            stop_pair(pair)
            await asyncio.sleep(0.1)
            for engine in pair:
                engine._client.engine_core.resources.ctx.destroy(linger=0)

        run(shutdown())


async def both(pair: Pair, ask: Callable[[Any], Any]) -> tuple[Any, Any]:
    return await ask(pair[0]), await ask(pair[1])


def test_greedy_ids_are_those_without_drafts(run: Run, pair: Pair) -> None:
    plain, drafted = run(both(pair, lambda engine: greedy_ids(engine, PROBLEMS, streams=4)))
    assert drafted == plain
    assert 0 < pair[1].load.accepted_tokens <= pair[1].load.drafted_tokens
    assert pair[0].load.drafted_tokens == 0
    assert (pair[0].speculation, pair[1].speculation != "off") == ("off", True)


SAMPLED: Mapping[str, Mapping[str, Any]] = {
    "a seed": {"temperature": 0.8, "seed": 7},
    "min_p": {"temperature": 0.8, "seed": 7, "min_p": 0.3},
    "a bias": {"temperature": 0.0, "logit_bias": {17: 5.0}},
    "a penalty": {"temperature": 0.0, "repetition_penalty": 1.1},
    "a budget of 1": {"temperature": 0.0, "thinking_token_budget": 1},
    "a budget of 20": {"temperature": 0.0, "thinking_token_budget": 20},
    "a budget of 33": {"temperature": 0.0, "thinking_token_budget": 33},
}


@pytest.mark.parametrize("kind", SAMPLED)
def test_ids_are_the_same_with(run: Run, pair: Pair, kind: str) -> None:
    """With all requests of a kind at once, beside greedy ones that have drafts."""

    async def asked(engine: Any) -> Sequence[Sequence[int]]:
        params: dict[str, Any] = {"max_tokens": 70, **SAMPLED[kind]}
        beside = asyncio.ensure_future(greedy_ids(engine, PROBLEMS[4:], streams=4))
        ids = await token_ids(engine, PROBLEMS[:4], streams=4, **params)
        await beside
        return ids

    plain, drafted = run(both(pair, asked))
    assert drafted == plain


LEAN = PolicyPlan(AnswerPolicy.LEAN, lean_most=8.0, lean_begins_at=0.2)
STREAMS: Mapping[str, Asked] = {
    **test_replay.KINDS,
    "lean": replace(chat(max_tokens=160), policy=LEAN),
    "a seed": chat(max_tokens=100, temperature=0.8, seed=3),
}


@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_has_the_same_content_and_usage(run: Run, pair: Pair, kind: str) -> None:
    async def answered(engine: Any) -> tuple[Any, ...]:
        stream: Stream = await streamed(engine, STREAMS[kind], None)
        found, sequences = content(stream.parsed), stream.generation.sequences
        facts = [
            (one.tokens, one.thought and (one.thought.tokens, one.thought.cut_by), one.closed)
            for one in sequences.values()
        ]
        return stream.status, found.parts, facts

    plain, drafted = run(both(pair, answered))
    assert drafted == plain


def test_a_stream_that_was_broken_off_goes_on_with_the_same_ids(run: Run, pair: Pair) -> None:
    """From a journal of either engine, at the other one too."""
    asked = chat(max_tokens=120, temperature=0.0)

    async def gone_on() -> list[str]:
        base = await streamed(pair[1], asked)
        wrong: list[str] = []
        for at in range(2, len(base.journals) - 1, max(1, len(base.journals) // 4)):
            for engine in pair:
                again = await streamed(engine, asked, base.journals[at])
                wrong += test_replay.differences("reasoning", again, base, at + 1)
        return wrong

    assert run(gone_on()) == []
