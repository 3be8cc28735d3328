"""A client that loses its connection to a stream of a tier's own route gets it back, from whichever
replica it asks."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from starlette.types import Send

from serve_app.api.access import AccessDesk
from serve_app.api.edge import TierEdge
from serve_app.api.kept_stream import TAKEN_OVER, KeptStream, StreamFacts
from serve_app.api.replay_memory import Kept, ReplayMemory
from serve_app.config.replay import ResumableConfig
from serve_app.core.access.caller import NOBODY
from tests.api.asgi import FakeEngine
from tests.api.asgi import streams as sends
from tests.api.fake_keys import ADMIN, TEAM, FakeKeys, FakeQuotas
from tests.api.kept_stream_scene import RESUMABLE, Reader
from tests.api.loopback import served
from tests.api.scripted_tier import SSE_HEAD, Reply, ScriptedTier, framed, serving
from tests.api.test_forwarding import until
from tests.api.two_tiers import mounted
from tests.builders import a_gate, an_edge, count, some_settings

EVENTS = [b'data: {"n":%d}\n\n' % number for number in range(8)] + [b"data: [DONE]\n\n"]
NUMBERED = [b"id: %d\n%s" % (number, event) for number, event in enumerate(EVENTS, 1)]
FIRST = 3
CHAT = "/api/chat/v1/chat/completions"
STREAM = {"messages": [{"role": "user", "content": "hi"}], "stream": True}
WHOLE = {**STREAM, "stream": False}


@dataclass
class Engine:
    """Answers with the first events, and with the rest once it is let."""

    free: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, payload: dict[str, Any], send: Send) -> None:
        kind = b"text/event-stream" if payload.get("stream") else b"application/json"
        headers = [(b"content-type", kind)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if not payload.get("stream"):
            await self.free.wait()
            await send({"type": "http.response.body", "body": b'{"choices":[]}'})
            return
        for event in EVENTS[:FIRST]:
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await self.free.wait()
        for event in EVENTS[FIRST:]:
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


@dataclass
class Replica:
    name: str
    edge: TierEdge
    engine: FakeEngine
    free: asyncio.Event
    client: httpx.AsyncClient
    stop: AsyncExitStack
    # Of the replicas that are there, by their names.
    urls: dict[str, str]

    @asynccontextmanager
    async def begun(self, payload: Any = STREAM, **headers: str) -> AsyncIterator[Reader]:
        async with self.client.stream(
            "POST", CHAT, json=payload, headers={**RESUMABLE, **headers}
        ) as answer:
            yield Reader(answer)

    async def left(self, **headers: str) -> Reader:
        """A stream whose client has left after the first events."""
        async with self.begun(**headers) as reader:
            await reader.until(FIRST)
        await until(lambda: self.edge.streams.kept.away)
        return reader

    @asynccontextmanager
    async def resumed(self, stream_id: str, after: int, **headers: str) -> AsyncIterator[Reader]:
        path, last = f"/api/chat/streams/{stream_id}", {"last-event-id": str(after)}
        async with self.client.stream("GET", path, headers={**last, **headers}) as answer:
            yield Reader(answer)

    async def get(self, stream_id: str, **headers: str) -> httpx.Response:
        return await self.client.get(f"/api/chat/v1/streams/{stream_id}", headers=headers)

    def results(self, result: str) -> float:
        return count(self.edge, "kept_streams_total", result=result)


@asynccontextmanager
async def two_replicas(
    *, with_keys: bool = False, stall_s: float = 30.0, slots: int = 4, **resumable: Any
) -> AsyncIterator[tuple[Replica, Replica]]:
    """Either knows the other one. At the end nothing may be left at a gate or in memory."""
    urls: dict[str, str] = {}

    async def url_of(name: str) -> str | None:
        return urls.get(name)

    made: list[Replica] = []
    async with AsyncExitStack() as stack:
        for name in ("near", "far"):
            answering = Engine()
            engine = FakeEngine(answering)
            gate = a_gate(slots=slots, clock_s=time.monotonic)
            access = AccessDesk(FakeKeys(), FakeQuotas()) if with_keys else AccessDesk()
            edge = an_edge(
                engine,
                gate=gate,
                settings=some_settings(relay_after_s=0.01, client_stall_s=stall_s),
                peer_urls=[*urls.values()],
                clock_s=time.monotonic,
                replica=name,
                url_of=url_of,
                access=access,
                resumable=ResumableConfig(**resumable),
            )
            stop = await stack.enter_async_context(AsyncExitStack())
            url = await stop.enter_async_context(served(mounted(edge, "/api/chat")))
            client = httpx.AsyncClient(base_url=url, timeout=20)
            urls[name] = url
            made.append(Replica(name, edge, engine, answering.free, client, stop, urls))
            stack.push_async_callback(client.aclose)
            stack.push_async_callback(edge.forwarder.close)
        # The one that began first knows no address to forward to.
        near, far = made
        yield near, far
        for replica in made:
            replica.free.set()
            await until(lambda replica=replica: not replica.edge.gate.running_requests)
            await replica.edge.streams.kept.close()
            assert replica.edge.streams.kept.memory.kept_bytes == 0


@pytest.mark.parametrize("asked", [0, 1], ids=["of the replica that has it", "of another one"])
async def test_a_client_gets_the_rest_of_its_stream_from_any_replica(asked: int) -> None:
    async with two_replicas() as replicas:
        near = replicas[0]
        first = await near.left()
        assert first.stream_id.startswith("near-")
        async with replicas[asked].resumed(first.stream_id, FIRST - 1) as again:
            assert again.stream_id == first.stream_id
            await again.until(1)
            near.free.set()
            await again.rest()
        assert first.events == NUMBERED[:FIRST]
        assert again.events == NUMBERED[FIRST - 1 :]
        assert len(near.engine.asked) == 1
        assert (near.results("resumed"), replicas[1].results("resumed")) == (1, 0)
        assert count(near.edge, "disconnected_total") == 0
        assert count(near.edge, "requests_total", status="200") == 1


async def test_after_its_end_a_stream_is_sent_again_and_then_it_is_gone() -> None:
    async with two_replicas(kept_s=0.5) as (near, far):
        near.free.set()
        async with near.begun() as first:
            await first.rest()
        assert first.events == NUMBERED
        again = await far.get(first.stream_id)
        assert again.content == b"".join(NUMBERED)
        await until(lambda: near.results("expired"))
        gone = await far.get(first.stream_id)
        assert (gone.status_code, gone.json()["error"]["code"]) == (410, "stream_gone")


async def test_what_no_client_comes_back_to_is_cancelled_and_its_slot_is_free() -> None:
    async with two_replicas(client_gone_s=0.2) as (near, _):
        await near.left()
        await until(lambda: near.engine.aborted == 1)
        await until(lambda: not near.edge.gate.running_requests)
        assert near.results("client_gone") == 1
        assert count(near.edge, "disconnected_total") == 1


async def test_without_the_header_a_stream_ends_with_its_client() -> None:
    async with two_replicas() as (near, _):
        async with near.begun(**{"x-tierserve-resumable": "0"}) as reader:
            await reader.until(0)
            assert "x-tierserve-stream-id" not in reader.answer.headers
        await until(lambda: near.engine.aborted == 1)


async def test_a_whole_answer_is_as_it_is_without_and_ends_with_its_client() -> None:
    async with two_replicas() as (near, _):
        near.free.set()
        answer = await near.client.post(CHAT, json=WHOLE, headers=RESUMABLE)
        assert answer.json() == {"choices": []}
        assert "x-tierserve-stream-id" not in answer.headers
        near.free.clear()
        asking = asyncio.ensure_future(near.client.post(CHAT, json=WHOLE, headers=RESUMABLE))
        await until(lambda: near.engine.running == 1)
        asking.cancel()
        await until(lambda: near.engine.aborted == 1)
        assert near.edge.streams.kept.memory.kept_bytes == 0


async def test_a_refusal_is_what_it_is_without() -> None:
    async with two_replicas() as (near, _):
        answer = await near.client.post(CHAT, json={"stream": True, "n": 0}, headers=RESUMABLE)
        assert answer.status_code == 400
        assert answer.json()["error"]["message"]
        too_large = await near.client.post(CHAT, content=b"x" * 5000, headers=RESUMABLE)
        assert too_large.status_code == 413


async def test_a_request_that_is_sent_again_to_resume_is_refused() -> None:
    async with two_replicas() as (near, _):
        answer = await near.client.post(CHAT, json=STREAM, headers={"last-event-id": "3"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "resumed_by_get")
        assert "GET /api/chat/v1/streams/<id>" in answer.json()["error"]["message"]


async def test_a_replica_that_is_gone_is_said_to_be_with_what_to_do() -> None:
    async with two_replicas() as (near, far):
        first = await near.left()
        await near.stop.aclose()
        for stream_id in (first.stream_id, f"nobody-{'0' * 32}"):
            answer = await far.get(stream_id)
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (404, "stream_not_found")
            assert "replica" in error["message"]
            assert "Send the request again" in error["message"]


@pytest.mark.parametrize("torn", [b"", b'id: 2\ndata: {"n"'], ids=["whole", "torn"])
async def test_a_replica_that_is_lost_while_it_is_read_ends_the_stream_with_an_error(
    torn: bytes,
) -> None:
    head = SSE_HEAD + b"x-tierserve-stream-id: lost-" + b"0" * 32 + b"\r\n\r\n"
    lost = ScriptedTier([lambda asked: Reply(head + framed(NUMBERED[0] + torn), cut=True)])
    async with two_replicas() as (_, far), serving(lost) as url:
        far.urls["lost"] = url
        async with far.resumed("lost-" + "0" * 32, 0) as again:
            await again.rest()
        assert again.events[0] == NUMBERED[0]
        assert b'"code": "replica_lost"' in again.events[1]
        assert again.events[1].startswith(b"data: {")
        assert again.text.endswith(b"data: [DONE]\n\n")
        assert lost.asked[0].headers[b"last-event-id"] == b"0"


async def test_errors_are_in_anthropics_form_for_its_clients() -> None:
    async with two_replicas() as (_, far):
        anthropic = {"anthropic-version": "2023-06-01"}
        for stream_id in ("x", f"near-{'0' * 32}", f"nobody-{'0' * 32}"):
            answer = await far.get(stream_id, **anthropic)
            assert (answer.status_code, answer.json()["type"]) == (404, "error")


async def test_the_number_of_no_event_is_refused_by_name() -> None:
    async with two_replicas() as (near, far):
        first = await near.left()
        for replica, wrong in ((near, "99"), (far, "99"), (far, "x"), (far, "-1")):
            answer = await replica.get(first.stream_id, **{"last-event-id": wrong})
            assert answer.status_code == 400
            assert answer.json()["error"]["param"] == "Last-Event-ID"


async def test_only_the_key_that_asked_gets_it_back_from_any_replica() -> None:
    team = {"authorization": f"Bearer {TEAM.decode()}"}
    other = {"authorization": f"Bearer {ADMIN.decode()}"}
    async with two_replicas(with_keys=True) as (near, far):
        first = await near.left(**team)
        near.free.set()
        for replica in (near, far):
            assert (await replica.get(first.stream_id)).status_code == 401
            refusal = await replica.get(first.stream_id, **other)
            assert (refusal.status_code, refusal.json()["error"]["code"]) == (
                404,
                "stream_not_found",
            )
            again = await replica.get(first.stream_id, **team)
            assert again.content == b"".join(NUMBERED)


async def test_a_flow_that_a_client_writes_makes_nobody_the_owner() -> None:
    team = {"authorization": f"Bearer {TEAM.decode()}"}
    other = {"authorization": f"Bearer {ADMIN.decode()}"}
    async with two_replicas(with_keys=True) as (near, far):
        first = await near.left(**team)
        written = {"x-tierserve-flow": '["team",1.0,"interactive"]', "x-tierserve-relayed": "x"}
        for replica in (near, far):
            assert (await replica.get(first.stream_id, **other, **written)).status_code == 404


async def test_a_second_reader_ends_the_response_of_the_first_one_across_replicas() -> None:
    async with two_replicas() as (near, far), near.begun() as first:
        await first.until(FIRST)
        async with far.resumed(first.stream_id, FIRST) as second:
            await first.rest()
            assert first.text.endswith(TAKEN_OVER)
            near.free.set()
            await second.rest()
        assert second.events == NUMBERED[FIRST:]


async def test_a_client_of_another_replica_that_leaves_is_away_at_the_one_that_has_it() -> None:
    async with two_replicas() as (near, far):
        first = await near.left()
        async with far.resumed(first.stream_id, 0) as again:
            await again.until(FIRST)
            assert near.edge.streams.kept.away == 0
        await until(lambda: near.edge.streams.kept.away == 1)
        near.free.set()
        assert (await near.get(first.stream_id)).content == b"".join(NUMBERED)


async def test_a_stream_that_another_replica_runs_is_kept_where_its_client_asked() -> None:
    """And its events are numbered once. `far` is full, so that `near` runs it for it."""
    async with two_replicas(slots=1) as (near, far):
        async with far.begun() as filling:
            await filling.until(FIRST)
            first = await far.left()
            assert first.stream_id.startswith("far-")
            assert (near.engine.running, near.edge.streams.kept.memory.kept_bytes) == (1, 0)
            near.free.set()
            async with near.resumed(first.stream_id, FIRST) as again:
                await again.rest()
        assert first.events + again.events == NUMBERED


async def test_a_client_that_reads_nothing_is_one_that_has_left() -> None:
    async with two_replicas(stall_s=0.5) as (near, _):
        large = [b"data: " + b"x" * 8000 + b"\n\n"] * 2000
        near.engine.answering = sends(*large)
        async with near.begun() as first:
            await first.until(1)
            stream = near.edge.streams.kept.find(first.stream_id, NOBODY)
            await until(lambda: stream.ended and stream.reader is None, within_s=60)
        async with near.resumed(first.stream_id, len(large) - 5) as again:
            await again.rest()
        assert len(again.events) == 5


async def test_a_caller_that_has_too_many_away_keeps_no_more_slots() -> None:
    async with two_replicas(max_away=1) as (near, _):
        await near.left()
        async with near.begun() as second:
            await second.until(FIRST)
        await until(lambda: near.results("too_many_away") == 1)
        await until(lambda: near.engine.aborted == 1)


async def test_events_are_whole_however_they_come() -> None:
    """A stream that another replica runs comes in any pieces."""
    sent: list[bytes] = []

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))

    facts = StreamFacts("id", "", "r", "chat")
    kept = Kept(ReplayMemory(1 << 20))
    stream = KeptStream(facts, send, kept, lambda *_: True, lambda _: None, lambda _: None)
    headers = [(b"content-type", b"text/event-stream")]
    await stream.write({"type": "http.response.start", "status": 200, "headers": headers})
    text = b"".join(EVENTS)
    for at in range(0, len(text), 7):
        part = text[at : at + 7]
        await stream.write({"type": "http.response.body", "body": part, "more_body": True})
    await stream.write({"type": "http.response.body", "body": b"data: cut", "more_body": False})
    stream.end(None)
    await stream.read_first(send)
    assert b"".join(sent) == b"".join(NUMBERED) + b"id: 10\ndata: cut\n\n"
