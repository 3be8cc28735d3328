"""A client that loses its connection to a stream of `/v1` gets it back, each event once."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Message, Send

from serve_app.api.access import AccessDesk
from serve_app.api.kept_stream import TAKEN_OVER, KeptStream
from serve_app.core.access.caller import NOBODY
from tests.api.fake_keys import ADMIN, TEAM, FakeKeys
from tests.api.relay_scene import (
    CHAT,
    STREAM,
    WHOLE,
    WHOLE_BODY,
    Scene,
    a_scene,
    says,
)
from tests.api.scripted_tier import (
    END,
    JOURNALED,
    Answer,
    Asked,
    Connection,
    Generation,
    Reply,
    framed,
    refused,
)
from tests.api.test_forwarding import until
from tests.virtual_time import now_s

EVENTS = [b'data: {"created":7,"n":%d}\n\n' % number for number in range(12)]
DONE = b"data: [DONE]\n\n"
LONG = Generation([*([event] for event in EVENTS), [DONE]])
# More than the sockets between gateway and client take.
LARGE = Generation([*([b"data: " + b"x" * 8000 + b"\n\n"] for _ in range(2000)), [DONE]])
RESUMABLE = {"x-tierserve-resumable": "1"}
NUMBERED = [b"id: %d\n%s" % (number, event) for number, event in enumerate(LONG.events, 1)]
_EVENT = re.compile(rb"id: (\d+)\n")


def paced(
    every_s: float = 0.001, lost_after: int | None = None, generation: Generation = LONG
) -> Answer:
    """A replica that sends a chunk at a time; lost after so many of them."""

    def answered(asked: Asked) -> Reply:
        chunks = generation.chunks(asked.past, asked.dropped)

        async def send(connection: Connection) -> None:
            for chunk in chunks[:lost_after]:
                await asyncio.sleep(every_s)
                await connection.writable.wait()
                connection.transport.write(framed(chunk))
            if lost_after is None:
                connection.transport.write(END)
            else:
                connection.transport.close()

        return Reply(JOURNALED, then=send)

    return answered


class Gate:
    """A replica that sends the rest once it is open."""

    def __init__(self, first: int, generation: Generation = LONG) -> None:
        self.open, self.first, self.generation = asyncio.Event(), first, generation

    def __call__(self, asked: Asked) -> Reply:
        chunks = self.generation.chunks(asked.past, asked.dropped)

        async def send(connection: Connection) -> None:
            await self.open.wait()
            for chunk in chunks[self.first :]:
                await connection.writable.wait()
                connection.transport.write(framed(chunk))
            connection.transport.write(END)

        return Reply(JOURNALED + b"".join(map(framed, chunks[: self.first])), then=send)


class Reader:
    """One connection to a stream. `text` is what has come of it."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self._read: list[bytes] = []
        self._parts = answer.aiter_raw()

    @property
    def text(self) -> bytes:
        return b"".join(self._read)

    @property
    def stream_id(self) -> str:
        return self.answer.headers["x-tierserve-stream-id"]

    @property
    def events(self) -> list[bytes]:
        """Those that have come as a whole."""
        return [each + b"\n\n" for each in self.text.split(b"\n\n")[:-1] if each[:1] != b":"]

    async def until(self, events: int) -> None:
        """Read until at least so many are there, or the end."""
        async for part in self._parts:
            self._read.append(part)
            if len(self.events) >= events:
                return

    async def until_text(self, text: bytes, times: int) -> None:
        """Read until it has come so often."""
        async for part in self._parts:
            self._read.append(part)
            if self.text.count(text) >= times:
                return
        raise AssertionError(self.text)

    async def rest(self) -> None:
        async for part in self._parts:
            self._read.append(part)


@asynccontextmanager
async def begun(scene: Scene, path: str = CHAT, **headers: str) -> AsyncIterator[Reader]:
    async with scene.client.stream(
        "POST", path, json=STREAM, headers={**RESUMABLE, **headers}
    ) as answer:
        assert answer.status_code == 200
        yield Reader(answer)


