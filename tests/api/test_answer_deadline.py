"""What a client may ask for as a deadline, and what becomes of a request that has one."""

import asyncio
import json
from typing import Any

import pytest

from serve_app.api.answer_deadline import GRACE_S, TIME_LEFT_HEADER, AnswerDeadline
from serve_app.api.edge import TierEdge
from serve_app.api.gate import Gate
from serve_app.api.in_time import limited
from serve_app.api.routes import CHAT_COMPLETIONS, COMPLETIONS, MESSAGES
from serve_app.config.answers import LimitsConfig
from serve_app.core.generation import GENERATION, Generation, SequenceFacts
from serve_app.core.reasoning.trace import ThoughtEnd, ThoughtMarks, ThoughtTrace
from tests.api.asgi import Call, FakeEngine, answers, call, sse_data, streams
from tests.builders import (
    SECRET,
    a_gate,
    a_reading_gate,
    an_edge,
    count,
    idle,
    some_settings,
)
from tests.virtual_time import now_s, virtual

DONE = {"object": "chat.completion", "choices": []}
TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'
END = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
LAST = b"data: [DONE]\n\n"
MARKS = ThoughtMarks(1, 2, (1,), (7, 2), (2,))


def an_edge_of(
    engine: FakeEngine | None = None, *, gate: Gate | None = None, thinks: bool = False
) -> TierEdge:
    """In front of an engine with steps of 10 ms, if the gate is no other one."""
    engine = engine or FakeEngine(answers(DONE))
    settings = some_settings(max_new_tokens=1000, relay_after_s=1000.0, heartbeat_s=1000.0)
    return an_edge(engine, gate=gate or a_reading_gate(), settings=settings, thinks=thinks)


def asked(deadline_ms: object, **more: Any) -> dict[str, Any]:
    return {"prompt": "hi", "deadline_ms": deadline_ms, **more}


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (0, "invalid_value"),
        (-1, "invalid_value"),
        (1, "deadline_out_of_bounds"),
        (3_600_001, "deadline_out_of_bounds"),
        (2**63 - 1, "deadline_out_of_bounds"),
        (1e308, "invalid_type"),
        (5000.0, "invalid_type"),
        ("5000", "invalid_type"),
        (True, "invalid_type"),
        ([5000], "invalid_type"),
        ({}, "invalid_type"),
    ],
)
def test_what_is_no_deadline_is_refused_with_its_field(value: object, code: str) -> None:
    @virtual
    async def test() -> None:
        edge = an_edge_of()
        made = await call(edge, "", asked(value))
        assert (made.status, made.error["param"], made.error["code"]) == (400, "deadline_ms", code)
        assert idle(edge.gate)

    test()


@pytest.mark.parametrize("body", [b"NaN", b"Infinity", b"1e999", b"5000" * 30, b"-0"])
def test_numbers_that_are_none_are_refused(body: bytes) -> None:
    @virtual
    async def test() -> None:
        made = await call(an_edge_of(), "", body=b'{"prompt":"hi","deadline_ms":' + body + b"}")
        assert made.status == 400

    test()


@pytest.mark.parametrize("value", [b"", b"soon", b"5e3", b"-5", b"5000.5", b"9" * 5000, b"0x10"])
def test_a_header_that_is_no_number_is_refused(value: bytes) -> None:
    @virtual
    async def test() -> None:
        headers = [(b"x-deadline-ms", value)]
        made = await call(an_edge_of(), "", {"prompt": "hi"}, headers=headers)
        assert (made.status, made.error["param"]) == (400, "x-deadline-ms")

    test()


@virtual
async def test_body_and_header_may_say_the_same_but_not_two_things() -> None:
    engine = FakeEngine(answers(DONE))
    edge = an_edge_of(engine)
    same = await call(edge, "", asked(5000), headers=[(b"x-deadline-ms", b"5000")])
    assert same.status == 200
    other = await call(edge, "", asked(5000), headers=[(b"x-deadline-ms", b"6000")])
    assert (other.status, other.error["code"]) == (400, "conflicting_deadlines")
    alone = await call(edge, "", {"prompt": "hi"}, headers=[(b"x-deadline-ms", b"5000")])
    assert json.loads(alone.text)["tierserve"]["deadline"]["deadline_ms"] == 5000
    # vLLM's schemas would take it for a field of their own, or complain.
    assert all("deadline_ms" not in body for body in engine.asked)


@virtual
async def test_null_is_no_deadline() -> None:
    made = await call(an_edge_of(), "", asked(None))
    assert made.status == 200
    assert "tierserve" not in json.loads(made.text)


@virtual
async def test_a_name_that_is_nearly_right_is_refused() -> None:
    made = await call(an_edge_of(), "", {"prompt": "hi", "deadline": 5000})
    assert made.status == 400
    assert "did you mean `deadline_ms`?" in made.error["message"]


