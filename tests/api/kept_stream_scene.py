"""A resumable stream of `/v1`: replicas that send at their own pace, readers that come and go."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from tests.api.relay_scene import (
    CHAT,
    STREAM,
    Scene,
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
)

EVENTS = [b'data: {"created":7,"n":%d}\n\n' % number for number in range(12)]
DONE = b"data: [DONE]\n\n"
LONG = Generation([*([event] for event in EVENTS), [DONE]])
# More than the sockets between gateway and client take.
LARGE = Generation([*([b"data: " + b"x" * 8000 + b"\n\n"] for _ in range(2000)), [DONE]])
RESUMABLE = {"x-tierserve-resumable": "1"}
NUMBERED = [b"id: %d\n%s" % (number, event) for number, event in enumerate(LONG.events, 1)]
EVENT_NUMBER = re.compile(rb"id: (\d+)\n")


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
