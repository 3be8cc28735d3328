"""A gateway and replicas with the fake engine in one process, over real sockets: replicas may be
killed, drained, and lose their engines. The gateway's proxy is a choice among those that are up."""

import asyncio
import random
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvicorn
from prometheus_client import CollectorRegistry
from starlette.types import Receive, Scope, Send

from serve_app.api.access import AccessDesk
from serve_app.api.forwarding import ClusterSecret, Forwarder, nowhere
from serve_app.api.gateway import Gateway
from serve_app.api.web_app import make_web_app
from serve_app.config.engine import EngineConfig, FakeEngineConfig
from serve_app.config.replay import ReplayConfig
from serve_app.config.tier import TierArgs
from serve_app.core.placement.hardware import T4
from serve_app.core.tiers import Tier
from serve_app.engine.fake.engine import FakeEngine
from serve_app.serving.access_start import StartedAccess
from serve_app.serving.running_tier import RunningTier
from serve_app.telemetry import make_tier_metrics
from tests.api.loopback import served
from tests.api.test_forwarding import until
from tests.api.web_client import FakeTiers
from tests.builders import lenders, peers, some_settings

STREAM = {"model": "chat", "prompt": "hi", "stream": True, "temperature": 0}


@dataclass(eq=False)
class Replica:
    tier: RunningTier
    server: uvicorn.Server
    serving: asyncio.Future[None]
    url: str
    up: bool = True

    async def kill(self) -> None:
        """As the end of its process: every connection is reset."""
        self.up = False
        for connection in list(self.server.server_state.connections):
            connection.transport.abort()
        await self.stop()

    async def stop(self) -> None:
        self.up = False
        self.tier.engine.shutdown()
        self.server.force_exit = self.server.should_exit = True
        await self.serving
        await self.tier.edge.forwarder.close()

    @property
    def running(self) -> int:
        return self.tier.edge.gate.running_requests


@dataclass
class Cluster:
    secret: ClusterSecret
    client: httpx.AsyncClient
    gateway: Gateway
    speed: float
    slots: int
    replicas: list[Replica] = field(default_factory=list[Replica])
    rng: random.Random = field(default_factory=lambda: random.Random(7))

    async def base_url(self) -> str:
        """As HAProxy chooses: the replica with the fewest requests."""
        up = [replica for replica in self.replicas if replica.up]
        if not up:
            return "http://127.0.0.1:9"
        return min(up, key=lambda replica: (replica.running, self.rng.random())).url

    async def start_replica(
        self, *, forwards_to: tuple[str, ...] = (), knows_others: bool = False
    ) -> Replica:
        """One that forwards to these, or to whichever others are up, which it knows by name."""
        name = f"r{len(self.replicas)}"

        def others() -> dict[str, str]:
            found = {f"r{at}": each for at, each in enumerate(self.replicas)}
            return {at: each.url for at, each in found.items() if at != name and each.up}

        async def known() -> Sequence[str]:
            return [*others().values()]

        async def url_of(replica: str) -> str | None:
            return others().get(replica)

        engine = await FakeEngine.start(
            EngineConfig(),
            FakeEngineConfig(start_s=0, speed=self.speed),
            T4,
            served_names=("chat",),
            phase=lambda name: nullcontext(),
        )
        tier = RunningTier.build(
            TierArgs(tier=Tier.CHAT),
            T4,
            engine,
            some_settings(max_running_sequences=self.slots),
            make_tier_metrics(CollectorRegistry()),
            Forwarder(
                Tier.CHAT,
                known if knows_others else peers(*forwards_to),
                lenders(),
                self.secret,
                name,
                url_of if knows_others else nowhere,
            ),
            StartedAccess(AccessDesk()),
        )

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await tier.edge({**scope, "root_path": "/api/chat"}, receive, send)

        listening = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(app, lifespan="off", log_config=None, access_log=False)
        server = uvicorn.Server(config)
        serving = asyncio.ensure_future(server.serve(sockets=[listening]))
        while not server.started:  # noqa: ASYNC110 - uvicorn has a flag, no event
            await asyncio.sleep(0.001)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        replica = Replica(tier, server, serving, url)
        self.replicas.append(replica)
        return replica

    async def stream(self, path: str = "/v1/chat/completions", **payload: Any) -> str:
        answer = await self.client.post(
            path, json={**STREAM, **payload}, headers={"x-request-id": "mine"}
        )
        assert answer.status_code == 200, answer.text
        return answer.text

    async def nothing_runs(self) -> None:
        """Raises where a request is left at a gate that is up."""
        await until(lambda: not any(each.up and each.running for each in self.replicas))

    def replays(self, result: str) -> float:
        labels = {"tier": "chat", "result": result}
        return self.gateway.registry.get_sample_value("tierserve_replays_total", labels) or 0.0


@asynccontextmanager
async def a_cluster(
    replicas: int = 2, *, speed: float = 20.0, slots: int = 32, **replay: Any
) -> AsyncIterator[Cluster]:
    """At the end nothing may be left at any gate that is up."""
    secret = ClusterSecret()
    known: list[Cluster] = []

    async def base_url() -> str:
        return await known[0].base_url()

    gateway = Gateway(
        base_url,
        (Tier.CHAT,),
        100_000,
        replay=ReplayConfig(**replay),
        secret=secret,
        clock_s=time.monotonic,
    )
    app = make_web_app((Tier.CHAT,), FakeTiers(), gateway)
    async with served(app) as url, httpx.AsyncClient(base_url=url, timeout=60) as client:
        cluster = Cluster(secret, client, gateway, speed, slots)
        known.append(cluster)
        for _ in range(replicas):
            await cluster.start_replica()
        try:
            yield cluster
            await cluster.nothing_runs()
        finally:
            await gateway.close()
            for replica in cluster.replicas:
                await replica.tier.edge.streams.kept.close()
                if not replica.serving.done():
                    await replica.stop()
    assert gateway.memory.kept_bytes == 0
