"""The unified /v1: find the tier that `model` names, forward the request, stream the answer.

What a request goes through from there on is in `relay.py`. A stream whose tier says nothing yet, as
while its first replica starts, is kept alive by heartbeats.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, generate_latest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serve_app.api.access import CALLER
from serve_app.api.answer_deadline import MOST_DEADLINE_MS, AnswerDeadline, asked_deadline_ms
from serve_app.api.asgi import NOT_FORWARDED
from serve_app.api.client_connection import while_connected
from serve_app.api.forwarding import INTERNAL_HEADERS, ClusterSecret
from serve_app.api.gateway_request import GatewayRequest, RelayParts
from serve_app.api.kept_stream import KeptStream
from serve_app.api.kept_streams import (
    LAST_EVENT_ID_HEADER,
    RESUMABLE_HEADER,
    KeptStreams,
    last_event,
    resumed_by_get,
)
from serve_app.api.relay import Relay
from serve_app.api.replay_memory import ReplayMemory
from serve_app.api.replay_wire import JOURNAL_HEADER, RESUME_HEADER
from serve_app.api.request_body import BodyReader, parse_object
from serve_app.api.request_context import REQUEST_ID_HEADER, header, path_below_root
from serve_app.api.routes import GENERATING
from serve_app.api.upstream import Address, UpstreamPool
from serve_app.config.replay import ReplayConfig
from serve_app.core.access.caller import NOBODY
from serve_app.core.tiers import Tier
from serve_app.errors import ClientDisconnectedError, RequestError
from serve_app.telemetry import make_gateway_metrics

FORWARDED_PATHS = (*GENERATING, "/tokenize", "/detokenize", "/v1/messages/count_tokens")
_NOT_FORWARDED = (
    NOT_FORWARDED
    | INTERNAL_HEADERS
    | {JOURNAL_HEADER, RESUME_HEADER, RESUMABLE_HEADER, b"expect", b"te", b"trailer"}
)
_SSE_TYPE = {"content-type": "text/event-stream; charset=utf-8"}
_MIB = 1024 * 1024


def tier_of(model: object, tiers: Sequence[Tier]) -> Tier:
    """The tier named by `model`. Any other name goes to the first tier (chat), whose engine
    knows the served model's name and answers 404 for the rest."""
    return next((tier for tier in tiers if tier.value == model), tiers[0])


@dataclass(slots=True)
class Gateway:
    """ASGI application. `base_url` gives the address of this cluster's own proxy, which balances
    the replicas; `secret` is what they know this gateway by."""

    base_url: Callable[[], Awaitable[str]]
    tiers: Sequence[Tier]
    max_body_bytes: int
    heartbeat_s: float = 3.0
    body_timeout_s: float = 30.0
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    secret: ClusterSecret = field(default_factory=ClusterSecret)
    bodies: BodyReader = field(default_factory=BodyReader)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    pool: UpstreamPool = field(default_factory=UpstreamPool)
    clock_s: Callable[[], float] = time.monotonic
    hand_over_within_s: float = 5.0
    memory: ReplayMemory = field(init=False)
    kept_streams: KeptStreams = field(init=False)
    _parts: RelayParts = field(init=False)

    def __post_init__(self) -> None:
        self.memory = ReplayMemory(self.replay.max_journal_mib * _MIB)
        metrics = make_gateway_metrics(
            self.registry,
            [tier.value for tier in self.tiers],
            lambda: self.memory.kept_bytes,
        )
        self.kept_streams = kept = KeptStreams(self.replay, metrics.kept.results)
        metrics.kept.size_bytes.set_function(lambda: kept.memory.kept_bytes)
        metrics.kept.away.set_function(lambda: kept.away)
        self._parts = RelayParts(
            self._proxy,
            self.secret.key,
            self.replay,
            self.heartbeat_s,
            self.memory,
            metrics,
            self.pool,
            self.clock_s,
            self.hand_over_within_s,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the request to its tier and stream the answer through, chunk by chunk; where the
        client disconnects, end it. Raises RequestError where no response has begun."""
        if header(scope, LAST_EVENT_ID_HEADER):
            raise resumed_by_get(scope)
        request, body = await self._read(scope, receive)

        async def relay(to: Send, _: KeptStream | None = None) -> None:
            with self.memory.keeping() as kept:
                await Relay(self._parts, request, body, to, kept).run()

        # Nobody is there to be answered.
        with suppress(ClientDisconnectedError):
            async with while_connected(receive):
                if request.streams and header(scope, RESUMABLE_HEADER) == b"1":
                    await self.kept_streams.run(
                        relay,
                        send,
                        caller=scope.get(CALLER, NOBODY),
                        request_id=request.request_id,
                        tier=request.tier.value,
                    )
                else:
                    await relay(send)

    async def resume(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer `GET /v1/streams/{id}`. Raises RequestError where no response has begun."""
        request = Request(scope)
        after = last_event(scope, request.query_params.get("after"))
        caller = scope.get(CALLER, NOBODY)
        stream = self.kept_streams.find(request.path_params["id"], caller)
        if request.method == "HEAD":
            # It reads nothing, and so takes the stream from nobody.
            await Response(headers=_SSE_TYPE)(scope, receive, send)
            return
        with suppress(ClientDisconnectedError):
            async with while_connected(receive):
                await self.kept_streams.resume(stream, after, send)

    def metrics_text(self) -> str:
        """This gateway's metrics in Prometheus' text format."""
        return generate_latest(self.registry).decode()

    async def close(self) -> None:
        await self.kept_streams.close()
        self.pool.close()

    async def _read(self, scope: Scope, receive: Receive) -> tuple[GatewayRequest, bytes]:
        arrived_s = self.clock_s()
        try:
            body = await self.bodies.read(
                scope, receive, limit_bytes=self.max_body_bytes, timeout_s=self.body_timeout_s
            )
        except ClientDisconnectedError as error:
            raise RequestError(499, "The client left.", code="client_gone") from error
        payload = parse_object(body)
        tier, path = tier_of(payload.get("model"), self.tiers), path_below_root(scope)
        endpoint = GENERATING.get(path)
        deadline = None
        if endpoint is not None and (asked_ms := asked_deadline_ms(payload, scope)) is not None:
            # Its tier knows the bounds; no float is as large as a number may be.
            due_s = arrived_s + min(asked_ms, MOST_DEADLINE_MS) / 1e3
            deadline = AnswerDeadline(asked_ms, due_s, self.clock_s)
        request = GatewayRequest(
            tier,
            f"{tier.route_prefix}{path}",
            [each for each in scope["headers"] if each[0].lower() not in _NOT_FORWARDED],
            (header(scope, REQUEST_ID_HEADER) or b"").decode(),
            endpoint,
            streams=endpoint is not None and payload.get("stream") is True,
            deadline=deadline,
        )
        return request, body

    async def _proxy(self) -> Address:
        return _address(await self.base_url())


@lru_cache(maxsize=16)
def _address(base_url: str) -> Address:
    url = urlsplit(base_url)
    return Address(url.hostname or "127.0.0.1", url.port or 80)
