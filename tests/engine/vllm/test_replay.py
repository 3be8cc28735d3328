"""Streams of real vLLM that are broken off anywhere and go on from their journal: the events are
those of the unbroken stream.

One engine for all, with micro-r1 and few tokens a step, so that what is read again takes more steps
than one. REPLAY_CUTS=50 breaks each kind of request off at as many places, and
REPLAY_MODEL=smollm2 has a model that chats and knows tools. In 32 bits: in 16, two tokens are often
equally likely, and of more answers than one vLLM draws which.
"""

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from itertools import zip_longest
from multiprocessing import active_children
from typing import Any

import pytest

from serve_app.config.tier import TierArgs
from serve_app.core.placement.hardware import CPU
from serve_app.core.reasoning.budget import ThinkingPlan
from serve_app.engine.interface import Engine
from serve_app.serving.engine_start import start_engine
from tests.engine.real_engine import (
    CHAT,
    LEGACY,
    MESSAGES,
    RESPONSES,
    Asked,
    Stream,
    streamed,
    untimed,
)
from tests.engine.stream_content import content, without

# Importing vLLM takes longer than all quick tests of this folder, and warns of what is its own.
pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(900)]

CUTS = int(os.environ.get("REPLAY_CUTS", "6"))
AT_ONCE = 8
ARGS = TierArgs.model_validate(
    {
        "tier": "reasoning",
        "model": os.environ.get("REPLAY_MODEL", "micro-r1"),
        "engine": {
            "max_model_len": 512,
            "dtype": os.environ.get("REPLAY_DTYPE", "float32"),
            "extra_args": {"max-num-seqs": 16, "max-num-batched-tokens": 64, "block-size": 32},
        },
    }
)
QUESTION = (
    "Tom has 12 apples. He buys 15 more and gives 7 to a friend. How many apples does he have?"
)
PLAN = ThinkingPlan(enabled=True, answer_tokens=60, answer_share=0.25)
DIRECT = ThinkingPlan(enabled=False, answer_tokens=60, answer_share=0.25)
WEATHER: dict[str, Any] = {
    "name": "weather",
    "description": "The weather of a place",
    "parameters": {
        "type": "object",
        "properties": {
            "place": {"type": "string", "maxLength": 12},
            "days": {"type": "integer", "minimum": 1, "maximum": 9},
        },
        "required": ["place", "days"],
        "additionalProperties": False,
    },
}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "steps": {
            "type": "array",
            "items": {"type": "string", "maxLength": 9},
            "minItems": 2,
            "maxItems": 4,
        },
        "answer": {"type": "integer", "minimum": 0, "maximum": 999},
    },
    "required": ["steps", "answer"],
    "additionalProperties": False,
}
# Each sign of it takes several of micro-r1's tokens.
MANY_BYTES = "Grüße 日本語 🎉 ∑x² «ok» naïve"


def chat(plan: ThinkingPlan | None = PLAN, **fields: Any) -> Asked:
    body = {
        "model": "reasoning",
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0,
        "stream": True,
        "max_tokens": 200,
        "stream_options": {"include_usage": True},
        **fields,
    }
    return Asked(CHAT, body, plan)


def legacy(**fields: Any) -> Asked:
    body = {
        "model": "reasoning",
        "prompt": QUESTION,
        "temperature": 0,
        "stream": True,
        "max_tokens": 60,
        "stream_options": {"include_usage": True},
        **fields,
    }
    return Asked(LEGACY, body)


def responses(**fields: Any) -> Asked:
    body = {
        "model": "reasoning",
        "input": QUESTION,
        "temperature": 0,
        "stream": True,
        "store": False,
        "max_output_tokens": 200,
        **fields,
    }
    return Asked(RESPONSES, body, PLAN)


def messages(**fields: Any) -> Asked:
    body = {
        "model": "reasoning",
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0,
        "stream": True,
        "max_tokens": 200,
        **fields,
    }
    return Asked(MESSAGES, body, PLAN)


def bound(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "a", "schema": schema, "strict": True}}


