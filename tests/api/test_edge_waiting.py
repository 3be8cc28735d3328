"""A tier's edge when it is full, and when an answer ends badly, in virtual time."""

import asyncio
import json
from typing import Any

import pytest

from serve_app.api.edge import TierEdge
from tests.api.asgi import Call, FakeEngine, answers, breaks, call, sse_data, streams
from tests.builders import a_gate, an_edge, count, idle, some_settings
from tests.virtual_time import now_s, run_virtual, virtual

HI = {"prompt": "hi"}
STREAM = {"prompt": "hi", "stream": True}
DONE = {"object": "chat.completion", "choices": []}
TOKEN = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'
LAST = b"data: [DONE]\n\n"


# --- admission


def full_edge(engine: FakeEngine, *, slots: int = 1, queued: int = 0, **settings: Any) -> TierEdge:
    gate = a_gate(slots=slots, max_queued_requests=queued, service_s=10.0)
    return an_edge(engine, gate=gate, settings=some_settings(**settings))


@virtual
async def test_a_full_tier_refuses_at_once_and_says_who_is_ahead_and_when_to_come_back() -> None:
    for payload in (HI, STREAM):
        engine = FakeEngine(answers(DONE, after_s=10.0))
        edge = full_edge(engine, queued=1)
        running, waiting = Call(edge, "", HI), Call(edge, "", HI)
        await asyncio.sleep(0.1)
        asked_s = now_s()
        made = await call(edge, "", payload)
        assert now_s() == asked_s
        assert made.status == 429
        assert made.headers["content-type"] == "application/json"
        assert int(made.headers["retry-after"]) >= 10
        assert "1 requests are ahead" in made.error["message"]
        assert (made.error["type"], made.error["code"]) == ("rate_limit_error", "queue_full")
        await asyncio.gather(running.done, waiting.done)
        assert (running.status, waiting.status) == (200, 200)
        assert count(edge, "refused_total", reason="queue_full") == 1
        assert idle(edge.gate)


@virtual
async def test_the_retry_of_an_openai_client_finds_the_room_that_is_kept() -> None:
    edge = full_edge(FakeEngine(answers(DONE, after_s=10.0)), queued=2)
    calls = [Call(edge, "", {"prompt": name}) for name in "abc"]
    await asyncio.sleep(0.1)
    refused = await call(edge, "", {"prompt": "d"})
    assert refused.status == 429
    await asyncio.sleep(10.0)
    fresh = await call(edge, "", {"prompt": "e"})
    assert fresh.status == 429
    retry = Call(edge, "", {"prompt": "d"}, headers=[(b"x-stainless-retry-count", b"1")])
    await asyncio.gather(retry.done, *(made.done for made in calls))
    assert retry.status == 200


@virtual
async def test_a_stream_that_waits_gets_heartbeats_and_then_its_answer() -> None:
    edge = full_edge(FakeEngine(streams(TOKEN, LAST, every_s=2.4)), queued=4, heartbeat_s=2.0)
    first, second = Call(edge, "", STREAM), Call(edge, "", STREAM)
    third = await call(edge, "", STREAM)
    assert third.status == 200
    assert third.headers["content-type"].startswith("text/event-stream")
    beats = [
        (sent_s, message["body"])
        for sent_s, message in zip(third.sent_s, third.messages, strict=True)
        if message.get("body", b"").startswith(b":")
    ]
    assert beats == [
        (2.0, b": waiting, 1 ahead\n\n"),
        (4.0, b": waiting, 1 ahead\n\n"),
        (6.0, b": waiting, 0 ahead\n\n"),
        (8.0, b": waiting, 0 ahead\n\n"),
    ]
    assert third.text.endswith((TOKEN + LAST).decode())
    assert [m["type"] for m in third.messages].count("http.response.start") == 1
    await asyncio.gather(first.done, second.done)


@virtual
async def test_a_whole_answer_waits_without_heartbeats_and_keeps_its_status() -> None:
    edge = full_edge(FakeEngine(answers({}, after_s=5.0, status=400)), queued=4)
    first = Call(edge, "", HI)
    second = await call(edge, "", HI)
    assert second.status == 400
    await first.done


@virtual
async def test_the_wait_is_measured() -> None:
    edge = full_edge(FakeEngine(answers(DONE, after_s=5.0)), queued=4)
    first, second = Call(edge, "", HI), Call(edge, "", HI)
    await asyncio.gather(first.done, second.done)
    assert count(edge, "queue_wait_seconds_sum") == 5.0
    assert count(edge, "e2e_seconds_sum") == 15.0


# --- ends other than the good one


@virtual
async def test_an_engine_error_after_heartbeats_is_an_error_event() -> None:
    vllm = {"error": {"message": "too long", "type": "BadRequestError", "param": None, "code": 400}}
    edge = full_edge(FakeEngine(answers(vllm, after_s=5.0, status=400)), queued=4)
    first, second = Call(edge, "", HI), await call(edge, "", STREAM)
    await first.done
    event, end = sse_data(second.text)
    assert json.loads(event)["error"]["message"] == "too long"
    assert end == "[DONE]"
    assert count(edge, "requests_total", status="400") == 2