@virtual
async def test_what_an_idle_tier_could_not_do_is_refused_with_what_it_could() -> None:
    edge = an_edge_of(gate=a_reading_gate(step_ms=100.0))
    made = await call(edge, "", asked(1000))
    assert (made.status, made.error["code"]) == (400, "deadline_too_short")
    # 32 tokens, their prompt and the way to the client.
    least_ms = int(made.error["message"].split("takes this tier ")[1].split(" ms")[0])
    assert 3200 <= least_ms <= 4000
    assert count(edge, "deadlines_total", result="refused") == 1
    assert (await call(edge, "", asked(least_ms + 300))).status == 200


@virtual
async def test_an_idle_tier_takes_what_it_could_not_do_in_a_full_batch() -> None:
    edge = an_edge_of(gate=a_reading_gate(slots=64, per_sequence_ms=10.0))
    assert (await call(edge, "", asked(1500))).status == 200


@virtual
async def test_the_engine_gets_the_tokens_that_the_time_allows() -> None:
    engine = FakeEngine(answers(DONE))
    edge = an_edge_of(engine)
    await call(edge, "", asked(2000))
    assert 150 <= engine.asked[-1]["max_completion_tokens"] <= 190
    await call(edge, "", asked(2000, max_tokens=20))
    assert engine.asked[-1]["max_tokens"] == 20
    await call(edge, "", asked(60_000))
    assert engine.asked[-1]["max_completion_tokens"] == 1000


@virtual
async def test_reasoning_gets_what_the_answer_leaves_or_nothing() -> None:
    plans: list[Any] = []

    async def seeing(payload: dict[str, Any], send: Any) -> None:
        generation = GENERATION.get()
        assert generation is not None
        plans.append(generation.plan)
        await answers(DONE)(payload, send)

    edge = an_edge_of(FakeEngine(seeing), thinks=True)
    for deadline_ms in (60_000, 3000, 700):
        made = await call(edge, "", asked(deadline_ms))
        assert made.status == 200
    whole, short, direct = plans
    assert (whole.enabled, whole.most_tokens) == (True, 750 - 24)
    assert short.enabled
    assert 120 <= short.most_tokens <= 200
    assert not direct.enabled
    assert json.loads(made.text)["tierserve"]["deadline"]["cut"] == ["reasoning"]


@virtual
async def test_reasoning_is_closed_earlier_while_others_wait_by_the_lengths_that_were_learnt() -> (
    None
):
    generations: list[Generation] = []
    waits = asyncio.Event()

    async def thinking(payload: dict[str, Any], send: Any) -> None:
        generation = GENERATION.get()
        assert generation is not None
        generations.append(generation)
        if generation.time is not None:
            await waits.wait()
        thought = ThoughtTrace(MARKS, 700, tokens=100, end=ThoughtEnd.COMPLETE)
        generation.sequences[0] = SequenceFacts(thought=thought)
        await answers(DONE)(payload, send)

    gate = a_reading_gate(slots=1)
    edge = an_edge_of(FakeEngine(thinking), gate=gate, thinks=True)
    for _ in range(6):
        await call(edge, "", {"prompt": "short"})
    running = Call(edge, "", asked(60_000))
    await asyncio.sleep(0.01)
    close = generations[-1].close_reasoning
    assert close is not None
    assert close(0, 400) is None
    waiting = Call(edge, "", {"prompt": "short"})
    await asyncio.sleep(0.01)
    # As many wait as run: half of the mean, if lengths are exponential.
    assert (close(0, 69), close(0, 70)) == (None, "queue")
    waits.set()
    await asyncio.gather(running.done, waiting.done)
    assert idle(gate)


@virtual
async def test_a_deadline_that_passes_in_the_queue_ends_the_request_and_takes_no_slot() -> None:
    engine = FakeEngine(answers(DONE, after_s=100.0))
    # Whose forecast is wrong: it believes that answers take a second.
    gate = a_gate(slots=1, max_queued_requests=9, service_s=1.0)
    edge = an_edge_of(engine, gate=gate)
    running = Call(edge, "", {"prompt": "long"})
    await asyncio.sleep(0.01)
    waiting = await call(edge, "", asked(20_000))
    assert (waiting.status, waiting.error["code"]) == (504, "deadline_exceeded")
    assert waiting.error["param"] == "deadline_ms"
    assert waiting.headers["x-should-retry"] == "false"
    # 32 tokens at 8 a second would have been late.
    assert now_s() == pytest.approx(20.01 - 31 / 8 - 0.125 - 0.1, abs=0.3)
    assert (gate.queued_requests, len(engine.asked)) == (0, 1)
    assert count(edge, "deadlines_total", result="missed") == 1
    await running.done
    assert len(engine.asked) == 1
    assert idle(gate)


