"""Streams that leave a replica: it drains, its engine dies, the replica that ran them is lost; and
those that come to one, past its queue."""

import asyncio
import time
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from serve_app.api import engine_room
from serve_app.api.edge import TierEdge
from serve_app.api.hand_over import OFFER_EVERY_S, OFFER_SOON_S
from serve_app.errors import engine_stopped
from tests.api.asgi import Answering, Call, FakeEngine, answers_on, call, sse_data
from tests.api.followed import ID, STREAM, SteppingEngine, Taken, going_on, marked
from tests.api.loopback import served
from tests.api.test_forwarding import DONE, QUICK, a_pair, until
from tests.builders import a_gate, a_reading_gate, an_edge, count, idle
from tests.virtual_time import virtual

HELLO = [["He"], ["l"], ["lo"]]
ONE = Taken([b"data: 1", b"data: 2"], [b"0 0 0,0"])


def slow_edge(**engine: Any) -> tuple[TierEdge, SteppingEngine]:
    stepping = SteppingEngine(HELLO, **engine)
    return an_edge(FakeEngine(stepping), gate=a_gate(slots=4)), stepping


# --- the drain


@virtual
async def test_a_draining_replica_offers_at_once_and_again_until_somebody_takes_it() -> None:
    edge, _ = slow_edge(hangs_at=1)
    made = Call(edge, payload=STREAM, headers=marked())
    plain = Call(edge, payload=STREAM)
    await asyncio.sleep(1)
    draining = asyncio.create_task(edge.hand_over.offer())
    await asyncio.sleep(0.1)
    assert Taken.of(made.text).offers == 1
    await asyncio.sleep(OFFER_SOON_S)
    assert Taken.of(made.text).offers == 2
    # Nobody takes it.
    await asyncio.sleep(6 * OFFER_EVERY_S)
    assert 6 <= Taken.of(made.text).offers <= 9
    assert Taken.of(plain.text).offers == 0
    made.leave()
    await made.done
    assert count(edge, "left_streams_total", reason="handed_over") == 1
    assert count(edge, "disconnected_total") == 0
    assert count(edge, "requests_total") == 0
    plain.leave()
    await plain.done
    assert count(edge, "disconnected_total") == 1
    draining.cancel()
    assert idle(edge.gate)


@virtual
async def test_a_stream_that_nobody_takes_runs_on_to_its_end() -> None:
    edge, _ = slow_edge(pause_s=3.0)
    made = Call(edge, payload=STREAM, headers=marked())
    draining = asyncio.create_task(edge.hand_over.offer())
    await made.done
    taken = Taken.of(made.text)
    assert taken.offers >= 3
    assert len(taken.events) == 6
    assert count(edge, "requests_total", status="200") == 1
    draining.cancel()


@virtual
async def test_while_streams_leave_the_others_are_offered_again_soon() -> None:
    edge, _ = slow_edge(hangs_at=1)
    stays, *leave = [Call(edge, payload=STREAM, headers=marked(name)) for name in "abc"]
    await asyncio.sleep(1)
    draining = asyncio.create_task(edge.hand_over.offer())
    for left, one in enumerate(leave, start=1):
        await asyncio.sleep(0.1 if left == 1 else OFFER_SOON_S)
        assert Taken.of(stays.text).offers == left
        one.leave()
        await one.done
    await asyncio.sleep(OFFER_SOON_S)
    assert Taken.of(stays.text).offers == 3
    stays.leave()
    await stays.done
    draining.cancel()


@virtual
async def test_streams_that_end_by_themselves_bring_no_offers_to_the_others() -> None:
    """Nobody has room: each offer costs two replicas a request."""
    stays = SteppingEngine(HELLO, hangs_at=1)
    ends = SteppingEngine(HELLO, pause_s=0.2)

    async def either(payload: dict[str, Any], send: Send) -> None:
        engine = ends if payload["messages"][0]["content"] == "ends" else stays
        await engine(payload, send)

    edge = an_edge(FakeEngine(either), gate=a_gate(slots=4))
    made = Call(edge, payload=STREAM, headers=marked("stays"))
    await asyncio.sleep(1)
    draining = asyncio.create_task(edge.hand_over.offer())
    for number in range(10):
        other = Call(edge, payload={**STREAM, "prompt": "ends"}, headers=marked(f"ends-{number}"))
        await other.done
    # Of 0, 0.5, 1.5, 3.5 and 5.5 s.
    assert Taken.of(made.text).offers <= 5
    made.leave()
    await made.done
    draining.cancel()


