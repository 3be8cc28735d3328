"""Real vLLM, whose reasoning is closed from outside: what its client gets, and what is counted."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from serve_app.core.generation import CloseReasoning
from serve_app.core.reasoning.trace import ThoughtEnd
from serve_app.engine.interface import Engine
from tests.engine.real_engine import Asked, Stream, streamed
from tests.engine.stream_content import content
from tests.engine.vllm import test_replay
from tests.engine.vllm.test_replay import GREEDY, SCHEMA, bound, chat

# Importing vLLM takes longer than all quick tests of this folder, and warns of what is its own.
pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(900)]

Run = Callable[[Any], Any]
run, engine = test_replay.run, test_replay.engine
AFTER = 12
PHRASE = "\n\nTime is up: I answer with what I have.\n"


def after(tokens: int) -> CloseReasoning:
    return lambda _, so_far: "deadline" if so_far >= tokens else None


def never(_: int, __: int) -> str | None:
    return None


def closing(asked: Asked, close: CloseReasoning | None = None) -> Asked:
    return replace(asked, close_reasoning=close or after(AFTER))


def whole(asked: Asked) -> Asked:
    body = {key: value for key, value in asked.body.items() if key != "stream_options"}
    return replace(asked, body={**body, "stream": False})


def texts(stream: Stream, index: str = "0") -> dict[str, str]:
    return {kind: text for kind, text in content(stream.parsed).parts[index] if kind != "end"}


def is_counted(stream: Stream, usage: dict[str, Any]) -> None:
    """What the client is charged is what was counted beside it."""
    facts = stream.generation.sequences.values()
    assert usage["completion_tokens"] == sum(one.tokens for one in facts)
    reasoning = sum(one.thought.tokens for one in facts if one.thought is not None)
    assert usage["completion_tokens_details"]["reasoning_tokens"] == reasoning


def test_a_stream_is_closed_where_it_is_said(run: Run, engine: Engine) -> None:
    plain = run(streamed(engine, chat(), None))
    stream = run(streamed(engine, closing(chat()), None))
    found, before = texts(stream), texts(plain)
    own = found["reasoning"].removesuffix(PHRASE)
    assert own != found["reasoning"]
    assert before["reasoning"].startswith(own)
    assert "boxed" in found["content"]
    (facts,) = stream.generation.sequences.values()
    assert facts.thought is not None
    assert (facts.thought.end, facts.thought.cut_by) == (ThoughtEnd.CUT, "deadline")
    closing_tokens = len(facts.thought.marks.closing)
    # A result may have more tokens than one.
    assert AFTER <= facts.thought.tokens - closing_tokens + 1 < AFTER + 8
    (usage,) = [event["usage"] for event in stream.parsed[:-1] if event.get("usage")]
    is_counted(stream, usage)
    ends = [part for part in content(stream.parsed).parts["0"] if part[0] == "end"]
    assert ends == [("end", ("stop", None))]


def test_a_whole_answer_is_closed_and_says_the_same(run: Run, engine: Engine) -> None:
    stream = run(streamed(engine, whole(closing(chat(logprobs=True, top_logprobs=2))), None))
    answer = json.loads("".join(stream.events))
    (choice,) = answer["choices"]
    assert choice["message"]["reasoning"].endswith(PHRASE)
    assert "boxed" in choice["message"]["content"]
    assert choice["finish_reason"] == "stop"
    is_counted(stream, answer["usage"])
    (facts,) = stream.generation.sequences.values()
    assert len(choice["logprobs"]["content"]) == facts.tokens


def test_an_unclosed_whole_answer_is_as_the_engine_gives_it(run: Run, engine: Engine) -> None:
    """It is put together of a stream's results, to see how far it is."""
    kinds: list[dict[str, Any]] = [
        {},
        {"stop": ["answer"]},
        {"logprobs": True, "top_logprobs": 1},
    ]
    for fields in kinds:
        asked = whole(chat(**fields))
        found = [
            json.loads("".join(run(streamed(engine, one, None)).events))
            for one in (asked, closing(asked, never))
        ]
        for answer in found:
            for name in ("id", "created"):
                answer.pop(name)
            for token in (answer["choices"][0].get("logprobs") or {}).get("content", ()):
                token["logprob"] = round(token["logprob"], 1)
                for top in token["top_logprobs"]:
                    top["logprob"] = round(top["logprob"], 1)
        assert found[0] == found[1]


