"""What one tier's replicas know of the other's limit."""

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from serve_app.core.tiers import Tier
from tests.api.test_forwarding import until

# Ray 2.60 itself gives pydantic this keyword when its config is imported.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Using extra keyword arguments on `Field`:DeprecationWarning"
)


def a_tier(tier: Tier, max_new_tokens: int) -> Any:
    edge = SimpleNamespace(settings=SimpleNamespace(max_new_tokens=max_new_tokens), reader=Reader())
    return SimpleNamespace(args=SimpleNamespace(tier=tier), edge=edge)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> dict[bytes, bytes]:
    """Ray's key-value store, of this test."""
    from serve_app.serving import tier_limits

    stored: dict[bytes, bytes] = {}
    monkeypatch.setattr(
        tier_limits,
        "kv_put",
        lambda key, value, namespace: stored.update({key: value}),
    )
    monkeypatch.setattr(tier_limits, "kv_get", lambda key, namespace: stored.get(key))
    return stored


@dataclass
class Reader:
    """Notes what it is given of the other tier's limit."""

    limits: list[int | None] = field(default_factory=list[int | None])

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "other_tiers_limit":
            self.limits.append(value)
        else:
            super().__setattr__(name, value)


async def exchanged_once(tier: Any) -> int | None:
    from serve_app.serving.tier_limits import exchange_limits

    exchanging = asyncio.create_task(exchange_limits(tier))
    await until(lambda: tier.edge.reader.limits)
    exchanging.cancel()
    return tier.edge.reader.limits[0]


async def test_each_tier_learns_the_others_limit(store: dict[bytes, bytes]) -> None:
    assert await exchanged_once(a_tier(Tier.CHAT, 100)) is None
    assert await exchanged_once(a_tier(Tier.REASONING, 2048)) == 100
    assert await exchanged_once(a_tier(Tier.CHAT, 100)) == 2048


async def test_where_the_store_does_not_answer_nothing_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from serve_app.serving import tier_limits

    def away(*_: Any, **__: Any) -> None:
        raise RuntimeError("the head is away")

    monkeypatch.setattr(tier_limits, "kv_put", away)
    tier = a_tier(Tier.CHAT, 100)
    assert await exchanged_once(tier) is None


def test_a_tier_that_has_reported_nothing_for_long_is_gone() -> None:
    from serve_app.serving.tier_limits import BELIEVED_S, believed

    reported = {"max_new_tokens": 2048, "at_s": 1000.0}
    assert believed(reported, 1000.0 + BELIEVED_S / 2) == 2048
    assert believed(reported, 1001.0 + BELIEVED_S) is None
