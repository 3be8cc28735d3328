"""A client of the web application, in front of fake tiers."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx

from serve_app.api.access import AccessDesk
from serve_app.api.gateway import Gateway
from serve_app.api.status import DeploymentState, Kept, Report
from serve_app.api.web_app import make_web_app
from serve_app.core.scaling.decision_record import ScalingRecord
from serve_app.core.tiers import Tier

Said = TypeVar("Said")
BOTH = (Tier.CHAT, Tier.REASONING)


@dataclass
class FakeTiers:
    """What Serve would say of the tiers."""

    replicas: Mapping[Tier, Sequence[Mapping[str, Any]]] = field(
        default_factory=lambda: {tier: [a_replica()] for tier in BOTH}
    )
    texts: Mapping[Tier, Mapping[str, str]] = field(default_factory=dict)
    gateway_texts: Mapping[str, str] = field(default_factory=dict)
    # Replicas that run, where it is not those that have said something.
    running: int | None = None
    # Seconds that all of them are late.
    late_s: float = 0.0

    async def state(self, tier: Tier, max_age_s: float = 0.0) -> DeploymentState:
        running = len(self.replicas[tier]) if self.running is None else self.running
        return DeploymentState("HEALTHY", "", running, 3)

    async def reports(self, tier: Tier) -> Sequence[Kept[Report]]:
        return [self._kept(report) for report in self.replicas[tier]]

    async def schemas(self) -> Mapping[str, Mapping[str, Any]]:
        return {}

    async def scaling(self, tier: Tier) -> ScalingRecord | None:
        return None

    async def metrics(self, tier: Tier) -> Mapping[str, Kept[str]]:
        return {name: self._kept(text) for name, text in self.texts.get(tier, {}).items()}

    async def gateways(self) -> Mapping[str, Kept[str]]:
        return {name: self._kept(text) for name, text in self.gateway_texts.items()}

    def _kept(self, said: Said) -> Kept[Said]:
        return Kept(said, self.late_s, stale=self.late_s > 0)


def a_replica(**changed: Any) -> dict[str, Any]:
    return {
        "replica": "r1",
        "ready": True,
        "model": "org/model",
        "settings": {"max_new_tokens": 1024, "sampling": {}},
        "running": 2,
        "lent": 0,
        "borrowed": 0,
        "queued": 1,
        "queue_depth": 1,
        "slots": 8,
        "max_queued_requests": 4,
        "max_model_len": 4096,
        "output_tokens_per_s": 50.0,
        "expected_wait_s": 1.5,
    } | changed


@asynccontextmanager
async def a_client(
    source: FakeTiers | None = None,
    *,
    upstream: str = "",
    max_body_bytes: int = 1024,
    heartbeat_s: float = 3.0,
    access: AccessDesk | None = None,
) -> AsyncIterator[httpx.AsyncClient]:
    async def base_url() -> str:
        return upstream

    gateway = Gateway(base_url, BOTH, max_body_bytes, heartbeat_s)
    app = make_web_app(BOTH, source or FakeTiers(), gateway, access=access)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://web") as client:
        yield client
    await gateway.close()