@virtual
async def test_a_full_tier_refuses_a_deadline_that_it_would_miss_and_says_when_it_would_not() -> (
    None
):
    engine = FakeEngine(answers(DONE, after_s=30.0))
    gate = a_gate(slots=1, max_queued_requests=9, service_s=30.0)
    edge = an_edge_of(engine, gate=gate)
    running = Call(edge, "", {"prompt": "long"})
    await asyncio.sleep(0.01)
    refused = await call(edge, "", asked(10_000))
    assert (refused.status, refused.error["code"]) == (429, "deadline_unreachable")
    assert refused.error["param"] == "deadline_ms"
    assert 20 <= int(refused.headers["retry-after"]) <= 45
    assert count(edge, "refused_total", reason="deadline_unreachable") == 1
    assert count(edge, "deadlines_total", result="refused") == 1
    later = Call(edge, "", asked(100_000))
    await asyncio.gather(running.done, later.done)
    assert later.status == 200


@virtual
async def test_an_engine_that_stands_still_does_not_hold_a_request_beyond_its_deadline() -> None:
    for payload in (asked(5000), asked(5000, stream=True)):
        engine = FakeEngine(answers(DONE, after_s=1000.0))
        edge = an_edge_of(engine)
        began_s = now_s()
        made = await call(edge, "", payload)
        assert (made.status, made.error["code"]) == (504, "deadline_exceeded")
        assert now_s() - began_s == pytest.approx(5.0 + GRACE_S, abs=0.01)
        assert engine.aborted == 1
        assert idle(edge.gate)


@virtual
async def test_a_stream_that_the_engine_does_not_end_ends_with_an_error_event() -> None:
    engine = FakeEngine(streams(*[TOKEN] * 100, every_s=1.0))
    made = await call(an_edge_of(engine), "", asked(5000, stream=True))
    assert made.status == 200
    assert json.loads(sse_data(made.text)[-2])["error"]["code"] == "deadline_exceeded"
    assert engine.aborted == 1


@virtual
async def test_the_last_event_says_whether_the_deadline_is_met() -> None:
    engine = FakeEngine(streams(TOKEN, END, LAST, every_s=0.5))
    edge = an_edge_of(engine)
    made = await call(edge, "", asked(5000, stream=True))
    end = json.loads(sse_data(made.text)[-2])
    assert end["tierserve"] == {"deadline": {"deadline_ms": 5000, "met": True, "cut": []}}
    assert count(edge, "deadlines_total", result="met") == 1


@virtual
async def test_the_time_that_the_body_took_counts() -> None:
    engine = FakeEngine(answers(DONE))
    edge = an_edge_of(engine)
    marked = AnswerDeadline(2000, now_s() + 1.0, now_s).mark(SECRET.key, "r-1")
    headers = [(b"x-request-id", b"r-1"), (TIME_LEFT_HEADER, marked.encode())]
    made = await call(edge, "", asked(2000), headers=headers)
    assert made.status == 200
    assert 60 <= engine.asked[-1]["max_completion_tokens"] <= 95
    assert json.loads(made.text)["tierserve"]["deadline"]["deadline_ms"] == 2000


@virtual
async def test_a_mark_that_nobody_of_the_cluster_has_written_counts_for_nothing() -> None:
    engine = FakeEngine(answers(DONE))
    for value in (b"x 500 600", b"", b"500", b"\xff" * 9):
        await call(an_edge_of(engine), "", asked(2000), headers=[(TIME_LEFT_HEADER, value)])
        assert engine.asked[-1]["max_completion_tokens"] > 150


@virtual
async def test_what_came_with_too_little_time_left_is_no_fault_of_its_client() -> None:
    edge = an_edge_of()
    marked = AnswerDeadline(9000, now_s() + 0.2, now_s).mark(SECRET.key, "r-1")
    headers = [(b"x-request-id", b"r-1"), (TIME_LEFT_HEADER, marked.encode())]
    made = await call(edge, "", asked(9000), headers=headers)
    assert (made.status, made.error["code"]) == (504, "deadline_exceeded")


def test_a_lowered_limit_keeps_what_is_lower_already_and_a_minimum_gives_way() -> None:
    payload = {"max_tokens": 50, "max_completion_tokens": 900, "min_tokens": 300}
    assert limited(payload, CHAT_COMPLETIONS, 200) == {
        "max_tokens": 50,
        "max_completion_tokens": 200,
        "min_tokens": 200,
    }
    # The schema's own default, which the clock ends if need be.
    assert limited({"prompt": "x"}, COMPLETIONS, 200) == {"prompt": "x"}
    thinking = {"type": "enabled", "budget_tokens": 1500}
    anthropic = limited({"max_tokens": 2000, "thinking": thinking}, MESSAGES, 1200)
    assert anthropic["thinking"]["budget_tokens"] < anthropic["max_tokens"] == 1200


def test_bounds_that_leave_no_deadline_are_refused() -> None:
    with pytest.raises(ValueError, match="least_deadline_ms"):
        LimitsConfig(least_deadline_ms=5000, most_deadline_ms=1000)