TOOL = {"type": "function", "function": WEATHER}
# With one and the same sequence, as `temperature: 0` has, which vLLM refuses for more than one.
GREEDY = {"temperature": 1.0, "top_k": 1, "seed": 3}
KINDS: dict[str, Asked] = {
    "reasoning": chat(),
    "budget that is spent": chat(max_tokens=70),
    "budget of few tokens": chat(replace(PLAN, most_tokens=9)),
    "reasoning shown to nobody": chat(include_reasoning=False),
    "no reasoning": chat(DIRECT, max_tokens=60),
    "nothing planned": chat(None),
    "schema": chat(response_format=bound(SCHEMA)),
    "schema without reasoning": chat(DIRECT, response_format=bound(SCHEMA)),
    "schema at its limit": chat(DIRECT, response_format=bound(SCHEMA), max_tokens=30),
    "any JSON": chat(response_format={"type": "json_object"}, max_tokens=120),
    "regex": chat(structured_outputs={"regex": "[a-z]{3,9} is [0-9]{2,5}[.!]"}),
    "signs of several bytes": chat(structured_outputs={"choice": [MANY_BYTES]}),
    "log probabilities of such": chat(
        DIRECT, structured_outputs={"choice": [MANY_BYTES]}, logprobs=True, top_logprobs=2
    ),
    "a named tool": chat(
        tools=[TOOL], tool_choice={"type": "function", "function": {"name": "weather"}}
    ),
    "a tool at least": chat(tools=[TOOL], tool_choice="required"),
    "tools at will": chat(tools=[TOOL]),
    "stop string": chat(stop=["the answer", "27 - 7", "boxed"]),
    "stop string that is kept": chat(stop=["boxed{"], include_stop_str_in_output=True),
    "stop string without reasoning": chat(DIRECT, stop=["ox", "\n"], min_tokens=3),
    "stop in the reasoning": chat(replace(PLAN, stops_in_thought=True), stop=["15", "12"]),
    "stop ids": chat(DIRECT, stop_token_ids=[*range(100, 130)]),
    "two answers": chat(n=2, **GREEDY),
    "three answers with a limit": chat(n=3, max_tokens=50, **GREEDY),
    "log probabilities": chat(logprobs=True, top_logprobs=3),
    "penalties": chat(
        frequency_penalty=0.8, presence_penalty=0.4, repetition_penalty=1.3, max_tokens=120
    ),
    "bad words": chat(bad_words=["27", "20", " 12"]),
    "least tokens": chat(DIRECT, min_tokens=50, max_tokens=80),
    "no end": chat(DIRECT, ignore_eos=True, max_tokens=90),
    "repetition": replace(chat(DIRECT, ignore_eos=True, max_tokens=400), stop_repetition=True),
    "several tokens an event": chat(stream_interval=5),
    "usage in each event": chat(
        stream_options={"include_usage": True, "continuous_usage_stats": True}
    ),
    "cache of its own": replace(chat(max_tokens=90), cache_salt="of a client"),
    "completion": legacy(),
    "completion with stop": legacy(stop=["27", ". "], max_tokens=90),
    "completion with log probabilities": legacy(logprobs=2),
    "completion with its prompt": legacy(echo=True),
    "completions of two prompts": legacy(prompt=[QUESTION, "Ann has 3 pens and buys 8 more."]),
    "completions of three prompts, twice": legacy(
        prompt=[QUESTION, "Ann has 3 pens.", "A train runs 40 km."], n=2, max_tokens=30, **GREEDY
    ),
    "response": responses(),
    "response with a tool": responses(
        tools=[{"type": "function", **WEATHER, "strict": True}], tool_choice="required"
    ),
    "message": messages(),
    "message with a tool": messages(
        tools=[
            {
                "name": "weather",
                "description": "The weather of a place",
                "input_schema": WEATHER["parameters"],
            }
        ],
        tool_choice={"type": "any"},
    ),
}
# Events of answers and prompts come as the engine's results come.
INTERLEAVED = frozenset(kind for kind, asked in KINDS.items() if asked.body.get("n", 1) > 1) | {
    "completions of two prompts"
}
# What a journal does not have is in events that the client has already.
WITH_LOGPROBS = frozenset(kind for kind, asked in KINDS.items() if asked.body.get("logprobs"))
Run = Callable[[Awaitable[Any]], Any]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """All that the engine is asked is asked in one loop."""
    loop = asyncio.new_event_loop()
    try:
        yield loop.run_until_complete
    finally:
        loop.close()


