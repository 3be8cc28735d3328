"""A tier's edge with a model that thinks: what the engine is asked, what the client is told."""

import json
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from serve_app.config.answers import ThinkingConfig
from serve_app.core.generation import GENERATION, Generation, SequenceFacts
from serve_app.core.reasoning.trace import ThoughtEnd, ThoughtMarks, ThoughtTrace
from tests.api.asgi import Answering, FakeEngine, answers, call, sse_data, streams
from tests.builders import an_edge, count, some_settings
from tests.virtual_time import run_virtual, virtual

HI = {"prompt": "hi"}
MARKS = ThoughtMarks(1, 2, (1,), (7, 2), (2,))
MESSAGE = {"role": "assistant", "content": None, "reasoning": "so"}
WHOLE = {
    "id": "chatcmpl-old",
    "choices": [{"index": 0, "message": MESSAGE, "finish_reason": "repetition"}],
}
FIRST = b'data: {"id":"chatcmpl-old","choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'
LAST = b'data: {"id":"chatcmpl-old","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"


def thinks(answering: Answering, *ends: ThoughtEnd, repeated: bool = False) -> Answering:
    """An engine that tells of its thoughts, of seven tokens each."""

    async def answer(payload: dict[str, Any], send: Send) -> None:
        generation = GENERATION.get()
        assert generation is not None
        for index, end in enumerate(ends):
            trace = ThoughtTrace(MARKS, 9, tokens=7, end=end)
            generation.sequences[index] = SequenceFacts(trace, repeated)
        await answering(payload, send)

    return answer


# --- what the engine is asked for


@virtual
async def test_the_engine_gets_the_plan_and_the_next_request_another() -> None:
    seen: list[Generation | None] = []

    async def answering(payload: dict[str, Any], send: Send) -> None:
        seen.append(GENERATION.get())
        await answers(WHOLE)(payload, send)

    edge = an_edge(FakeEngine(answering), thinks=True)

    async def noting_what_stays(scope: Scope, receive: Receive, send: Send) -> None:
        await edge(scope, receive, send)
        assert GENERATION.get() is None

    await call(noting_what_stays, "", {**HI, "thinking_token_budget": 50})
    await call(noting_what_stays, "", {**HI, "ignore_eos": True})
    first, second = seen
    assert first is not None
    assert second is not None
    assert first.plan is not None
    assert second.plan is not None
    assert (first.plan.most_tokens, first.stop_repetition) == (50, True)
    assert (second.plan.most_tokens, second.stop_repetition) == (768, False)


@virtual
async def test_a_model_that_does_not_think_has_no_plan_and_takes_no_budget() -> None:
    edge = an_edge(FakeEngine(answers(WHOLE)))
    refused = await call(edge, "", {**HI, "thinking_token_budget": 50})
    assert (refused.status, refused.error["param"]) == (400, "thinking_token_budget")


# --- what the client is told


@virtual
async def test_a_whole_answer_says_how_its_reasoning_ended_and_its_content_is_text() -> None:
    engine = FakeEngine(thinks(answers(WHOLE), ThoughtEnd.CUT, repeated=True))
    edge = an_edge(engine, thinks=True)
    made = await call(edge, "", HI)
    answer = json.loads(made.text)
    assert answer["tierserve"] == {
        "thoughts": [{"index": 0, "end": "cut", "tokens": 7}],
        "finish_reasons": {"0": "repetition"},
    }
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "stop"
    assert choice["message"] == {**MESSAGE, "content": "", "reasoning_content": "so"}
    assert made.headers["x-tierserve-thought"] == "cut"
    assert int(made.headers["content-length"]) == len(made.text.encode())
    assert count(edge, "thoughts_total", end="cut") == 1
    assert count(edge, "thought_tokens_total") == 7
    assert count(edge, "repetitions_total") == 1


@virtual
async def test_only_the_last_chunk_of_a_stream_has_the_reasonings_metadata() -> None:
    engine = FakeEngine(thinks(streams(FIRST, LAST, DONE), ThoughtEnd.COMPLETE))
    made = await call(an_edge(engine, thinks=True), "", {**HI, "stream": True})
    first, last, done = sse_data(made.text)
    assert "tierserve" not in first
    told = {"thoughts": [{"index": 0, "end": "complete", "tokens": 7}]}
    assert json.loads(last)["tierserve"] == told
    assert done == "[DONE]"


@virtual
async def test_an_error_has_no_reasoning_metadata() -> None:
    engine = FakeEngine(thinks(answers({"error": {"message": "no"}}, status=400), ThoughtEnd.OFF))
    made = await call(an_edge(engine, thinks=True), "", HI)
    assert made.status == 400
    assert "tierserve" not in made.text
    assert "x-tierserve-thought" not in made.headers


@pytest.mark.parametrize("stream", [False, True])
def test_each_warning_is_a_header_of_its_own(stream: bool) -> None:
    chunks = streams(LAST, DONE) if stream else answers(WHOLE)
    edge = an_edge(FakeEngine(chunks), thinks=True)
    asked = {**HI, "stream": stream, "temperature": 1.5, "thinking_token_budget": 900}
    made = run_virtual(call(edge, "", asked))
    headers = made.messages[0]["headers"]
    told = [value.decode() for name, value in headers if name == b"x-tierserve-warning"]
    assert len(told) == 2
    assert "768 tokens" in told[0]
    assert "temperature 1.5" in told[1]


@virtual
async def test_whoever_asks_for_reasoning_that_the_tier_has_not_gets_a_warning() -> None:
    off = some_settings().model_copy(update={"thinking": ThinkingConfig(enabled=False)})
    edge = an_edge(FakeEngine(answers(WHOLE)), thinks=True, settings=off)
    made = await call(edge, "", {**HI, "reasoning_effort": "high"})
    assert made.headers["x-tierserve-warning"] == "thinking is off in this tier"
    assert "x-tierserve-warning" not in (await call(edge, "", HI)).headers