def test_a_stop_string_takes_nothing_of_the_reasoning(run: Run, engine: Engine) -> None:
    """vLLM keeps the last signs back until the end, which comes from outside here."""
    stream = run(streamed(engine, closing(chat(stop=["ten signs."])), None))
    (facts,) = stream.generation.sequences.values()
    reasoning = texts(stream)["reasoning"]
    plain = texts(run(streamed(engine, chat(), None)))["reasoning"]
    own = reasoning.removesuffix(PHRASE)
    assert own != reasoning
    assert plain.startswith(own)
    tokenizer = engine._client.renderer.get_tokenizer()  # pyright: ignore
    assert facts.thought is not None
    closing_ids = facts.thought.marks.closing
    own_tokens = facts.thought.tokens - len(closing_ids) + 1
    assert len(tokenizer.encode(own, add_special_tokens=False)) == own_tokens


def test_json_follows_reasoning_that_was_closed(run: Run, engine: Engine) -> None:
    for asked in (chat(response_format=bound(SCHEMA)), chat(response_format=bound(SCHEMA), n=2)):
        asked = replace(asked, body={**asked.body, **GREEDY})
        stream = run(streamed(engine, closing(asked), None))
        for index, facts in stream.generation.sequences.items():
            answer = json.loads(texts(stream, str(index))["content"])
            assert 2 <= len(answer["steps"]) <= 4
            assert facts.thought is not None
            assert facts.thought.cut_by == "deadline"


def test_sequences_are_closed_each_for_itself(run: Run, engine: Engine) -> None:
    def close(index: int, tokens: int) -> str | None:
        return "deadline" if index != 1 and tokens >= AFTER + 5 * index else None

    for asked in (chat(n=3, **GREEDY), whole(chat(n=3, **GREEDY))):
        stream = run(streamed(engine, closing(asked, close), None))
        thoughts = [facts.thought for facts in stream.generation.sequences.values()]
        assert [thought and thought.cut_by for thought in thoughts] == [
            "deadline",
            None,
            "deadline",
        ]
        usage = [event["usage"] for event in parsed(stream) if event.get("usage")][-1]
        is_counted(stream, usage)
        assert usage["prompt_tokens"] == stream.generation.prompt_tokens


def parsed(stream: Stream) -> list[Any]:
    if stream.events[0].startswith("data: "):
        return stream.parsed[:-1]
    return [json.loads("".join(stream.events))]


def test_seeded_sequences_are_those_of_one_call(run: Run, engine: Engine) -> None:
    """That they run each for itself changes none of them."""
    asked = chat(n=3, temperature=0.8, seed=11)
    plain = content(run(streamed(engine, asked, None)).parsed)
    single = content(run(streamed(engine, closing(asked, never), None)).parsed)
    assert plain.parts == single.parts


@pytest.mark.parametrize("fields", [{}, {"stop": ["ten signs."]}, {"n": 2, **GREEDY}], ids=str)
def test_a_stream_that_was_closed_goes_on_elsewhere(
    run: Run, engine: Engine, fields: dict[str, Any]
) -> None:
    """There, nobody would close it: what was decided is in its journal."""
    asked = chat(**fields)

    async def gone_on() -> tuple[Stream, list[tuple[int, Stream]]]:
        base = await streamed(engine, closing(asked))
        closed = [at for at, journal in enumerate(base.journals) if journal.count("closed") == 2]
        if "n" not in fields:
            closed = [at for at, journal in enumerate(base.journals) if "closed" in journal]
        cuts = closed[:3] + closed[3::9]
        assert len(cuts) > 3
        streams = [await streamed(engine, closing(asked, never), base.journals[at]) for at in cuts]
        return base, list(zip(cuts, streams, strict=True))

    base, found = run(gone_on())
    for at, again in found:
        kind = "two answers" if "n" in fields else "reasoning"
        assert not test_replay.differences(kind, again, base, at + 1)
        for facts in again.generation.sequences.values():
            assert facts.thought is not None
            assert facts.thought.cut_by == "deadline"


def test_the_engine_ends_what_was_closed(run: Run, engine: Engine) -> None:
    """No token is made for reasoning that nobody waits for."""

    async def made() -> int:
        before = engine.load.output_tokens
        stream = await streamed(engine, closing(chat(max_tokens=400), after(5)), None)
        (facts,) = stream.generation.sequences.values()
        assert engine.has_finished(stream.generation)
        # The engine may be a step or two ahead of its client.
        return engine.load.output_tokens - before - facts.tokens

    assert run(made()) < 16


def test_who_leaves_while_it_is_closed_leaves_nothing_behind(run: Run, engine: Engine) -> None:
    async def left() -> None:
        stream = Stream.__new__(Stream)

        def leave(of: Stream) -> None:
            nonlocal stream
            stream = of
            if len(of.events) == AFTER + 2:
                raise asyncio.CancelledError

        with pytest.raises(asyncio.CancelledError):
            await streamed(engine, closing(chat(n=2, **GREEDY)), None, on_event=leave)
        for _ in range(3000):
            if engine.has_finished(stream.generation):
                break
            await asyncio.sleep(0.02)
        assert engine.has_finished(stream.generation)

    run(left())
