"""What a client does wrong, and routes that are not ours, at a tier's edge."""

import json

import pytest

from tests.api.asgi import Call, FakeEngine, answers, call
from tests.builders import a_gate, an_edge, count, idle, some_settings
from tests.virtual_time import run_virtual, virtual

HI = {"prompt": "hi"}
DONE = {"object": "chat.completion", "choices": []}


# --- faults of the client


@virtual
async def test_a_body_over_the_limit_is_413_whether_it_says_so_or_not() -> None:
    engine = FakeEngine(answers(DONE))
    edge = an_edge(engine, settings=some_settings(max_body_bytes=1024))
    declared = [(b"content-length", b"1025")]
    for made in (await call(edge, body=b"x" * 1025), await call(edge, "", HI, headers=declared)):
        assert made.status == 413
        assert made.error["code"] == "request_too_large"
        assert "1024 bytes" in made.error["message"]
    assert engine.asked == []


@virtual
async def test_a_clients_error_is_a_400_in_openais_form_and_never_reaches_the_engine() -> None:
    engine = FakeEngine(answers(DONE))
    edge = an_edge(engine)
    bad_json = await call(edge, body=b'{"prompt":')
    assert (bad_json.status, bad_json.error["code"]) == (400, "invalid_json")
    infinite = await call(edge, body=b'{"prompt": "hi", "temperature": 1e999}')
    assert infinite.status == 400
    too_long = await call(edge, "", {**HI, "max_tokens": 5000})
    assert too_long.error == {
        "message": too_long.error["message"],
        "type": "invalid_request_error",
        "param": "max_tokens",
        "code": "max_tokens_exceeds_tier_limit",
    }
    assert engine.asked == []
    assert idle(edge.gate)
    assert count(edge, "requests_total", status="400") == 3


@virtual
async def test_anthropic_clients_get_their_own_error_form() -> None:
    edge = an_edge(FakeEngine(answers(DONE)))
    made = await call(edge, "/v1/messages", {"max_tokens": -1, "messages": []})
    body = json.loads(made.text)
    assert body["type"] == "error"
    assert body["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "", 405),
        ("OPTIONS", "/v1/chat/completions", 405),
        ("OPTIONS", "/tokenize", 405),
        ("OPTIONS", "/v1/nothing", 404),
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/messages", 405),
        ("GET", "/v1/nothing", 404),
        ("POST", "/sleep", 404),
        ("POST", "/v1/load_lora_adapter", 404),
        ("POST", "/inference/v1/generate", 404),
        ("POST", "/pooling", 404),
    ],
)
def test_what_is_no_route_of_ours_never_reaches_vllm(method: str, path: str, status: int) -> None:
    engine = FakeEngine(answers(DONE))
    made = run_virtual(call(an_edge(engine), path, HI, method=method))
    assert made.status == status
    assert made.error["type"] in ("invalid_request_error", "not_found_error")
    assert ("allow" in made.headers) == (status == 405)
    assert engine.asked == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models"),
        ("GET", "/health"),
        ("POST", "/tokenize"),
    ],
)
def test_what_only_answers_goes_to_vllm_past_the_gate(method: str, path: str) -> None:
    engine = FakeEngine(answers({"ok": True}))
    edge = an_edge(engine, gate=a_gate(slots=1, max_queued_requests=0))

    async def scene() -> Call:
        with edge.gate.enter(1):
            return await call(edge, path, HI, method=method)

    made = run_virtual(scene())
    assert (made.status, len(engine.asked)) == (200, 1)


@virtual
async def test_an_error_of_vllm_gets_openais_type_names() -> None:
    vllm = {"error": {"message": "too long", "type": "BadRequestError", "param": None, "code": 400}}
    made = await call(an_edge(FakeEngine(answers(vllm, status=400))), "", HI)
    assert made.status == 400
    assert made.error == {
        "message": "too long",
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_value",
    }


@virtual
async def test_an_error_of_vllm_teaches_the_gate_nothing() -> None:
    edge = an_edge(FakeEngine(answers({}, status=400)))
    await call(edge, "", HI)
    assert not edge.gate.service.measured
    await call(an_edge(FakeEngine(answers(DONE)), gate=edge.gate), "", HI)
    assert edge.gate.service.measured
