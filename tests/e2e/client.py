"""The measuring client: answers, streams and their ends, as a user of the HTTP interface sees."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from multidict import CIMultiDict, CIMultiDictProxy

from tests.e2e.machine_clock import clock_s

# Ends a test that would hang; no answer that is asserted on comes close.
TOTAL_LIMIT_S = 240.0
TOKEN_MARK = '"choices":[{'


@dataclass(slots=True)
class Reply:
    """One request and how it ended. `status` 0: no answer came."""

    status: int = 0
    headers: CIMultiDictProxy[str] = field(default_factory=lambda: CIMultiDictProxy(CIMultiDict()))
    text: str = ""
    fault: str = ""
    sent_s: float = 0.0
    headers_s: float = 0.0
    first_token_s: float | None = None
    ended_s: float = 0.0

    @property
    def heartbeats(self) -> int:
        return self.text.count(": waiting,")

    @property
    def chunks(self) -> int:
        """Streamed chunks that carry tokens: one each, or more where the engine is ahead."""
        return self.text.count(TOKEN_MARK)

    @property
    def completion_tokens(self) -> int:
        """What the answer's usage says; a stream has it where it was asked for."""
        lines = (line.removeprefix("data: ") for line in self.text.splitlines())
        *_, last = (json.loads(line) for line in lines if line.startswith("{"))
        return last["usage"]["completion_tokens"]

    @property
    def complete(self) -> bool:
        """Ended as promised: a whole JSON answer, or a stream with its last event."""
        streamed = self.headers.get("content-type", "").startswith("text/event-stream")
        return not self.fault and (not streamed or self.text.endswith("data: [DONE]\n\n"))

    @property
    def served(self) -> bool:
        return self.status == 200 and self.complete and '"error"' not in self.text

    @property
    def cut(self) -> bool:
        """Began to answer and did not end."""
        return self.status == 200 and not self.complete

    @property
    def e2e_s(self) -> float:
        return self.ended_s - self.sent_s

    @property
    def ttft_s(self) -> float:
        assert self.first_token_s is not None, f"no token came: {self}"
        return self.first_token_s - self.sent_s

    @property
    def error(self) -> dict[str, Any]:
        return json.loads(self.text)["error"]


@asynccontextmanager
async def client_session() -> AsyncIterator[aiohttp.ClientSession]:
    # A connection for each request, so that no refused or cut one is answered by reuse.
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    timeout = aiohttp.ClientTimeout(total=TOTAL_LIMIT_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        yield session


async def ask(
    session: aiohttp.ClientSession, url: str, body: object, reply: Reply | None = None
) -> Reply:
    """Send one request and read its answer to the end; faults of the network are part of it.

    Who gives the `reply` can watch it grow.
    """
    reply = reply or Reply()
    reply.sent_s = clock_s()
    try:
        async with session.post(url, json=body) as response:
            reply.status, reply.headers = response.status, response.headers
            reply.headers_s = clock_s()
            async for block in response.content.iter_any():
                _take(reply, block.decode(errors="replace"))
    except (aiohttp.ClientError, ConnectionError) as fault:
        reply.fault = repr(fault)
    except TimeoutError:
        reply.fault = f"no end after {TOTAL_LIMIT_S} s"
    reply.ended_s = clock_s()
    return reply


def _take(reply: Reply, text: str) -> None:
    reply.text += text
    if reply.first_token_s is None and TOKEN_MARK in reply.text:
        reply.first_token_s = clock_s()


def work(prompt: str, tokens: int, *, stream: bool, **more: object) -> dict[str, object]:
    """A request in the short form that is exactly `tokens` long."""
    return {
        "prompt": prompt,
        "max_tokens": tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": stream,
        **more,
    }
