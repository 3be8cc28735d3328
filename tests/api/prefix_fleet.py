"""A tier of several replicas in virtual time: edges, gates, reports and forwarding as they are, the
fake engine with a T4's step times and a prefix cache, and in place of sockets a hop that takes
a few milliseconds. Requests come in as HAProxy lets them: at the replica with fewest connections.
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import BytesIO
from statistics import fmean
from typing import Any, cast

from multidict import CIMultiDict
from starlette.types import ASGIApp, Message

from serve_app.api.demand import DemandMeter
from serve_app.api.edge import TierEdge
from serve_app.api.gate import Gate, GateLimits
from serve_app.api.prefix_forwarding import PrefixForwarding, replica_state
from serve_app.api.prefix_reports import PrefixReports
from serve_app.config.engine import FakeEngineConfig
from serve_app.config.prefixes import PrefixConfig
from serve_app.core.admission.queue_drain import ServiceTime
from serve_app.core.prefix.replica_choice import SETTLED_S
from serve_app.core.scaling.step_time import StepModel
from serve_app.core.scaling.workload import LearntLengths
from serve_app.engine.fake.app import make_fake_app
from serve_app.engine.fake.batch import FakeBatch
from serve_app.engine.fake.prefix_cache import FakePrefixCache
from serve_app.engine.interface import EngineLoad
from tests.builders import SECRET, an_edge, some_settings
from tests.virtual_time import now_s

# loadtest/profiles/t4.json.
T4_STEP, T4_CONTEXT_TOKEN_MS = StepModel(14.5, 0.13, 0.125), 0.0896 / 1e3
SLOTS, KV_TOKENS, HOP_S, LOOK_EVERY_S = 16, 320_000, 0.004, 0.25
WORDS = ("river", "house", "train", "garden", "letter", "market", "winter", "doctor", "finds")


@dataclass
class Hop:
    """What `Forwarder` needs of an aiohttp session, to applications in this process."""

    apps: Mapping[str, ASGIApp]

    @asynccontextmanager
    async def post(
        self, url: str, data: BytesIO, headers: Sequence[tuple[str, str]]
    ) -> AsyncIterator["HopResponse"]:
        scheme, _, rest = url.partition("://")
        host, _, path = rest.partition("/")
        await asyncio.sleep(HOP_S / 2)
        named = [(name.lower().encode(), value.encode()) for name, value in headers]
        asked = Asked(self.apps[f"{scheme}://{host}"], f"/{path}", data.getvalue(), named)
        try:
            await asked.started()
            await asyncio.sleep(HOP_S / 2)
            yield HopResponse(asked)
        finally:
            await asked.leave()

    async def close(self) -> None:
        pass


class Asked:
    """A request to an application; its messages come in order."""

    def __init__(
        self, app: ASGIApp, path: str, body: bytes, headers: Sequence[tuple[bytes, bytes]] = ()
    ) -> None:
        self.messages: asyncio.Queue[Message] = asyncio.Queue()
        self.first: Message | None = None
        self._body: bytes | None = body
        self._left = asyncio.Event()
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "root_path": "/api/chat",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(b"content-type", b"application/json"), *headers],
        }
        self._task = asyncio.ensure_future(app(scope, self._receive, self.messages.put))

    async def started(self) -> Message:
        if self.first is None:
            self.first = await self.messages.get()
        return self.first

    async def chunks(self) -> AsyncIterator[bytes]:
        more = True
        while more:
            message = await self.messages.get()
            more = message.get("more_body", False)
            if message.get("body"):
                yield message["body"]

    async def leave(self) -> None:
        self._left.set()
        await self._task

    async def _receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}


@dataclass
class HopResponse:
    asked: Asked

    @property
    def status(self) -> int:
        assert self.asked.first is not None
        return self.asked.first["status"]

    @property
    def raw_headers(self) -> Sequence[tuple[bytes, bytes]]:
        assert self.asked.first is not None
        return self.asked.first["headers"]

    @property
    def headers(self) -> CIMultiDict[str]:
        return CIMultiDict((name.decode(), value.decode()) for name, value in self.raw_headers)

    @property
    def content_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0]

    @property
    def content(self) -> "HopResponse":
        return self

    def iter_any(self) -> AsyncIterator[bytes]:
        return self.asked.chunks()


@dataclass
class FleetReplica:
    edge: TierEdge
    load: EngineLoad
    reports: PrefixReports
    batch: FakeBatch
    connections: int = 0


@dataclass
class Fleet:
    """`replicas` of a tier; the setting is on or off from the begin."""

    replicas: int
    forward: bool
    kv_tokens: int = KV_TOKENS
    members: dict[str, FleetReplica] = field(default_factory=dict[str, FleetReplica])
    apps: dict[str, ASGIApp] = field(default_factory=dict[str, ASGIApp])
    _turn: int = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Fleet"]:
        for number in range(self.replicas):
            name = f"replica-{number}"
            self.members[name] = member = self._member(name)
            self.apps[f"http://{name}"] = member.reports.behind(member.edge)
        tasks = [
            asyncio.ensure_future(work)
            for member in self.members.values()
            for work in (member.batch.run(), member.reports.run())
        ]
        try:
            await asyncio.sleep(6.0)
            yield self
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _member(self, name: str) -> FleetReplica:
        async def addresses() -> Mapping[str, str]:
            return {other: f"http://{other}" for other in self.members if other != name}

        load = EngineLoad()
        meter = DemandMeter(T4_STEP, LearntLengths(512, 64), now_s, SLOTS)
        load.watch = meter
        limits = GateLimits(SLOTS, 64, 60.0, kv_tokens=self.kv_tokens)
        gate = Gate(limits, ServiceTime(2.0), now_s, meter)
        batch = FakeBatch(
            T4_STEP,
            256,
            self.kv_tokens,
            load,
            per_context_token_ms=T4_CONTEXT_TOKEN_MS,
            stream_interval=8,
            prefix_cache=FakePrefixCache.of(self.kv_tokens, enabled=True),
        )
        config = FakeEngineConfig(prefix_cache=True)
        settings = some_settings(max_body_bytes=1 << 20).model_copy(
            update={"prefixes": PrefixConfig(forward=self.forward)}
        )
        edge = an_edge(
            make_fake_app(batch, config, served_names=["chat"], max_model_len=8192),
            gate=gate,
            settings=settings,
            replica=name,
        )
        edge.forwarder._session = cast("Any", Hop(self.apps))
        reports = PrefixReports(
            name,
            SECRET.key,
            "/api/chat",
            now_s,
            addresses,
            edge.forwarder.status_of,
            replica_state(gate, lambda: False, lambda: load.prefix_queries > 0),
            lambda: gate.running_sequences + gate.queued_requests,
            lambda: int(self.kv_tokens / edge.reader.prompts.tokens(512)),
            lambda: edge.settings.prefixes.forward,
        )
        # The tier has been up for long.
        reports.load.observed_s = SETTLED_S
        edge.prefixes = PrefixForwarding(
            reports, gate, edge.forwarder, edge.metrics, lambda: edge.settings
        )
        return FleetReplica(edge, load, reports, batch)

    async def ask(self, messages: Sequence[Mapping[str, str]], tokens: int) -> tuple[float, str]:
        """Seconds to the first token, and the answer."""
        self._turn += 1
        members = [*self.members.items()]
        order = members[self._turn % len(members) :] + members[: self._turn % len(members)]
        name, member = min(order, key=lambda each: each[1].connections)
        body = {"messages": messages, "max_tokens": tokens, "ignore_eos": True, "stream": True}
        member.connections += 1
        began_s, first_s, text = now_s(), None, ""
        asked = Asked(
            self.apps[f"http://{name}"], "/api/chat/v1/chat/completions", json.dumps(body).encode()
        )
        try:
            await asked.started()
            async for chunk in asked.chunks():
                for line in chunk.splitlines():
                    if b'"content":"' in line:
                        first_s = now_s() - began_s if first_s is None else first_s
                        event: dict[str, Any] = json.loads(line[len(b"data: ") :])
                        text += event["choices"][0]["delta"]["content"]
        finally:
            member.connections -= 1
            await asked.leave()
        assert first_s is not None, asked.first
        return first_s, text


@dataclass
class FleetFigures:
    """What a run has shown, after its first seconds."""

    ttft_s: list[float]
    hit_rate: float
    balance: float
    balance_tokens: float
    forwarded: int

    @property
    def mean_ttft_s(self) -> float:
        return fmean(self.ttft_s)


async def play(
    replicas: int,
    *,
    forward: bool,
    users: int,
    seed: int = 0,
    turns: int = 5,
    prompt_tokens: int = 1500,
    think_s: float = 2.0,
    settle_s: float = 30.0,
    counts_s: float = 90.0,
) -> FleetFigures:
    """Users with one conversation after the other."""
    ttft_s: list[tuple[float, float]] = []
    async with Fleet(replicas, forward).running() as fleet:

        async def user(rng: random.Random) -> None:
            await asyncio.sleep(rng.random() * think_s)
            while True:
                messages = [{"role": "user", "content": _words(rng, prompt_tokens)}]
                for number in range(rng.randint(max(1, turns - 2), turns + 2)):
                    if number:
                        messages.append({"role": "user", "content": _words(rng, 60)})
                    sent_s = now_s()
                    first_s, text = await fleet.ask(messages, tokens=40)
                    ttft_s.append((sent_s, first_s))
                    messages.append({"role": "assistant", "content": text})
                    await asyncio.sleep(rng.expovariate(1 / think_s))

        tasks = [
            asyncio.ensure_future(user(random.Random(f"{seed} {number}")))
            for number in range(users)
        ]
        await asyncio.sleep(settle_s)
        before = {name: _tokens(each) for name, each in fleet.members.items()}
        began_s, running = now_s(), dict.fromkeys(fleet.members, 0.0)
        while now_s() - began_s < counts_s:
            await asyncio.sleep(LOOK_EVERY_S)
            for name, each in fleet.members.items():
                running[name] += each.edge.gate.running_sequences
        after = {name: _tokens(each) for name, each in fleet.members.items()}
        for task in tasks:
            if task.done():
                task.result()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        forwarded = sum(
            int(member.edge.metrics.relayed._value.get()) for member in fleet.members.values()
        )
    given = [after[name][0] - before[name][0] for name in after]
    found = sum(after[name][1] - before[name][1] for name in after)
    return FleetFigures(
        [first_s for sent_s, first_s in ttft_s if sent_s >= began_s],
        found / sum(given),
        _over_mean([*running.values()]),
        _over_mean(given),
        forwarded,
    )


def _tokens(member: FleetReplica) -> tuple[int, int]:
    return member.load.prefix_queries, member.load.prefix_hits


def _over_mean(loads: Sequence[float]) -> float:
    return max(loads) / fmean(loads)


def _words(rng: random.Random, tokens: int) -> str:
    """The fake engine has a token for four characters."""
    return " ".join(rng.choice(WORDS) for _ in range(tokens * 4 // 7))
