"""A tier of streams that costs next to nothing: every answer is the same events, each written by
itself, with the steps of a journal where the gateway asks for them.

Flat out each stream gets one event in each turn of the event loop; paced, one in each tick.
"""

import argparse
import asyncio
import sys
from typing import cast

import httptools

from serve_app.api.replay_wire import JOURNAL_HEADER

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n\r\n"
EVENT = (
    b'data: {"id":"chatcmpl-8f7c3c1d5a2b4e6f9d0c1b2a3f4e5d6c","object":"chat.completion.chunk",'
    b'"created":1790000000,"model":"chat","choices":[{"index":0,"delta":{"content":" water"},'
    b'"logprobs":null,"finish_reason":null,"token_ids":null}]}\n\n'
)
LAST = b"data: [DONE]\n\n"


def framed(data: bytes) -> bytes:
    """A chunk of HTTP's chunked encoding."""
    return b"%x\r\n%s\r\n" % (len(data), data)


class Connection(asyncio.Protocol):
    """Streams of `events` events; `tick_s` 0 is flat out."""

    def __init__(self, events: int, tick_s: float) -> None:
        self._events, self._tick_s = events, tick_s
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._journaled = False
        self._written = self._ticks = 0
        self._paused = self._waits = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._journaled = self._journaled or name.lower() == JOURNAL_HEADER

    def on_message_complete(self) -> None:
        mark = JOURNAL_HEADER + b": 1\r\n" if self._journaled else b""
        self._transport.write(HEAD + mark + CHUNKED)
        self._written = 0
        self._write()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._waits:
            self._waits = False
            self._write()

    def _write(self) -> None:
        if self._transport.is_closing():
            return
        if self._paused:
            self._waits = True
            return
        self._written += 1
        last = self._written >= self._events
        steps = b":j 0 0 %d\n\n" % (100_000 + self._written) if self._journaled else b""
        self._transport.write(framed(steps + EVENT) if not last else framed(LAST) + b"0\r\n\r\n")
        if last:
            self._journaled = False
        elif self._tick_s:
            # All streams tick together, as those of one batch do. A timer may be a little early.
            self._ticks = max(self._ticks, int(self._loop.time() / self._tick_s)) + 1
            self._loop.call_at(self._ticks * self._tick_s, self._write)
        else:
            self._loop.call_soon(self._write)


async def serve(events: int, tick_s: float) -> None:
    """Until it is ended; the first line of its output is the port."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(events, tick_s), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


def main() -> None:
    import uvloop

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, required=True)
    parser.add_argument("--tick-s", type=float, default=0.0)
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(options.events, options.tick_s))


if __name__ == "__main__":
    sys.exit(main())