@virtual
async def test_a_stream_of_which_nothing_was_sent_is_opened_for_an_offer_after_some_time() -> None:
    edge, _ = slow_edge(hangs_at=0)
    made = Call(edge, payload=STREAM, headers=marked())
    await asyncio.sleep(1)
    draining = asyncio.create_task(edge.hand_over.offer())
    await asyncio.sleep(OFFER_EVERY_S / 2)
    assert made.messages == []
    await asyncio.sleep(2 * OFFER_EVERY_S)
    assert made.headers["x-tierserve-journal"] == "1"
    assert Taken.of(made.text).offers == 1
    made.leave()
    await made.done
    draining.cancel()


@virtual
async def test_a_client_that_takes_nothing_is_offered_nothing_and_keeps_nobody_waiting() -> None:
    edge, _ = slow_edge(pause_s=1.0)
    stuck = asyncio.Event()

    async def send(message: Any) -> None:
        if b"data" in message.get("body", b""):
            await stuck.wait()

    other = Call(edge, payload=STREAM, headers=marked("other"))
    scope, receive = other._scope, other._receive
    mine = {**scope, "headers": [*marked("mine"), (b"content-type", b"application/json")]}
    body = iter([b'{"prompt": "hi", "stream": true}'])

    async def receive_mine() -> Any:
        for each in body:
            return {"type": "http.request", "body": each, "more_body": False}
        return await receive()

    running = asyncio.ensure_future(edge(mine, receive_mine, send))
    await asyncio.sleep(1.5)
    draining = asyncio.create_task(edge.hand_over.offer())
    await other.done
    assert Taken.of(other.text).offers >= 1
    stuck.set()
    await running
    draining.cancel()


@virtual
async def test_a_draining_replica_takes_nothing_that_another_one_hands_over() -> None:
    edge, engine = slow_edge()
    draining = asyncio.create_task(edge.hand_over.offer())
    await asyncio.sleep(0.1)
    refused = going_on(edge, ONE, only_with_room=True)
    await refused.done
    assert (refused.status, refused.error["code"]) == (503, "no_capacity")
    assert engine.runs == 0
    lost = going_on(edge, ONE)
    await lost.done
    assert lost.status == 200
    draining.cancel()


@virtual
async def test_what_still_runs_at_the_end_of_a_drain_is_lost_and_not_failed() -> None:
    edge, _ = slow_edge(hangs_at=1)
    made = Call(edge, payload=STREAM, headers=marked())
    plain = Call(edge, payload=STREAM)
    await asyncio.sleep(1)
    assert edge.deadlines.end() == 2
    await asyncio.gather(made.done, plain.done)
    taken = Taken.of(made.text)
    assert (len(taken.events), taken.lost) == (2, b"stopping")
    assert '"code": "replica_stopping"' in plain.text
    assert count(edge, "left_streams_total", reason="replica_stopping") == 1
    assert count(edge, "requests_total", status="503") == 1


# --- the engine dies


