"""A plain server of streams in the form of vLLM's: no model, only bytes, as fast as asked.

It measures what the generator can read. One timer writes to all streams, so that it costs far less
than any HTTP framework and its reader is the first to be too slow.
"""

import argparse
import asyncio
import json
from dataclasses import dataclass, field
from typing import cast

TICK_S = 0.005
HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n"
)
MODELS = json.dumps({"object": "list", "data": [{"id": "plain", "object": "model"}]}).encode()


def event(document: object) -> bytes:
    return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"


def _chunk(delta: object, finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return event(
        {
            "id": "chatcmpl-8f7c3c1d5a2b4e6f9d0c1b2a3f4e5d6c",
            "object": "chat.completion.chunk",
            "created": 1790000000,
            "model": "plain",
            "choices": [{**choice, "token_ids": None}],
        }
    )


def framed(data: bytes) -> bytes:
    """A chunk of HTTP's chunked encoding."""
    return b"%x\r\n%s\r\n" % (len(data), data)


ROLE = framed(_chunk({"role": "assistant", "content": ""}))
TOKEN = framed(_chunk({"content": " water"}))


def ending(tokens: int) -> bytes:
    usage = {"prompt_tokens": 10, "completion_tokens": tokens, "total_tokens": 10 + tokens}
    last = event({"object": "chat.completion.chunk", "choices": [], "usage": usage})
    return framed(_chunk({}, "length") + last + b"data: [DONE]\n\n") + b"0\r\n\r\n"


@dataclass(slots=True, eq=False)
class Stream:
    """`written` of `tokens` are out."""

    transport: asyncio.Transport
    tokens: int
    begun_s: float
    written: int = 0


@dataclass(slots=True)
class Ticker:
    """Writes to each stream what is due: `per_s` chunks a second each."""

    per_s: float
    streams: set[Stream] = field(default_factory=set)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            now_s = loop.time()
            for stream in list(self.streams):
                self._write(stream, now_s)
            await asyncio.sleep(max(0.0, TICK_S - (loop.time() - now_s)))

    def _write(self, stream: Stream, now_s: float) -> None:
        if stream.transport.is_closing():
            self.streams.discard(stream)
            return
        due = min(stream.tokens, int((now_s - stream.begun_s) * self.per_s))
        # Each chunk by itself: a reader must not be spared what a real server's streams cost.
        for _ in range(due - stream.written):
            stream.transport.write(TOKEN)
        stream.written = max(stream.written, due)
        if stream.written >= stream.tokens:
            stream.transport.write(ending(stream.tokens))
            stream.transport.close()
            self.streams.discard(stream)


class Protocol(asyncio.Protocol):
    """Just enough of HTTP/1.1 for one request of a connection."""

    def __init__(self, ticker: Ticker) -> None:
        self._ticker = ticker
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, ended, body = self._data.partition(b"\r\n\r\n")
        if not ended:
            return
        lines = dict(
            (name.strip().lower(), value.strip())
            for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:])
        )
        if len(body) >= int(lines.get(b"content-length", 0)):
            self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"POST /v1/chat/completions "):
            self._transport.write(HEAD + ROLE)
            begun_s = asyncio.get_running_loop().time()
            tokens = int(json.loads(body)["max_tokens"])
            self._ticker.streams.add(Stream(self._transport, tokens, begun_s))
            return
        found = head.startswith(b"GET /v1/models ")
        text = MODELS if found else b"{}"
        status = b"200 OK" if found else b"404 Not Found"
        kind = b"content-type: application/json\r\nconnection: close\r\n"
        self._transport.write(
            b"HTTP/1.1 %s\r\n%scontent-length: %d\r\n\r\n%s" % (status, kind, len(text), text)
        )
        self._transport.close()


async def serve(port: int, per_s: float) -> None:
    """Until it is ended; the first line of its output is the port."""
    ticker = Ticker(per_s)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Protocol(ticker), "127.0.0.1", port, backlog=4096, reuse_address=True
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await ticker.run()


def main() -> None:
    import uvloop

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--per-s", type=float, default=20.0, help="chunks a second of each stream")
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(options.port, options.per_s))


if __name__ == "__main__":
    main()
