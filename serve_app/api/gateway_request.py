"""A request as the gateway sends it to its tier, and what all of them share."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from serve_app.api.answer_deadline import AnswerDeadline
from serve_app.api.replay_memory import ReplayMemory
from serve_app.api.routes import Endpoint
from serve_app.api.upstream import Address, Headers, UpstreamPool
from serve_app.config.replay import ReplayConfig
from serve_app.core.tiers import Tier
from serve_app.telemetry import GatewayMetrics


@dataclass(frozen=True, slots=True)
class GatewayRequest:
    """A request as its tier gets it. `endpoint` is None where it generates nothing; `streams`: its
    answer is a stream of events; `deadline`: when that is to be complete."""

    tier: Tier
    path: str
    headers: Headers
    request_id: str
    endpoint: Endpoint | None = None
    streams: bool = False
    deadline: AnswerDeadline | None = None


@dataclass(frozen=True, slots=True)
class RelayParts:
    """What all requests of a gateway share. `proxy` is where this cluster's proxy listens, `key`
    the cluster's. Whoever has room for a stream that is handed over answers within
    `hand_over_within_s`: Ray's own proxy keeps requests while it knows of no replica, and meanwhile
    the stream stands still where it runs."""

    proxy: Callable[[], Awaitable[Address]]
    key: bytes
    settings: ReplayConfig
    heartbeat_s: float
    memory: ReplayMemory
    metrics: GatewayMetrics
    pool: UpstreamPool = field(default_factory=UpstreamPool)
    clock_s: Callable[[], float] = time.monotonic
    hand_over_within_s: float = 5.0