@asynccontextmanager
async def resumed(
    scene: Scene, stream_id: str, after: int | None = None, **headers: str
) -> AsyncIterator[Reader]:
    given_after = {} if after is None else {"last-event-id": str(after)}
    async with scene.client.stream(
        "GET", f"/v1/streams/{stream_id}", headers={**given_after, **headers}
    ) as answer:
        yield Reader(answer)


async def get(scene: Scene, stream_id: str, **headers: str) -> httpx.Response:
    return await scene.client.get(f"/v1/streams/{stream_id}", headers=headers)


def left(scene: Scene, result: str) -> float:
    return scene.value("tierserve_kept_streams_total", {"result": result})


def kept_bytes(scene: Scene) -> int:
    return scene.gateway.kept_streams.memory.kept_bytes


# --- each event once and in order


@settings(max_examples=40, deadline=None)
@given(
    cuts=st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.booleans()), max_size=4),
    lost_after=st.one_of(st.none(), st.integers(0, len(LONG.events) - 1)),
    every_s=st.sampled_from([0.0, 0.002]),
)
def test_whenever_clients_come_and_go_each_event_comes_once_and_in_order(
    cuts: list[tuple[int, bool, bool]], lost_after: int | None, every_s: float
) -> None:
    """Each reader takes so many events, and its connection ends before the next one comes, or while
    that one reads; it asks by header or by query. Meanwhile the replica is lost, or not."""

    async def scenario() -> None:
        replica = paced(every_s, lost_after)
        async with a_scene(replica, paced(every_s)) as scene, begun(scene) as first:
            events: list[bytes] = []
            reader, stream_id = first, first.stream_id
            for takes, by_query, stays in cuts:
                await reader.until(takes)
                events += reader.events
                query = f"?after={len(events)}" if by_query else ""
                header = {} if by_query else {"last-event-id": str(len(events))}
                if not stays:
                    await reader.answer.aclose()
                request = scene.client.build_request(
                    "GET", f"/v1/streams/{stream_id}{query}", headers=header
                )
                answer = await scene.client.send(request, stream=True)
                assert answer.status_code == 200
                reader = Reader(answer)
            await reader.rest()
            await reader.answer.aclose()
            assert events + reader.events == NUMBERED

    asyncio.run(scenario())


async def test_without_a_number_a_stream_is_sent_from_its_first_event_after_its_end_too() -> None:
    async with a_scene(paced()) as scene:
        async with begun(scene) as first:
            await first.rest()
        assert first.events == NUMBERED
        for _ in range(2):
            async with resumed(scene, first.stream_id) as again:
                await again.rest()
            assert (again.events, again.stream_id) == (NUMBERED, first.stream_id)
        async with resumed(scene, first.stream_id, len(NUMBERED)) as after_the_end:
            await after_the_end.rest()
        assert after_the_end.text == b""
        assert len(scene.tier.asked) == 1


async def test_a_second_reader_ends_the_response_of_the_first_one() -> None:
    gate = Gate(3)
    async with a_scene(gate) as scene, begun(scene) as first:
        await first.until(3)
        async with resumed(scene, first.stream_id, 2) as second:
            await first.rest()
            assert first.text.endswith(TAKEN_OVER)
            await second.until(1)
            gate.open.set()
            await second.rest()
        assert second.events == NUMBERED[2:]
        assert first.events == NUMBERED[:3]


async def test_what_an_earlier_reader_takes_late_is_nothing_to_the_one_that_reads_now() -> None:
    gate = Gate(2000, LARGE)
    async with a_scene(gate, max_kept_mib=32) as scene, begun(scene) as first:
        await first.until(1)
        await until(lambda: kept_bytes(scene) > 16_000_000, within_s=60)
        async with resumed(scene, first.stream_id, 1995) as second:
            await second.until(5)
            await first.rest()
            assert first.text.endswith(TAKEN_OVER)
            gate.open.set()
            await second.rest()
        numbers = [int(each) for each in _EVENT.findall(second.text)]
        assert numbers == list(range(1996, 2002))