@pytest.fixture(scope="module")
def engine(run: Run) -> Iterator[Engine]:
    engine, _ = run(start_engine(ARGS, CPU, untimed))
    try:
        yield engine
    finally:

        async def shutdown() -> None:
            engine.shutdown()
            # Sockets close in turns of the loop to come. vLLM leaves its context to the end of the
            # process, where a warning is an error of the whole run.
            await asyncio.sleep(0.1)
            engine._client.engine_core.resources.ctx.destroy(linger=0)

        run(shutdown())


def differences(kind: str, found: Stream, base: Stream, had: int) -> list[str]:
    """What is wrong with a stream that goes on where another one was broken off behind `had`
    events."""
    wrong: list[str] = []
    first, then = _first(kind, found, had), _first(kind, base, had)
    if first != then:
        at = next(
            (at for at, pair in enumerate(zip(first, then, strict=False)) if pair[0] != pair[1]), 0
        )
        wrong.append(f"event {at} is {first[at : at + 1]}, was {then[at : at + 1]}")
    # A step may become more events than one, of which the client has had the first.
    if found.new_at is not None and found.new_at < had:
        wrong.append(f"the engine's first step came behind {found.new_at} events")
    rest, was = content(found.parsed[had:]), content(base.parsed[had:])
    for choice in {*rest.parts, *was.parts}:
        parts, then = rest.parts.get(choice, []), was.parts.get(choice, [])
        wrong += [
            f"{choice}: {part} was {other}"
            for part, other in zip_longest(parts, then)
            if part != other
        ]
    if rest.tokens != was.tokens:
        wrong.append(f"tokens are {rest.tokens}, were {was.tokens}")
    for choice, logprobs in was.logprobs.items():
        if rest.logprobs[choice] != pytest.approx(logprobs, abs=0.1):
            wrong.append(f"log probabilities are {rest.logprobs[choice]}, were {logprobs}")
    return [f"behind {had} of {len(base.events)} events: {each}" for each in wrong]


def _first(kind: str, stream: Stream, had: int) -> list[Any]:
    """The events that the client has, as far as they must be the same ones."""
    events = stream.parsed[:had]
    if kind in WITH_LOGPROBS:
        events = [without(event, ["logprobs"]) for event in events]
    return sorted(events, key=str) if kind in INTERLEAVED else events


async def broken(
    engine: Engine, kind: str, whole: Stream, cut: int, rng: random.Random
) -> list[str]:
    """What is wrong where a stream is broken behind so many events, and then once more."""
    again = await streamed(engine, KINDS[kind], whole.journals[cut - 1] if cut else "")
    wrong = differences(kind, again, whole, cut)
    later = rng.randrange(cut, len(again.events))
    twice = await streamed(engine, KINDS[kind], again.journals[later - 1] if later else "")
    return wrong + differences(kind, twice, again, later)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_goes_on_as_if_nothing_had_happened(run: Run, engine: Engine, kind: str) -> None:
    async def broken_at_random() -> list[str]:
        plain = await streamed(engine, KINDS[kind], None)
        whole = await streamed(engine, KINDS[kind])
        assert whole.status == 200, whole.events
        # The second one finds its prompt in the prefix cache.
        first, second = (without(of.parsed, ["input_tokens_details"]) for of in (plain, whole))
        assert content(first).parts == content(second).parts
        rng = random.Random(kind)
        events = len(whole.events)
        cuts = rng.sample(range(events), min(CUTS, events))
        wrong: list[str] = []
        for first in range(0, len(cuts), AT_ONCE):
            found = await asyncio.gather(
                *(broken(engine, kind, whole, cut, rng) for cut in cuts[first : first + AT_ONCE])
            )
            wrong += [each for some in found for each in some]
        return wrong

    wrong = run(broken_at_random())
    assert not wrong, "\n".join(wrong)


def test_an_engine_that_a_signal_ends_has_not_ended_its_streams(run: Run, engine: Engine) -> None:
    """The last one: there is no engine behind it."""

    long = chat(DIRECT, ignore_eos=True, max_tokens=450)

    def end_it(stream: Stream) -> None:
        # At once: the engine does not wait for who reads its events.
        if len(stream.events) == 1:
            (process,) = [one for one in active_children() if "EngineCore" in one.name]
            process.terminate()

    stream = run(streamed(engine, long, on_event=end_it))
    assert engine.dead
    assert [part for part in content(stream.parsed).parts["0"] if part[0] == "end"] == []
    assert "error" in stream.parsed[-2]
    assert stream.parsed[-1] == "[DONE]"