@virtual
async def test_an_anthropic_client_gets_the_error_as_an_error_event_by_name() -> None:
    edge = full_edge(FakeEngine(answers({}, after_s=5.0, status=400)), queued=4)
    payload = {"messages": [{"role": "user", "content": "hi"}], "stream": True}
    first, second = Call(edge, "", HI), await call(edge, "/v1/messages", payload)
    await first.done
    assert "event: error\ndata: " in second.text
    assert "[DONE]" not in second.text


@virtual
async def test_an_error_of_the_engine_is_a_500_in_openais_form_and_frees_the_slot() -> None:
    edge = an_edge(FakeEngine(breaks(RuntimeError("boom"))))
    made = Call(edge, "", HI)
    with pytest.raises(RuntimeError, match="boom"):
        await made.done
    assert (made.status, made.error["type"]) == (500, "server_error")
    assert "boom" not in made.text
    assert count(edge, "requests_total", status="500") == 1
    assert idle(edge.gate)


@virtual
async def test_an_error_in_mid_stream_ends_the_stream_with_an_error_event() -> None:
    edge = an_edge(FakeEngine(streams(TOKEN, then=RuntimeError("boom"))))
    made = Call(edge, "", STREAM)
    with pytest.raises(RuntimeError):
        await made.done
    assert json.loads(sse_data(made.text)[1])["error"]["code"] == "internal_error"
    assert made.messages[-1]["more_body"] is False


@virtual
async def test_a_client_that_disconnects_in_the_queue_never_reaches_the_engine() -> None:
    engine = FakeEngine(answers(DONE, after_s=5.0))
    edge = full_edge(engine, queued=4)
    first, second = Call(edge, "", HI), Call(edge, "", {"prompt": "second"})
    await asyncio.sleep(1.0)
    assert edge.gate.queued_requests == 1
    second.leave()
    await second.done
    assert now_s() == 1.0
    assert edge.gate.queued_requests == 0
    await first.done
    assert len(engine.asked) == 1
    assert count(edge, "disconnected_total") == 1
    assert idle(edge.gate)


@virtual
async def test_a_client_that_leaves_in_mid_answer_ends_the_engines_work_and_frees_its_slot() -> (
    None
):
    engine = FakeEngine(streams(*[TOKEN] * 100, every_s=1.0))
    edge = full_edge(engine, queued=4)
    first = Call(edge, "", STREAM)
    await asyncio.sleep(2.5)
    first.leave()
    await first.done
    assert now_s() < 3.5
    assert engine.aborted == 1
    assert idle(edge.gate)
    assert count(edge, "requests_total", status="499") == 1
    assert not edge.gate.service.measured


@pytest.mark.parametrize("after_s", [0.0, 0.5, 7.0])
def test_a_call_that_the_server_cancels_leaves_nothing_behind(after_s: float) -> None:
    async def scene() -> None:
        engine = FakeEngine(answers(DONE, after_s=5.0))
        edge = full_edge(engine, queued=4)
        first, second = Call(edge, "", HI), Call(edge, "", STREAM)
        await asyncio.sleep(after_s)
        second.done.cancel()
        await asyncio.wait([first.done, second.done])
        assert first.status == 200
        assert idle(edge.gate)
        assert engine.running == 0

    run_virtual(scene())


@virtual
async def test_at_the_end_of_a_drain_what_runs_and_what_waits_ends_with_an_error() -> None:
    engine = FakeEngine(streams(*[TOKEN] * 100, every_s=1.0))
    edge = full_edge(engine, queued=4)
    streaming, waiting, whole = Call(edge, "", STREAM), Call(edge, "", STREAM), Call(edge, "", HI)
    await asyncio.sleep(5.5)
    assert edge.deadlines.end() == 3
    await asyncio.gather(streaming.done, waiting.done, whole.done)
    assert now_s() == 5.5
    for made in (streaming, waiting):
        assert json.loads(sse_data(made.text)[-2])["error"]["code"] == "replica_stopping"
    assert (whole.status, whole.headers["retry-after"]) == (503, "1")
    assert count(edge, "requests_total", status="503") == 3
    assert idle(edge.gate)


@virtual
async def test_ending_all_when_nothing_runs_ends_nothing() -> None:
    edge = an_edge(FakeEngine(answers(DONE)))
    await call(edge, "", HI)
    assert edge.deadlines.end() == 0


@virtual
async def test_slots_granted_while_other_replicas_are_looked_for_are_taken() -> None:
    async def found_late() -> list[str]:
        await asyncio.sleep(3.0)
        return ["http://127.0.0.1:1"]

    edge = full_edge(FakeEngine(answers(DONE, after_s=1.0)), queued=1)
    edge.forwarder.peers = found_late
    running, waiting = Call(edge, "", HI), Call(edge, "", HI)
    await asyncio.gather(running.done, waiting.done)
    assert (running.status, waiting.status) == (200, 200)
    assert idle(edge.gate)