async def test_a_replica_that_is_lost_while_the_client_is_away_cuts_nothing() -> None:
    async with a_scene(paced(0.02, lost_after=5), paced()) as scene:
        async with begun(scene) as first:
            await first.until(2)
        await until(lambda: scene.count("continued") == 1)
        async with resumed(scene, first.stream_id, len(first.events)) as second:
            await second.rest()
        assert first.events + second.events == NUMBERED


async def test_heartbeats_have_no_number() -> None:
    beats_came = asyncio.Event()

    def late(asked: Asked) -> Reply:
        async def send(connection: Connection) -> None:
            await beats_came.wait()
            connection.transport.write(LONG.stream())

        return Reply(b"", then=send)

    async with a_scene(late, heartbeat_s=0.02) as scene:
        async with begun(scene) as reader:
            await reader.until_text(b": waiting", 2)
            beats_came.set()
            await reader.rest()
        assert reader.events == NUMBERED


# --- who asks for it, and who does not


async def test_a_stream_that_is_not_to_be_kept_has_no_id_and_ends_with_its_client() -> None:
    gate = Gate(3)
    async with a_scene(gate) as scene:
        async with scene.client.stream("POST", CHAT, json=STREAM) as answer:
            assert "x-tierserve-stream-id" not in answer.headers
            reader = Reader(answer)
            await reader.until(3)
            assert not _EVENT.search(reader.text)
        await until(lambda: scene.tier.ended == 1)
        assert kept_bytes(scene) == 0


@pytest.mark.parametrize("body", [{"model": "chat"}, {"model": "chat", "stream": False}])
async def test_a_whole_answer_is_not_kept(body: dict[str, object]) -> None:
    async with a_scene(says(WHOLE)) as scene:
        answer = await scene.post(payload=body, **RESUMABLE)
        assert answer.content == WHOLE_BODY
        assert "x-tierserve-stream-id" not in answer.headers


async def test_a_refusal_of_the_tier_is_what_it_is_without() -> None:
    async with a_scene(says(refused(400, "too_long"))) as scene:
        answer = await scene.post(**RESUMABLE)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "too_long")
        assert "x-tierserve-stream-id" not in answer.headers
        assert left(scene, "expired") == 0


async def test_the_id_is_the_servers_and_the_tier_is_not_asked_for_it() -> None:
    async with a_scene(paced()) as scene:
        async with begun(scene, **{"x-request-id": "mine"}) as reader:
            await reader.rest()
        assert re.fullmatch("[0-9a-f]{32}", reader.stream_id)
        assert (await get(scene, "mine")).status_code == 404
        assert b"x-tierserve-resumable" not in scene.tier.asked[0].headers


async def test_a_request_that_is_sent_again_to_resume_is_refused() -> None:
    async with a_scene(paced()) as scene:
        answer = await scene.post(**{"last-event-id": "3"})
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert (error["code"], error["param"]) == ("resumed_by_get", "Last-Event-ID")
        assert "GET /v1/streams/" in error["message"]
        assert scene.tier.asked == []


@pytest.mark.parametrize("wrong", ["-1", "x", "1.5", "99", "9" * 40])
@pytest.mark.parametrize("by_query", [False, True])
async def test_the_number_of_no_event_is_refused_by_name(wrong: str, by_query: bool) -> None:
    async with a_scene(paced()) as scene:
        async with begun(scene) as reader:
            await reader.rest()
        path = f"/v1/streams/{reader.stream_id}"
        headers = {} if by_query else {"last-event-id": wrong}
        answer = await scene.client.get(
            path, headers=headers, params={"after": wrong} if by_query else {}
        )
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] in ("Last-Event-ID", "after")


async def test_a_look_at_the_head_takes_the_stream_from_nobody() -> None:
    gate = Gate(3)
    async with a_scene(gate) as scene, begun(scene) as first:
        await first.until(3)
        head = await scene.client.head(f"/v1/streams/{first.stream_id}")
        assert (head.status_code, head.content) == (200, b"")
        gate.open.set()
        await first.rest()
        assert first.events == NUMBERED