def dies_with_an_error(dead: asyncio.Event) -> Answering:
    """As vLLM's handlers do it: an error event, and the end of the stream."""
    first = SteppingEngine(HELLO)

    async def answering(payload: dict[str, Any], send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": first.event("He"), "more_body": True})
        dead.set()
        error = b'data: {"error":{"message":"EngineCore","type":"x","code":500}}\n\n'
        for body in (error, b"data: [DONE]\n\n"):
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return answering


@virtual
async def test_a_stream_whose_engine_dies_ends_with_the_word_that_it_is_lost() -> None:
    dead = asyncio.Event()
    edge = an_edge(FakeEngine(dies_with_an_error(dead)))
    edge.engine_dead = dead.is_set
    made = await call(edge, payload=STREAM, headers=marked())
    taken = Taken.of(made.text)
    assert (len(taken.events), taken.lost) == (1, b"engine")
    assert made.text.endswith(":lost engine\n\n")
    assert made.messages[-1]["more_body"] is False
    assert count(edge, "left_streams_total", reason="engine_stopped") == 1
    assert count(edge, "requests_total") == 0
    dead.clear()
    plain = await call(edge, payload=STREAM)
    assert '"code": "engine_stopped"' in plain.text
    assert ":lost" not in plain.text


@virtual
async def test_an_engine_that_dies_in_silence_loses_its_streams_too() -> None:
    edge, _ = slow_edge(hangs_at=1)
    made = Call(edge, payload=STREAM, headers=marked())
    await asyncio.sleep(1)
    edge.deadlines.end(engine_stopped)
    await made.done
    assert Taken.of(made.text).lost == b"engine"
    assert idle(edge.gate)


@virtual
async def test_a_stream_is_lost_once_more_and_goes_on_from_both_journals() -> None:
    edge, _ = slow_edge()
    whole = Taken.of((await call(edge, payload=STREAM, headers=marked())).text)
    edge, _ = slow_edge(hangs_at=2)
    so_far = Taken(whole.events[:2], whole.steps[:1])
    again = going_on(edge, so_far)
    await asyncio.sleep(1)
    edge.deadlines.end(engine_stopped)
    await again.done
    later = Taken.of(again.text)
    assert (later.steps, later.lost) == ([b"0 0 1,1"], b"engine")
    edge, _ = slow_edge()
    last = going_on(edge, so_far.then(later), replays=2)
    await last.done
    assert len(so_far.then(later).then(Taken.of(last.text)).events) == len(whole.events)


# --- forwarded streams


async def test_a_forwarded_stream_carries_the_journal_of_the_replica_that_runs_it() -> None:
    engine = SteppingEngine(HELLO)
    async with a_pair(there=engine) as pair:
        first = await pair.fill_here()
        second = await call(pair.here, payload=STREAM, headers=marked())
        taken = Taken.of(second.text)
        assert taken.steps == [b"0 0 0,0", b"0 0 1,1", b"0 0 2,2"]
        assert second.headers["x-tierserve-journal"] == "1"
        assert count(pair.here, "relayed_total") == 1
        third = await call(pair.here, payload=STREAM)
        assert ":j " not in third.text
        assert engine.journals[-1] is None
        pair.free_here.set()
        await first.done


async def test_a_forwarded_stream_whose_replica_is_lost_is_lost_behind_its_last_whole_event() -> (
    None
):
    async def dies_in_mid_event(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n")
        body = b":j 0 0 1\n\ndata: 1\n\n:j 0 0 2\n\nda"
        writer.write(b"transfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(body), body))
        await writer.drain()
        writer.close()

    peer = await asyncio.start_server(dies_in_mid_event, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{peer.sockets[0].getsockname()[1]}"
    async with peer, a_pair(peer_url=url) as pair:
        first = await pair.fill_here()
        second = await call(pair.here, payload=STREAM, headers=marked())
        # Before it is forwarded it may have waited for a heartbeat or two.
        begun = second.text.index(":j ")
        assert set(second.text[:begun].split("\n\n")) <= {": waiting, 0 ahead", ""}
        assert second.text[begun:] == ":j 0 0 1\n\ndata: 1\n\n:j 0 0 2\n\n:lost forwarded\n\n"
        assert count(pair.here, "left_streams_total", reason="replica_lost") == 1
        pair.free_here.set()
        await first.done


async def test_a_stream_that_goes_on_is_not_forwarded() -> None:
    async with a_pair(there=SteppingEngine(HELLO)) as pair:
        first = await pair.fill_here()
        rest = going_on(pair.here, ONE)
        await asyncio.sleep(0.1)
        assert len(pair.there_engine.asked) == 0
        pair.free_here.set()
        await first.done
        await until(lambda: len(pair.here_engine.asked) == 2)
        rest.leave()
        await rest.done


# --- the gate


@virtual
async def test_a_stream_that_goes_on_is_before_all_that_wait_and_is_never_refused() -> None:
    free = asyncio.Event()
    engine = FakeEngine(answers_on(free, DONE))
    edge = an_edge(engine, gate=a_gate(slots=1, max_queued_requests=1))
    running = Call(edge, payload={"prompt": "runs"})
    waiting = Call(edge, payload={"prompt": "waits"})
    await asyncio.sleep(1)
    rest = [going_on(edge, ONE, {"prompt": name, "stream": True}) for name in ("rest 1", "rest 2")]
    await asyncio.sleep(1)
    full = await call(edge, payload={"prompt": "too many"})
    assert full.status == 429
    assert edge.gate.queued_requests == 3
    free.set()
    await asyncio.gather(running.done, waiting.done, *(each.done for each in rest))
    order = [asked["messages"][0]["content"] for asked in engine.asked]
    assert order == ["runs", "rest 1", "rest 2", "waits"]
    assert idle(edge.gate)


@virtual
async def test_a_stream_that_is_handed_over_does_not_wait() -> None:
    free = asyncio.Event()
    edge = an_edge(FakeEngine(answers_on(free, DONE)), gate=a_gate(slots=1))
    running = Call(edge, payload={"prompt": "runs"})
    await asyncio.sleep(1)
    rest = going_on(edge, ONE, only_with_room=True)
    await rest.done
    assert (rest.status, rest.error["code"]) == (503, "no_capacity")
    assert count(edge, "requests_total") == 0
    assert edge.gate.queued_requests == 0
    free.set()
    await running.done
    assert idle(edge.gate)


@virtual
async def test_a_stream_that_is_handed_over_stays_while_another_one_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where it is it goes on meanwhile. One whose replica is lost does not."""
    monkeypatch.setattr(engine_room, "STEP_TOKENS", 1)
    gate = a_reading_gate(slots=4, prompt_token_ms=500.0)
    edge = an_edge(FakeEngine(SteppingEngine(HELLO, pause_s=5.0)), gate=gate)
    read = going_on(edge, Taken(), only_with_room=True)
    await asyncio.sleep(1)
    stays = going_on(edge, Taken(), only_with_room=True)
    await stays.done
    assert (stays.status, stays.error["code"]) == (503, "no_capacity")
    lost = going_on(edge, Taken())
    await read.done
    await lost.done
    assert (read.status, lost.status) == (200, 200)
    taken = going_on(edge, Taken(), only_with_room=True)
    await taken.done
    assert taken.status == 200
    assert idle(gate)


@virtual
async def test_a_stream_that_waits_to_go_on_leaves_the_queue_with_its_client() -> None:
    edge, _ = slow_edge()
    edge.gate.limits.slots = 1
    with edge.gate.enter(1):
        rest = going_on(edge, ONE)
        await asyncio.sleep(1)
        assert edge.gate.queued_requests == 1
        rest.leave()
        await rest.done
        assert edge.gate.queued_requests == 0
    assert idle(edge.gate)


async def test_an_offer_comes_through_a_server_between_whole_events() -> None:
    edge = an_edge(
        FakeEngine(SteppingEngine([["x"]] * 200, pause_s=0.002)),
        settings=QUICK,
        clock_s=time.monotonic,
    )

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await edge({**scope, "root_path": "/api/chat"}, receive, send)

    import aiohttp

    async with served(app) as url, aiohttp.ClientSession() as session:
        headers = {name.decode(): value.decode() for name, value in marked(ID)}
        posting = session.post(f"{url}/api/chat", json=STREAM, headers=headers)
        async with posting as response:
            draining = asyncio.create_task(edge.hand_over.offer())
            taken = Taken.of(await response.read())
            draining.cancel()
        assert taken.offers >= 1
        assert len(sse_data("\n".join(event.decode() for event in taken.events))) == 203
