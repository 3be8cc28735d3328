"""A tier's edge in front of a fake engine: what goes in, what comes out, in virtual time."""

import asyncio
import json

import pytest

from serve_app.api.gate import GateLimits
from tests.api.asgi import Call, FakeEngine, answers, call, sse_data, streams
from tests.builders import an_edge, count, idle, some_settings
from tests.virtual_time import run_virtual, virtual

HI = {"prompt": "hi"}
STREAM = {"prompt": "hi", "stream": True}
DONE = {"object": "chat.completion", "choices": []}
TOKEN = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'
LAST = b"data: [DONE]\n\n"


# --- in and out


@virtual
async def test_a_request_reaches_vllms_own_route_with_the_tiers_rules_applied() -> None:
    engine = FakeEngine(answers(DONE))
    edge = an_edge(engine)
    made = await call(edge, "", HI)
    assert (made.status, json.loads(made.text)) == (200, DONE)
    assert engine.scopes[0]["path"] == "/api/chat/v1/chat/completions"
    assert engine.asked[0] == {
        "model": "chat",
        "messages": [{"role": "user", "content": "hi"}],
        "max_completion_tokens": 1024,
        "temperature": 0.6,
        "top_p": 0.95,
    }
    headers = dict(engine.scopes[0]["headers"])
    assert int(headers[b"content-length"]) == len(json.dumps(engine.asked[0]))
    assert idle(edge.gate)


@virtual
async def test_changed_settings_and_limits_hold_for_the_next_request() -> None:
    engine = FakeEngine(answers(DONE))
    edge = an_edge(engine)
    await call(edge, "", HI)
    assert (await call(edge, "", {**HI, "n": 2})).status == 400

    edge.settings = some_settings(max_new_tokens=5)
    edge.gate.configure(GateLimits(slots=2, max_queued_requests=4, max_wait_s=10.0))
    await call(edge, "", {**HI, "n": 2})
    assert [asked["max_completion_tokens"] for asked in engine.asked] == [1024, 5]

    edge.reader.other_tiers_limit = 2000
    refused = await call(edge, "", {**HI, "max_tokens": 1500})
    assert "The reasoning tier gives up to 2000" in refused.error["message"]


@pytest.mark.parametrize(
    ("path", "payload"),
    [
        ("/v1/chat/completions", HI),
        ("/v1/completions", HI),
        ("/v1/responses", {"input": "hi"}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "hi"}]}),
    ],
)
def test_every_generating_route_passes_the_gate(path: str, payload: object) -> None:
    async def scene() -> None:
        engine = FakeEngine(answers(DONE, after_s=1.0))
        edge = an_edge(engine)
        made = Call(edge, path, payload)
        await asyncio.sleep(0.5)
        assert edge.gate.running_requests == 1
        await made.done
        assert engine.scopes[0]["path"] == f"/api/chat{path}"
        assert idle(edge.gate)

    run_virtual(scene())


@virtual
async def test_text_of_all_scripts_survives_both_ways() -> None:
    engine = FakeEngine(answers({"text": "日本語 🙂"}))
    body = '{"prompt": "naïve 日本語 🙂"}'.encode()
    made = await call(an_edge(engine), body=body)
    assert engine.asked[0]["messages"][0]["content"] == "naïve 日本語 🙂"
    assert json.loads(made.text) == {"text": "日本語 🙂"}


@virtual
async def test_a_stream_passes_chunk_by_chunk_as_the_engine_makes_it() -> None:
    edge = an_edge(FakeEngine(streams(TOKEN, TOKEN, LAST, every_s=1.0)))
    made = await call(edge, "", STREAM)
    assert made.sent_s[1:4] == [1.0, 2.0, 3.0]
    assert made.text == (TOKEN + TOKEN + LAST).decode()
    assert made.headers["x-accel-buffering"] == "no"
    assert idle(edge.gate)


# --- request ids