async def test_with_keys_only_the_key_that_asked_gets_it_back() -> None:
    access = AccessDesk(FakeKeys())
    team = {"authorization": f"Bearer {TEAM.decode()}"}
    other = {"x-api-key": ADMIN.decode()}
    async with a_scene(paced(), access=access) as scene:
        async with begun(scene, **team) as first:
            await first.rest()
        path = f"/v1/streams/{first.stream_id}"
        assert (await scene.client.get(path)).status_code == 401
        refusal = await scene.client.get(path, headers=other)
        assert (refusal.status_code, refusal.json()["error"]["code"]) == (404, "stream_not_found")
        anthropic = await scene.client.get(path, headers={**other, "anthropic-version": "1"})
        assert anthropic.json()["type"] == "error"
        assert anthropic.json()["error"]["type"] == "not_found_error"
        async with resumed(scene, first.stream_id, 4, **team) as again:
            await again.rest()
        assert again.events == NUMBERED[4:]


# --- for how long


async def test_what_no_client_comes_back_to_is_cancelled() -> None:
    gate = Gate(3)
    async with a_scene(gate, client_gone_s=0.3) as scene:
        async with begun(scene) as first:
            await first.until(3)
            read_until_s = now_s()
        await until(lambda: scene.tier.ended == 1)
        assert now_s() - read_until_s >= 0.3
        answer = await get(scene, first.stream_id)
        assert (answer.status_code, answer.json()["error"]["code"]) == (410, "stream_gone")
        assert "0.3 s" in answer.json()["error"]["message"]
        assert (left(scene, "client_gone"), kept_bytes(scene)) == (1, 0)


async def test_a_client_that_comes_back_keeps_it_going() -> None:
    gate = Gate(3)
    # Long enough for a busy machine to come back in.
    async with a_scene(gate, client_gone_s=3.0) as scene:
        async with begun(scene) as first:
            await first.until(3)
        async with resumed(scene, first.stream_id, 3) as second:
            await asyncio.sleep(3.2)
            gate.open.set()
            await second.rest()
        assert first.events + second.events == NUMBERED
        assert left(scene, "client_gone") == 0


async def test_a_client_that_leaves_before_it_has_an_id_ends_the_work() -> None:
    async def wait(connection: Connection) -> None:
        await asyncio.sleep(5)

    async with a_scene(lambda asked: Reply(b"", then=wait)) as scene:
        request = asyncio.ensure_future(scene.post(**RESUMABLE))
        await until(lambda: scene.tier.asked)
        request.cancel()
        await until(lambda: scene.tier.ended == 1)


