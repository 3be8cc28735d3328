"""Resumable streams of several callers: what one takes harms no other."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter
from starlette.types import Message, Send

from serve_app.api.access import AccessDesk
from serve_app.api.kept_stream import FORGOTTEN, KeptStream
from serve_app.api.kept_streams import KeptStreams
from serve_app.config.replay import ResumableConfig
from serve_app.core.access.caller import NOBODY, Caller
from serve_app.core.admission.fairness import Flow
from tests.api.fake_keys import ADMIN, TEAM, FakeKeys
from tests.api.kept_stream_scene import (
    NUMBERED,
    RESUMABLE,
    Gate,
    Reader,
    begun,
    get,
    kept_bytes,
    left,
    paced,
)
from tests.api.relay_scene import CHAT, STREAM, Scene, a_scene
from tests.api.test_forwarding import until

GREEDY = {"authorization": f"Bearer {TEAM.decode()}"}
OTHER = {"authorization": f"Bearer {ADMIN.decode()}"}


async def whole(scene: Scene, **headers: str) -> str:
    async with begun(scene, **headers) as reader:
        await reader.rest()
    assert reader.events == NUMBERED
    return reader.stream_id


async def statuses(scene: Scene, ids: list[str], **headers: str) -> list[int]:
    return [(await get(scene, each, **headers)).status_code for each in ids]


async def away(scene: Scene, **headers: str) -> Reader:
    """A stream whose client has left after its third event."""
    async with begun(scene, **headers) as reader:
        await reader.until(3)
    return reader


async def test_a_caller_that_fills_the_memory_pushes_out_its_own_streams_only() -> None:
    async with a_scene(paced(), access=AccessDesk(FakeKeys())) as scene:
        others = [await whole(scene, **OTHER)]
        size = kept_bytes(scene)
        scene.gateway.kept_streams.memory.limit_bytes = 3 * size + size // 2
        greedy = [await whole(scene, **GREEDY) for _ in range(6)]
        assert await statuses(scene, others, **OTHER) == [200]
        assert await statuses(scene, greedy, **GREEDY) == [410, 410, 410, 410, 200, 200]
        assert left(scene, "outgrown") == 0


async def test_the_caller_that_has_most_makes_room_for_another_one() -> None:
    async with a_scene(paced(), access=AccessDesk(FakeKeys())) as scene:
        greedy = [await whole(scene, **GREEDY)]
        size = kept_bytes(scene)
        scene.gateway.kept_streams.memory.limit_bytes = 4 * size
        greedy += [await whole(scene, **GREEDY) for _ in range(3)]
        others = [await whole(scene, **OTHER)]
        assert await statuses(scene, others, **OTHER) == [200]
        assert await statuses(scene, greedy, **GREEDY) == [410, 200, 200, 200]


async def test_where_all_of_it_runs_the_stream_that_makes_room_goes_on_to_its_client() -> None:
    gate = Gate(8)
    async with (
        a_scene(gate, gate, gate, paced(), access=AccessDesk(FakeKeys())) as scene,
        begun(scene, **GREEDY) as first,
        begun(scene, **GREEDY) as second,
        begun(scene, **GREEDY) as third,
    ):
        readers = (first, second, third)
        for reader in readers:
            await reader.until(8)
        scene.gateway.kept_streams.memory.limit_bytes = kept_bytes(scene)
        other = await whole(scene, **OTHER)
        assert left(scene, "outgrown") == 2
        assert await statuses(scene, [other], **OTHER) == [200]
        gate.open.set()
        for reader in readers:
            await reader.rest()
            assert reader.events == NUMBERED


async def test_beyond_so_many_streams_the_caller_that_has_most_of_them_makes_room() -> None:
    async with a_scene(paced(), access=AccessDesk(FakeKeys())) as scene:
        scene.gateway.kept_streams.most_streams = 4
        others = [await whole(scene, **OTHER)]
        greedy = [await whole(scene, **GREEDY) for _ in range(4)]
        others += [await whole(scene, **OTHER)]
        assert await statuses(scene, others, **OTHER) == [200, 200]
        assert await statuses(scene, greedy, **GREEDY) == [410, 410, 200, 200]


async def test_of_one_caller_so_many_streams_go_on_without_their_client_and_one_more_ends() -> None:
    gate = Gate(3)
    async with a_scene(gate, access=AccessDesk(FakeKeys()), max_away=2) as scene:
        first, second = await away(scene, **GREEDY), await away(scene, **GREEDY)
        await until(lambda: scene.value("tierserve_away_streams") == 2)
        third = await away(scene, **GREEDY)
        await until(lambda: scene.tier.ended == 1)
        answer = await get(scene, third.stream_id, **GREEDY)
        assert (answer.status_code, answer.json()["error"]["code"]) == (410, "stream_gone")
        assert "2 others of yours" in answer.json()["error"]["message"]
        assert left(scene, "too_many_away") == 1
        others = await away(scene, **OTHER)
        await until(lambda: scene.value("tierserve_away_streams") == 3)
        gate.open.set()
        for kept, headers in ((first, GREEDY), (second, GREEDY), (others, OTHER)):
            rest = await get(scene, kept.stream_id, **headers, **{"last-event-id": "3"})
            assert rest.content == b"".join(NUMBERED[3:])


async def test_a_client_that_comes_back_is_not_away_any_more() -> None:
    gate = Gate(3)
    async with a_scene(gate, max_away=1) as scene, AsyncExitStack() as stack:
        first = await away(scene)
        await until(lambda: scene.value("tierserve_away_streams") == 1)
        stream = scene.client.stream("GET", f"/v1/streams/{first.stream_id}")
        again = Reader(await stack.enter_async_context(stream))
        await again.until(3)
        second = await away(scene)
        await until(lambda: scene.value("tierserve_away_streams") == 1)
        gate.open.set()
        assert (await get(scene, second.stream_id)).content == b"".join(NUMBERED)
        assert left(scene, "too_many_away") == 0


async def test_where_none_may_go_on_a_stream_ends_with_its_client() -> None:
    async with a_scene(Gate(3), max_away=0) as scene:
        await away(scene)
        await until(lambda: scene.tier.ended == 1)
        assert kept_bytes(scene) == 0


async def test_the_answer_says_that_a_stream_is_not_resumable() -> None:
    async with a_scene(paced(), max_kept_mib=0) as scene:
        answer = await scene.post(**RESUMABLE)
        assert answer.headers["x-tierserve-resumable"] == "0"
        assert (await scene.post()).headers.get("x-tierserve-resumable") is None
        assert left(scene, "not_kept") == 1


async def test_an_id_is_new_each_time_whatever_the_client_calls_its_request() -> None:
    async with a_scene(paced()) as scene:
        named = {"x-request-id": "mine"}
        ids = {await whole(scene, **named) for _ in range(3)}
        assert len(ids) == 3
        assert all(len(each) == 32 for each in ids)
        assert scene.gateway.kept_streams.find(min(ids), NOBODY)
        assert (await scene.client.post(CHAT, json=STREAM, headers=named)).status_code == 200
        assert (await get(scene, "mine")).status_code == 404


@dataclass
class SlowReader:
    """Takes what it is sent, but for its first event, which it takes once it is let."""

    took: list[bytes] = field(default_factory=list[bytes])
    free: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, message: Message) -> None:
        if body := message.get("body", b""):
            await self.free.wait()
            self.took.append(body)


async def ends_at_once(send: Send, stream: KeptStream | None) -> None:
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    body = b"data: " + b"x" * 1000 + b"\n\n"
    await send({"type": "http.response.body", "body": body, "more_body": False})


@dataclass
class Kept:
    """What a process keeps, without a web application."""

    streams: KeptStreams

    def read(self, owner: str, send: Send) -> asyncio.Task[None]:
        caller = Caller(flow=Flow(owner))
        run = self.streams.run(ends_at_once, send, caller=caller, request_id="r", tier="chat")
        return asyncio.create_task(run)

    @property
    def ended(self) -> dict[str, list[KeptStream]]:
        shares = self.streams._shares
        return {owner: [*share.ended.values()] for owner, share in shares.items()}

    def count(self, result: str) -> float:
        return self.streams.counter.labels(result=result)._value.get()


def kept_by(**settings: float) -> Kept:
    counter = Counter("kept", "", ["result"], registry=CollectorRegistry())
    return Kept(KeptStreams(ResumableConfig.model_validate(settings), counter))


async def test_who_reads_ended_streams_slowly_keeps_the_memory_from_nobody() -> None:
    kept, slow, other = kept_by(), SlowReader(), SlowReader()
    reading = [kept.read("greedy", slow), kept.read("greedy", slow)]
    await until(lambda: len(kept.ended.get("greedy", ())) == 2)
    first, second = kept.ended["greedy"]
    memory = kept.streams.memory
    memory.limit_bytes = memory.kept_bytes
    other.free.set()
    await kept.read("other", other)
    assert kept.ended == {"greedy": [second], "other": kept.ended["other"]}
    assert (len(kept.ended["other"]), kept.count("forgotten")) == (1, 1)
    assert not first.events
    assert slow.took == []
    slow.free.set()
    await asyncio.gather(*reading)
    assert slow.took.count(FORGOTTEN) == 1
    await kept.streams.close()
    assert memory.kept_bytes == 0


async def test_one_that_ended_is_not_kept_for_ever_because_it_is_read() -> None:
    kept, slow = kept_by(kept_s=0.01), SlowReader()
    reading = kept.read("slow", slow)
    await until(lambda: kept.count("expired"))
    assert kept.streams.memory.kept_bytes == 0
    slow.free.set()
    await reading
    assert slow.took[-1] == FORGOTTEN
