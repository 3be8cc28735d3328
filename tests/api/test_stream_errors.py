"""Errors that vLLM finds after a stream has begun, and an engine that is dead."""

import json
from typing import Any

import pytest
from starlette.types import Send

from serve_app.errors import INTERNAL_ERROR
from tests.api.asgi import FakeEngine, answers, call, sse_data, streams
from tests.builders import an_edge, count, idle
from tests.virtual_time import run_virtual

STREAM = {"prompt": "hi", "stream": True}
TOKEN = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'
LAST = b"data: [DONE]\n\n"


def vllms(code: int, message: str = "bad schema", kind: str = "BadRequestError") -> bytes:
    error = {"message": message, "type": kind, "param": "response_format", "code": code}
    return b"data: " + json.dumps({"error": error}, separators=(",", ":")).encode() + b"\n\n"


def test_a_stream_that_begins_with_a_clients_error_is_answered_with_its_status() -> None:
    edge = an_edge(FakeEngine(streams(vllms(400), LAST)))
    made = run_virtual(call(edge, "", STREAM))
    assert made.status == 400
    assert made.headers["content-type"] == "application/json"
    assert json.loads(made.text)["error"] == {
        "message": "bad schema",
        "type": "invalid_request_error",
        "param": "response_format",
        "code": "invalid_value",
    }
    assert count(edge, "requests_total", status="400") == 1
    assert idle(edge.gate)


def test_an_error_in_mid_stream_has_openais_types() -> None:
    made = run_virtual(call(an_edge(FakeEngine(streams(TOKEN, vllms(400), LAST))), "", STREAM))
    assert made.status == 200
    error = json.loads(sse_data(made.text)[1])["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_value")
    assert sse_data(made.text)[-1] == "[DONE]"


def test_an_anthropic_client_gets_its_own_form() -> None:
    event = b'event: error\ndata: {"type":"error","error":{"type":"invalid_request_error","message":"x"}}\n\n'  # noqa: E501 - one event
    body = {"messages": [{"role": "user", "content": "hi"}], "stream": True}
    made = run_virtual(call(an_edge(FakeEngine(streams(event))), "/v1/messages", body))
    assert made.status == 400
    assert json.loads(made.text)["type"] == "error"


@pytest.mark.parametrize("path", ["", "/v1/completions"])
@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("dies", [True, False])
def test_vllms_words_for_a_server_error_stay_in_the_log(
    path: str, streaming: bool, dies: bool
) -> None:
    inside = "EngineCore encountered an issue. See stack trace (above)"
    event = vllms(500, inside, "InternalServerError")
    body = {"error": {"message": inside, "type": "InternalServerError", "code": 500}}
    answering = streams(event, LAST) if streaming else answers(body, status=500)
    asked: list[object] = []

    async def failing(payload: dict[str, Any], send: Send) -> None:
        asked.append(payload)
        await answering(payload, send)

    edge = an_edge(FakeEngine(failing))
    edge.engine_dead = lambda: dies and bool(asked)
    made = run_virtual(call(edge, path, {"prompt": "hi", "stream": streaming}))
    assert "EngineCore" not in made.text
    if dies:
        assert (made.status, made.error["code"]) == (503, "engine_stopped")
        assert made.headers["retry-after"] == "5"
    else:
        assert (made.status, made.error["message"]) == (500, INTERNAL_ERROR)


def test_a_replica_whose_engine_is_dead_sends_its_clients_elsewhere_at_once() -> None:
    engine = FakeEngine(answers({}))
    edge = an_edge(engine)
    edge.engine_dead = lambda: True
    made = run_virtual(call(edge, "", {"prompt": "hi"}))
    assert (made.status, made.error["type"]) == (503, "service_unavailable_error")
    assert made.headers["retry-after"]
    assert engine.asked == []
