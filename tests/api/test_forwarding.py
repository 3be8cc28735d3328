"""Two replicas of a tier on loopback: a full one forwards requests to one that has capacity."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.api.edge import TierEdge
from tests.api.asgi import Answering, Call, FakeEngine, answers_on, call, sse_data, streams
from tests.api.loopback import served, unreachable
from tests.builders import a_gate, an_edge, count, forwarded_by_a_replica, some_settings

DONE = {"choices": [], "object": "chat.completion"}
QUICK = some_settings(relay_after_s=0.01, heartbeat_s=0.03)


@dataclass
class Pair:
    """`here` is asked; `there` is the other replica. Each answers once its event is set."""

    here: TierEdge
    here_engine: FakeEngine
    free_here: asyncio.Event
    there: TierEdge
    there_engine: FakeEngine
    free_there: asyncio.Event

    async def fill_here(self) -> Call:
        filling = Call(self.here, payload={"prompt": "fills here"})
        await until(lambda: self.here_engine.running == 1)
        return filling

    async def fill_there(self) -> Call:
        filling = Call(self.there, payload={"prompt": "fills there"})
        await until(lambda: self.there_engine.running == 1)
        return filling


@asynccontextmanager
async def a_pair(
    *, there: Answering | None = None, queued_here: int = 4, peer_url: str | None = None
) -> AsyncIterator[Pair]:
    """Both have one slot; at the end nothing may be left at either gate."""
    free_here, free_there = asyncio.Event(), asyncio.Event()
    here_engine = FakeEngine(answers_on(free_here, DONE))
    there_engine = FakeEngine(there or answers_on(free_there, DONE))
    near_gate = a_gate(max_queued_requests=queued_here, clock_s=time.monotonic)
    far_gate = a_gate(clock_s=time.monotonic)
    far = an_edge(there_engine, gate=far_gate, settings=QUICK, clock_s=time.monotonic)
    async with served(_mounted(far)) as url:
        near = an_edge(
            here_engine,
            gate=near_gate,
            settings=QUICK,
            peer_urls=[peer_url or url],
            clock_s=time.monotonic,
        )
        try:
            yield Pair(near, here_engine, free_here, far, there_engine, free_there)
        finally:
            await near.forwarder.close()
        await until(lambda: not far_gate.running_requests)
        for gate in (near_gate, far_gate):
            assert (gate.running_requests, gate.queued_requests) == (0, 0)


def _mounted(edge: TierEdge) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await edge({**scope, "root_path": "/api/chat"}, receive, send)

    return app


async def until(condition: Callable[[], object], within_s: float = 20.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.002)


async def test_a_request_that_would_wait_runs_on_the_replica_with_room_and_only_there() -> None:
    async with a_pair() as pair:
        first = await pair.fill_here()
        second = Call(pair.here, payload={"prompt": "second"})
        await until(lambda: pair.there_engine.running)
        # This replica's slot comes free while the other one is still at work.
        pair.free_here.set()
        await first.done
        await asyncio.sleep(0.05)
        pair.free_there.set()
        await second.done
        assert (first.status, second.status) == (200, 200)
        assert [len(pair.here_engine.asked), len(pair.there_engine.asked)] == [1, 1]
        assert [message["type"] for message in second.messages].count("http.response.start") == 1


async def test_a_replica_without_capacity_refuses_and_the_position_in_the_queue_is_kept() -> None:
    async with a_pair() as pair:
        filling_there = await pair.fill_there()
        first = await pair.fill_here()
        second = Call(pair.here, payload={"prompt": "second"})
        await asyncio.sleep(0.1)
        pair.free_here.set()
        await asyncio.gather(first.done, second.done)
        pair.free_there.set()
        await filling_there.done
        assert second.status == 200
        assert len(pair.here_engine.asked) == 2
        assert len(pair.there_engine.asked) == 1


async def test_a_request_that_is_refused_here_runs_where_there_is_room() -> None:
    async with a_pair(queued_here=0) as pair:
        first = await pair.fill_here()
        pair.free_there.set()
        second = await call(pair.here, payload={"prompt": "second"})
        pair.free_here.set()
        await first.done
        assert second.status == 200
        assert len(pair.there_engine.asked) == 1
        assert pair.here.gate.histories.of().reservations.outstanding(time.monotonic()) == 0
        assert count(pair.here, "refused_total") == 0


async def test_where_no_replica_has_room_the_refusal_says_when_to_come_back() -> None:
    async with a_pair(queued_here=0) as pair:
        filling_there = await pair.fill_there()
        first = await pair.fill_here()
        second = await call(pair.here, payload={"prompt": "second"})
        assert second.status == 429
        assert int(second.headers["retry-after"]) >= 1
        assert second.error["code"] == "queue_full"
        pair.free_here.set()
        pair.free_there.set()
        await asyncio.gather(first.done, filling_there.done)


async def test_a_forwarded_stream_keeps_its_heartbeats_its_chunks_and_both_names_of_reasoning() -> (
    None
):
    thought = b'data: {"choices":[{"delta":{"reasoning":"hm"}}]}\n\n'
    async with a_pair(there=streams(thought, thought, b"data: [DONE]\n\n")) as pair:
        first = await pair.fill_here()
        with pair.there.gate.enter(1):
            second = Call(pair.here, payload={"prompt": "second", "stream": True})
            await until(lambda: second.messages)
        await second.done
        assert second.text.startswith(": waiting, 0 ahead\n\n")
        assert second.text.count('"reasoning":"hm","reasoning_content":"hm"') == 2
        assert second.text.count('"reasoning_content"') == 2
        assert second.text.endswith("data: [DONE]\n\n")
        pair.free_here.set()
        await first.done


async def test_a_disconnect_while_forwarded_ends_the_work_on_the_other_replica() -> None:
    async with a_pair() as pair:
        first = await pair.fill_here()
        second = Call(pair.here, payload={"prompt": "second"})
        await until(lambda: pair.there_engine.running)
        second.leave()
        await until(lambda: pair.there_engine.aborted)
        await second.done
        assert count(pair.here, "disconnected_total") == 1
        pair.free_here.set()
        await first.done


async def test_a_forwarded_request_counts_once_where_it_came_in() -> None:
    async with a_pair() as pair:
        first = await pair.fill_here()
        pair.free_there.set()
        await call(pair.here, payload={"prompt": "second"})
        pair.free_here.set()
        await first.done
        assert count(pair.here, "requests_total") == 2
        assert count(pair.here, "relayed_total") == 1
        assert count(pair.there, "requests_total") == 0


async def test_asking_a_full_replica_again_and_again_leaves_no_trace_in_its_metrics() -> None:
    async with a_pair() as pair:
        filling_there = await pair.fill_there()
        first = await pair.fill_here()
        second = Call(pair.here, payload={"prompt": "second"})
        await asyncio.sleep(0.1)
        pair.free_here.set()
        await asyncio.gather(first.done, second.done)
        pair.free_there.set()
        await filling_there.done
        assert count(pair.there, "requests_total") == 1
        assert count(pair.there, "e2e_seconds_count") == 1


async def test_a_replica_that_cannot_be_reached_costs_nothing_but_the_wait() -> None:
    async with unreachable() as url, a_pair(peer_url=url) as pair:
        first = await pair.fill_here()
        second = Call(pair.here, payload={"prompt": "second"})
        await asyncio.sleep(0.05)
        pair.free_here.set()
        await asyncio.gather(first.done, second.done)
        assert second.status == 200
        assert len(pair.here_engine.asked) == 2


async def test_a_replica_that_is_lost_while_it_answers_ends_in_an_error_not_in_silence() -> None:
    async def dies_in_mid_answer(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n")
        writer.write(b"transfer-encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n")
        await writer.drain()
        writer.close()

    peer = await asyncio.start_server(dies_in_mid_answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{peer.sockets[0].getsockname()[1]}"
    async with peer, a_pair(peer_url=url) as pair:
        first = await pair.fill_here()
        second = await call(pair.here, payload={"prompt": "second", "stream": True})
        error, end = sse_data(second.text)[-2:]
        assert json.loads(error)["error"]["code"] == "replica_lost"
        assert end == "[DONE]"
        pair.free_here.set()
        await first.done
        assert len(pair.here_engine.asked) == 1


async def test_a_forwarded_request_is_not_forwarded_again() -> None:
    async with a_pair() as pair:
        first = await pair.fill_here()
        forwarded = await call(
            pair.here,
            payload={"prompt": "from a third replica"},
            headers=forwarded_by_a_replica(),
        )
        assert forwarded.status == 429
        assert pair.there_engine.asked == []
        pair.free_here.set()
        await first.done
