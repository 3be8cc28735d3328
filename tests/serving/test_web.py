"""What web asks Serve for: once for all tiers, and not again while an older answer will do."""

import asyncio
import threading
from typing import Any

import pytest

from serve_app.core.tiers import Tier

# Ray 2.60 itself gives pydantic this keyword when its config is imported.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Using extra keyword arguments on `Field`:DeprecationWarning"
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The threads in which Serve was asked; no application is deployed."""
    from ray import serve
    from ray.serve.schema import ServeStatus

    threads: list[str] = []

    def status() -> ServeStatus:
        threads.append(threading.current_thread().name)
        return ServeStatus()

    monkeypatch.setattr(serve, "status", status)
    return threads


def serve_tiers() -> Any:
    from serve_app.serving.web import ServeTiers

    return ServeTiers(timeout_s=20.0, keep_s=20.0)


async def test_both_tiers_are_one_question_and_it_holds_up_no_request(asked: list[str]) -> None:
    tiers = serve_tiers()
    states = await asyncio.gather(*(tiers.state(tier) for tier in Tier))
    assert [state.status for state in states] == ["NOT_DEPLOYED"] * len(Tier)
    assert len(asked) == 1
    assert threading.current_thread().name not in asked


async def test_an_older_answer_is_given_only_to_who_takes_one(asked: list[str]) -> None:
    tiers = serve_tiers()
    await tiers.state(Tier.CHAT, 60.0)
    await tiers.state(Tier.REASONING, 60.0)
    assert len(asked) == 1
    await tiers.state(Tier.CHAT)
    assert len(asked) == 2
    await tiers.state(Tier.CHAT, 1e-9)
    assert len(asked) == 3
