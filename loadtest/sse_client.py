"""The measuring client: streaming chat completions with raw SSE bytes, closed-loop or open-loop.

It shares the machine with the servers that it compares, so each microsecond that it spends on a
chunk is taken from them: events are counted in the bytes and only the last one is parsed.
"""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import aiohttp

READ_BUFFER_BYTES = 1 << 20
REQUEST_TIMEOUT_S = 300.0


class StreamFailure(Exception):
    """A request that did not end as a complete stream: no measurement is made of it."""


@dataclass(slots=True)
class StreamTimes:
    """One request as its client saw it: times are `time.perf_counter` seconds."""

    sent_s: float
    event_s: list[float] = field(default_factory=list)
    output_tokens: int = 0

    @property
    def ttft_s(self) -> float:
        return self.event_s[0] - self.sent_s

    @property
    def itl_s(self) -> list[float]:
        return [b - a for a, b in zip(self.event_s, self.event_s[1:], strict=False)]


class EventCounter:
    """Splits a byte stream into SSE events; comments (heartbeats) are not events."""

    __slots__ = ("_rest", "done", "usage_event")

    def __init__(self) -> None:
        self._rest = b""
        self.usage_event = b""
        self.done = False

    def feed(self, block: bytes) -> int:
        """How many token events the block completed."""
        *events, self._rest = (self._rest + block).split(b"\n\n")
        tokens = 0
        for event in events:
            if not event.startswith(b"data: "):
                continue
            if event == b"data: [DONE]":
                self.done = True
            elif event.startswith(b'data: {"error"'):
                raise StreamFailure(event.decode(errors="replace"))
            elif b'"choices":[]' in event:
                self.usage_event = event
            else:
                tokens += 1
        return tokens

    @property
    def completion_tokens(self) -> int:
        return json.loads(self.usage_event.removeprefix(b"data: "))["usage"]["completion_tokens"]


def chat_body(model: str, prompt: str, *, output_tokens: int) -> bytes:
    """A request of fixed work: greedy, and exactly `output_tokens` long."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": output_tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return json.dumps(body).encode()


async def run_closed_loop(
    url: str, bodies: Sequence[bytes], *, concurrency: int
) -> list[StreamTimes]:
    """Send all bodies, `concurrency` at a time; the first failure ends the run. In their order."""
    waiting = iter(enumerate(bodies))
    finished: dict[int, StreamTimes] = {}

    async def one_client(session: aiohttp.ClientSession) -> None:
        for number, body in waiting:
            sent_s = time.perf_counter()
            finished[number] = await stream_once(session, url, body, sent_s=sent_s)

    async with _session() as session, asyncio.TaskGroup() as clients:
        for _ in range(concurrency):
            clients.create_task(one_client(session))
    return [finished[number] for number in range(len(bodies))]


async def run_open_loop(
    url: str, bodies: Sequence[bytes], *, due_s: Sequence[float]
) -> list[StreamTimes]:
    """Send each body at its time, in seconds from now, whatever the others do; the first failure
    ends the run. A request counts as sent when it was due: no delay of the client is hidden."""
    started_s = time.perf_counter()

    async def one_request(session: aiohttp.ClientSession, body: bytes, at_s: float) -> StreamTimes:
        await asyncio.sleep(max(0.0, at_s - time.perf_counter()))
        return await stream_once(session, url, body, sent_s=at_s)

    async with _session() as session, asyncio.TaskGroup() as requests:
        tasks = [
            requests.create_task(one_request(session, body, started_s + at_s))
            for body, at_s in zip(bodies, due_s, strict=True)
        ]
    return [task.result() for task in tasks]


async def stream_once(
    session: aiohttp.ClientSession, url: str, body: bytes, *, sent_s: float
) -> StreamTimes:
    """One request; its times count from `sent_s`."""
    counter = EventCounter()
    times = StreamTimes(sent_s=sent_s)
    async with session.post(url, data=body) as response:
        if response.status != 200:
            raise StreamFailure(f"HTTP {response.status} from {url}: {await response.text()}")
        async for block in response.content.iter_any():
            now_s = time.perf_counter()
            if tokens := counter.feed(block):
                times.event_s.extend([now_s] * tokens)
    if not (counter.done and counter.usage_event and times.event_s):
        raise StreamFailure(f"{url} ended its stream without usage or [DONE]")
    times.output_tokens = counter.completion_tokens
    return times


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        headers={"content-type": "application/json"},
        timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S),
        read_bufsize=READ_BUFFER_BYTES,
    )