async def test_a_client_that_leaves_as_its_stream_begins_ends_the_work() -> None:
    """Before it was sent anything, so that it has no id to come back with."""
    async with a_scene(paced()) as scene:
        streams = scene.gateway.kept_streams
        ended = asyncio.Event()

        async def relay(send: Send, _: KeptStream | None) -> None:
            headers = [(b"content-type", b"text/event-stream")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            request.cancel()
            try:
                await asyncio.sleep(60)
            finally:
                ended.set()

        async def unused(message: Message) -> None:
            raise AssertionError(message)

        request = asyncio.ensure_future(
            streams.run(relay, unused, caller=NOBODY, request_id="r", tier="chat")
        )
        with pytest.raises(asyncio.CancelledError):
            await request
        assert ended.is_set()


async def test_some_time_after_its_end_a_stream_is_gone() -> None:
    gate = Gate(3)
    async with a_scene(gate, kept_s=0.2) as scene:
        async with begun(scene) as first:
            await first.until(3)
            assert kept_bytes(scene) > 0
            ran_until_s = now_s()
            gate.open.set()
            await first.rest()
        await until(lambda: kept_bytes(scene) == 0)
        assert now_s() - ran_until_s >= 0.2
        answer = await get(scene, first.stream_id)
        assert (answer.status_code, answer.json()["error"]["code"]) == (410, "stream_gone")
        assert left(scene, "expired") == 1


async def test_the_time_after_the_end_goes_by_when_clients_come_back_too() -> None:
    async with a_scene(paced(), kept_s=2.0) as scene:
        stream_id = await a_whole_stream(scene)
        assert (await get(scene, stream_id)).status_code == 200
        await until(lambda: left(scene, "expired") == 1)


async def test_a_client_that_reads_nothing_is_one_that_has_left() -> None:
    async with a_scene(paced(0, generation=LARGE), client_stall_s=2.0, max_kept_mib=32) as scene:
        async with begun(scene) as first:
            await first.until(1)
            stream = scene.gateway.kept_streams.find(first.stream_id, NOBODY)
            assert stream.reader is not None
            # The work goes on to its end meanwhile: only the sockets are full.
            await until(lambda: stream.ended and stream.reader is None, within_s=60)
        async with resumed(scene, first.stream_id, 1990) as second:
            await second.rest()
        assert len(second.events) == 11


# --- within which bounds


async def a_whole_stream(scene: Scene) -> str:
    async with begun(scene) as reader:
        await reader.rest()
    return reader.stream_id


async def test_the_streams_that_ended_first_make_room_for_others() -> None:
    async with a_scene(paced()) as scene:
        ids = [await a_whole_stream(scene)]
        size = kept_bytes(scene)
        scene.gateway.kept_streams.memory.limit_bytes = 2 * size + size // 2
        ids += [await a_whole_stream(scene) for _ in range(2)]
        assert [(await get(scene, each)).status_code for each in ids] == [410, 200, 200]
        assert (left(scene, "forgotten"), left(scene, "outgrown")) == (1, 0)
        assert kept_bytes(scene) == 2 * size


async def test_a_stream_that_outgrows_the_memory_runs_on_and_is_not_resumable(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate = Gate(6)
    with caplog.at_level(logging.WARNING):
        async with a_scene(gate) as scene:
            scene.gateway.kept_streams.memory.limit_bytes = 8 * (len(NUMBERED[0]) + 48)
            async with begun(scene) as first:
                await first.until(6)
                gate.open.set()
                await first.rest()
            assert first.events == NUMBERED
            answer = await get(scene, first.stream_id)
            assert answer.status_code == 410
            assert "memory" in answer.json()["error"]["message"]
            assert (left(scene, "outgrown"), kept_bytes(scene)) == (1, 0)
    assert "no memory for the events of a resumable stream" in caplog.text


async def test_one_that_outgrew_it_ends_with_its_client() -> None:
    gate = Gate(6)
    async with a_scene(gate) as scene:
        scene.gateway.kept_streams.memory.limit_bytes = 3 * len(NUMBERED[0])
        async with begun(scene) as first:
            await first.until(6)
        await until(lambda: scene.tier.ended == 1)


async def test_one_that_outgrew_it_waits_for_its_client() -> None:
    """Its replica, and so what it makes, is not read faster than the client reads."""
    async with a_scene(paced(0, generation=LARGE), max_kept_mib=1) as scene:
        async with begun(scene) as first:
            await first.until(1)
            await until(lambda: left(scene, "outgrown") == 1, within_s=60)
            await until(lambda: not scene.tier.connections[0].writable.is_set(), within_s=60)
            await first.rest()
        assert len(first.events) == 2001


async def test_beyond_so_many_streams_one_more_is_not_resumable() -> None:
    gate = Gate(3)
    async with a_scene(gate) as scene:
        scene.gateway.kept_streams.most_streams = 1
        async with begun(scene) as first:
            await first.until(3)
            async with scene.client.stream("POST", CHAT, json=STREAM, headers=RESUMABLE) as second:
                assert "x-tierserve-stream-id" not in second.headers
            gate.open.set()
            await first.rest()
        assert left(scene, "not_kept") == 1
        # Ended, the first one makes room.
        async with begun(scene) as third:
            await third.rest()
        assert (await get(scene, first.stream_id)).status_code == 410


async def test_with_no_memory_for_it_no_stream_is_resumable() -> None:
    async with a_scene(paced(), max_kept_mib=0) as scene:
        answer = await scene.post(**RESUMABLE)
        assert answer.content == LONG.text
        assert "x-tierserve-stream-id" not in answer.headers
