"""A tier behind its proxy, as the gateway sees both: a real server on loopback, whose every answer
a test has written. It continues a stream as an edge does, and checks what it is asked with."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import httptools

from serve_app.api.replay_wire import (
    JOURNAL_HEADER,
    RESUME_HEADER,
    Resumption,
    journal_mark,
)
from serve_app.core.replay.journal import EngineStep, read, written

KEY = b"k" * 32
SSE_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
JOURNALED = SSE_HEAD + b"x-tierserve-journal: 1\r\n\r\n"
END = b"0\r\n\r\n"


def framed(data: bytes) -> bytes:
    """A chunk of HTTP's chunked encoding."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def whole(status: int, body: bytes, *headers: bytes) -> bytes:
    """A whole answer."""
    more = b"".join(b"%s\r\n" % each for each in headers)
    return (
        b"HTTP/1.1 %d Said\r\ncontent-type: application/json\r\n%scontent-length: %d\r\n\r\n%s"
        % (
            status,
            more,
            len(body),
            body,
        )
    )


def refused(status: int, code: str) -> bytes:
    """An error in OpenAI's form."""
    return whole(
        status, b'{"error":{"message":"no","type":"t","param":null,"code":"%s"}}' % code.encode()
    )


@dataclass(frozen=True, slots=True)
class Generation:
    """What an engine makes of a request: for each of its steps the events that come of it."""

    events_of_steps: Sequence[Sequence[bytes]]

    @property
    def events(self) -> list[bytes]:
        return [event for events in self.events_of_steps for event in events]

    @property
    def text(self) -> bytes:
        """The stream of a client that nothing interrupts."""
        return b"".join(self.events)

    def steps(self, first: int, end: int) -> list[EngineStep]:
        return [EngineStep(0, 0, (1000 + number,)) for number in range(first, end)]

    def chunks(self, past: int = 0, dropped: int = 0) -> list[bytes]:
        """What an edge sends behind `past` replayed steps, without the first `dropped` events."""
        chunks: list[bytes] = []
        unsent, seen = past, 0
        for number, events in enumerate(self.events_of_steps):
            kept = [event for at, event in enumerate(events, seen) if at >= dropped]
            seen += len(events)
            if not kept:
                continue
            steps = written(self.steps(unsent, number + 1)) if number >= unsent else ""
            unsent = max(unsent, number + 1)
            chunks.append((f":j {steps}\n\n".encode() if steps else b"") + b"".join(kept))
        return chunks

    def stream(self, past: int = 0, dropped: int = 0) -> bytes:
        """The whole response."""
        return JOURNALED + b"".join(map(framed, self.chunks(past, dropped))) + END


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it came; `body` is the client's, without the journal."""

    path: str
    headers: dict[bytes, bytes]
    body: bytes
    journal: tuple[EngineStep, ...] | None
    resumption: Resumption | None
    # The number of the connection over which it came.
    connection: int

    @property
    def past(self) -> int:
        return len(self.journal or ())

    @property
    def dropped(self) -> int:
        return self.resumption.events if self.resumption else 0


@dataclass(frozen=True, slots=True)
class Reply:
    """Bytes to answer with. `cut`: the connection ends behind them; `then` is called once they are
    out, and what it returns is awaited."""

    data: bytes
    cut: bool = False
    then: Callable[["Connection"], Any] | None = None


Answer = Callable[[Asked], Reply | bytes]


@dataclass
class ScriptedTier:
    """`answers` in turn, the last one again and again."""

    answers: list[Answer]
    asked: list[Asked] = field(default_factory=list)
    connections: list["Connection"] = field(default_factory=list)
    # Connections that the gateway has ended.
    ended: int = 0

    def answer(self, asked: Asked) -> Reply:
        self.asked.append(asked)
        answer = self.answers[min(len(self.asked), len(self.answers)) - 1]
        reply = answer(asked)
        return reply if isinstance(reply, Reply) else Reply(reply)

    @property
    def resumptions(self) -> list[Resumption | None]:
        return [each.resumption for each in self.asked]


class Connection(asyncio.Protocol):
    def __init__(self, tier: ScriptedTier) -> None:
        self._tier = tier
        self._parser = httptools.HttpRequestParser(self)
        self._headers: dict[bytes, bytes] = {}
        self._body = b""
        self._url = b""
        self.writable = asyncio.Event()
        self.writable.set()
        tier.connections.append(self)
        self._number = len(tier.connections)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._tier.ended += 1
        self.writable.set()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        asked = _asked(self._url.decode(), self._headers, self._body, self._number)
        self._headers, self._body, self._url = {}, b"", b""
        reply = self._tier.answer(asked)
        if reply.data:
            self.transport.write(reply.data)
        if reply.then is not None:
            self._then = asyncio.ensure_future(reply.then(self))
        elif reply.cut:
            self.transport.close()


def _asked(path: str, headers: dict[bytes, bytes], body: bytes, connection: int) -> Asked:
    """Raises AssertionError for marks that are not true."""
    request_id = headers[b"x-request-id"].decode()
    if (mark := headers.get(JOURNAL_HEADER)) is not None:
        assert mark.decode() == journal_mark(KEY, request_id)
    if (value := headers.get(RESUME_HEADER)) is None:
        return Asked(path, headers, body, None, None, connection)
    resumption = Resumption.from_header(value, KEY, request_id)
    assert resumption is not None
    at = len(body) - resumption.journal_bytes
    journal = read(body[at:].decode())
    return Asked(path, headers, body[:at], journal, resumption, connection)


@asynccontextmanager
async def serving(tier: ScriptedTier) -> AsyncIterator[str]:
    """Its base URL while the block runs."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(tier), "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for connection in tier.connections:
            connection.transport.abort()
