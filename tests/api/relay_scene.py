"""The web application in front of a scripted tier whose replicas are lost as a test has it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from serve_app.api.access import AccessDesk
from serve_app.api.forwarding import ClusterSecret
from serve_app.api.gateway import Gateway
from serve_app.api.web_app import make_web_app
from serve_app.config.replay import ReplayConfig
from tests.api.loopback import served
from tests.api.scripted_tier import (
    KEY,
    Answer,
    Asked,
    Connection,
    Generation,
    Reply,
    ScriptedTier,
    refused,
    serving,
    whole,
)
from tests.api.web_client import BOTH, FakeTiers

EVENTS = [b'data: {"created":7,"n":%d}\n\n' % number for number in range(4)]
DONE = b"data: [DONE]\n\n"
# Events of one step, of none and of two in one chunk.
GENERATION = Generation([[EVENTS[0]], [], [EVENTS[1], EVENTS[2]], [EVENTS[3]], [DONE]])
CHAT = "/v1/chat/completions"
STREAM = {"model": "chat", "stream": True}
WHOLE_BODY = b'{"choices":[]}'
WHOLE = whole(200, WHOLE_BODY)
NO_SERVER = refused(503, "no_server")


def continues(asked: Asked) -> bytes:
    """As an edge that has all the time it needs."""
    return GENERATION.stream(asked.past, asked.dropped)


def cut_after(size_bytes: int) -> Answer:
    """The same, but for the connection, which breaks."""
    return lambda asked: Reply(continues(asked)[:size_bytes], cut=True)


def says(data: bytes) -> Answer:
    return lambda asked: data


@dataclass
class Clock:
    """Goes on by itself where it `runs`, and by leaps."""

    runs: bool = True
    leaps_s: float = 0.0

    def __call__(self) -> float:
        return self.runs * asyncio.get_running_loop().time() + self.leaps_s


@dataclass
class Scene:
    """The web application in front of a scripted tier."""

    tier: ScriptedTier
    gateway: Gateway
    client: httpx.AsyncClient
    clock: Clock
    url: str

    async def post(self, path: str = CHAT, payload: Any = STREAM, **headers: str) -> httpx.Response:
        return await self.client.post(path, json=payload, headers=headers)

    def count(self, result: str, tier: str = "chat") -> float:
        labels = {"tier": tier, "result": result}
        return self.value("tierserve_replays_total", labels)

    def value(self, metric: str, labels: dict[str, str] | None = None) -> float:
        value = self.gateway.registry.get_sample_value(metric, labels)
        assert value is not None
        return value


@asynccontextmanager
async def a_scene(
    *answers: Answer,
    heartbeat_s: float = 3.0,
    lives_s: float = 0.0,
    hand_over_within_s: float = 5.0,
    access: AccessDesk | None = None,
    client_stall_s: float = 30.0,
    clock_runs: bool = True,
    **settings: Any,
) -> AsyncIterator[Scene]:
    """`lives_s`: by the gateway's clock each replica lives so long before it is lost. At the end no
    memory may be in use."""
    clock = Clock(clock_runs)

    async def live(connection: Connection) -> None:
        await asyncio.sleep(0.02)
        clock.leaps_s += lives_s
        connection.transport.close()

    def living(answer: Answer) -> Answer:
        def answered(asked: Asked) -> Reply | bytes:
            reply = answer(asked)
            if lives_s and isinstance(reply, Reply) and reply.cut:
                return Reply(reply.data, then=live)
            return reply

        return answered

    tier = ScriptedTier([living(answer) for answer in answers])
    async with serving(tier) as url:

        async def base_url() -> str:
            return url

        gateway = Gateway(
            base_url,
            BOTH,
            100_000,
            heartbeat_s,
            replay=ReplayConfig(**settings),
            secret=ClusterSecret(KEY),
            clock_s=clock,
            hand_over_within_s=hand_over_within_s,
        )
        async with (
            served(make_web_app(BOTH, FakeTiers(), gateway, client_stall_s, access)) as web_url,
            httpx.AsyncClient(base_url=web_url, timeout=20) as client,
        ):
            yield Scene(tier, gateway, client, clock, web_url)
        await gateway.close()
        assert gateway.memory.kept_bytes == 0
        assert gateway.kept_streams.memory.kept_bytes == 0