@virtual
async def test_a_well_formed_request_id_is_taken_and_left_to_serve_to_answer_with() -> None:
    engine = FakeEngine(answers(DONE))
    made = await call(an_edge(engine), "", HI, headers=[(b"x-request-id", b"abc-1")])
    assert dict(engine.scopes[0]["headers"])[b"x-request-id"] == b"abc-1"
    assert "x-request-id" not in made.headers


@virtual
async def test_a_missing_or_malformed_request_id_is_made_and_given_to_the_engine_too() -> None:
    for headers in ([], [(b"x-request-id", b"bad id\n")], [(b"x-request-id", b"x" * 200)]):
        engine = FakeEngine(answers(DONE))
        made = await call(an_edge(engine), "", HI, headers=headers)
        request_id = made.headers["x-request-id"]
        assert len(request_id) == 32
        assert dict(engine.scopes[0]["headers"])[b"x-request-id"] == request_id.encode()


@virtual
async def test_refusals_carry_a_request_id_too() -> None:
    edge = an_edge(FakeEngine(answers(DONE)))
    for made in (await call(edge, body=b"{"), await call(edge, "/v1/nothing", HI)):
        assert made.headers["x-request-id"]


# --- thoughts


def thought(text: str) -> bytes:
    return json.dumps({"reasoning": text}, separators=(",", ":")).encode()


@pytest.mark.parametrize("text", ["", "plain", 'with "quotes" and \\ and \n', "日本語"])
def test_a_thought_has_both_names_streamed_and_not(text: str) -> None:
    whole = run_virtual(call(an_edge(FakeEngine(answers(thought(text)))), "", HI))
    chunk = b"data: " + thought(text) + b"\n\n"
    streamed = run_virtual(call(an_edge(FakeEngine(streams(chunk))), "", STREAM))
    for answer in (json.loads(whole.text), json.loads(sse_data(streamed.text)[0])):
        assert answer == {"reasoning": text, "reasoning_content": text}
    assert int(whole.headers["content-length"]) == len(whole.text.encode())


@virtual
async def test_an_absent_thought_has_both_names_too() -> None:
    edge = an_edge(FakeEngine(answers({"content": "x", "reasoning": None})))
    made = await call(edge, "", HI)
    assert json.loads(made.text)["reasoning_content"] is None


@virtual
async def test_what_looks_like_a_thought_inside_an_answer_stays_as_it_is() -> None:
    inside = {
        "content": '{"reasoning":"no","x":1} "reasoning": "no"',
        "arguments": thought("a").decode(),
    }
    made = await call(an_edge(FakeEngine(answers(inside))), "", HI)
    assert json.loads(made.text) == inside


# --- what it tells of itself


@virtual
async def test_a_streams_first_chunk_gaps_and_speed_are_measured() -> None:
    edge = an_edge(FakeEngine(streams(TOKEN, TOKEN, TOKEN, every_s=0.5)))
    await call(edge, "", STREAM)
    assert count(edge, "ttft_seconds_sum") == 0.5
    assert count(edge, "itl_seconds_sum") == 1.0
    assert edge.token_s == 0.5


@virtual
async def test_the_metrics_name_endpoints_and_never_what_clients_send() -> None:
    edge = an_edge(FakeEngine(answers(DONE)))
    await call(edge, "/v1/chat/completions", {**HI, "model": "whatever"})
    assert count(edge, "requests_total", endpoint="chat.completions", status="200") == 1


@pytest.mark.parametrize("log_prompts", [False, True])
def test_no_prompt_is_logged_unless_asked_for(
    log_prompts: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    settings = some_settings().model_copy(update={"log_prompts": log_prompts})
    edge = an_edge(FakeEngine(answers(DONE)), settings=settings)
    run_virtual(call(edge, "", {"prompt": "my secret"}, headers=[(b"x-request-id", b"id-1")]))
    run_virtual(call(edge, "", {"prompt": "my secret", "max_tokens": -1}))
    assert [record.__dict__["status"] for record in caplog.records] == [200, 400]
    assert caplog.records[0].__dict__["request_id"] == "id-1"
    assert ("my secret" in str([record.__dict__ for record in caplog.records])) is log_prompts
