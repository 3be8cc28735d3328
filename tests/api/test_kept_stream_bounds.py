"""For how long a resumable stream of `/v1` is kept for its client, and within which memory."""

import asyncio
import logging

import pytest
from starlette.types import Message, Send

from serve_app.api.kept_stream import KeptStream
from serve_app.core.access.caller import NOBODY
from tests.api.kept_stream_scene import (
    LARGE,
    LONG,
    NUMBERED,
    RESUMABLE,
    Gate,
    begun,
    get,
    kept_bytes,
    left,
    paced,
    resumed,
)
from tests.api.relay_scene import (
    CHAT,
    STREAM,
    Scene,
    a_scene,
)
from tests.api.scripted_tier import (
    Connection,
    Reply,
)
from tests.api.test_forwarding import until
from tests.virtual_time import now_s

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
