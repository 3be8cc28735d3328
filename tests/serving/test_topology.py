"""The other replicas of a tier, as Serve's controller knows them: asked once for all who ask."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from tests.api.test_forwarding import until

if TYPE_CHECKING:
    from serve_app.serving.topology import Peers

# Ray 2.60 itself gives pydantic this keyword when its config is imported.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Using extra keyword arguments on `Field`:DeprecationWarning"
)

TOPOLOGY = "serve_app.serving.topology"
ADDRESSES = {"own": "http://own", "other": "http://other"}


@dataclass
class Controller:
    """Answers once it is let."""

    answers: asyncio.Event = field(default_factory=asyncio.Event)
    fails: bool = False
    asked: int = 0

    async def __call__(self, app_name: str) -> Mapping[str, str]:
        self.asked += 1
        await self.answers.wait()
        if self.fails:
            from ray.exceptions import RayActorError

            raise RayActorError
        return ADDRESSES


@pytest.fixture
def controller(monkeypatch: pytest.MonkeyPatch) -> Controller:
    from serve_app.serving import topology

    controller = Controller()
    own = SimpleNamespace(replica_tag="own", app_name="chat")
    monkeypatch.setattr(topology, "replica_addresses", controller)
    monkeypatch.setattr(topology.serve, "get_replica_context", lambda: own)
    monkeypatch.setattr(topology, "ASK_LIMIT_S", 60.0)
    # None is old again within a test.
    monkeypatch.setattr(topology, "PEERS_REFRESH_S", 3600.0)
    return controller


@pytest.fixture
def peers(controller: Controller) -> "Peers":
    from serve_app.serving.topology import Peers

    return Peers()


async def test_all_who_ask_at_once_get_the_answer_of_one_read(
    controller: Controller, peers: "Peers"
) -> None:
    asking = [asyncio.ensure_future(peers()) for _ in range(5)]
    named = asyncio.ensure_future(peers.url_of("other"))
    await until(lambda: controller.asked)
    controller.answers.set()
    assert await asyncio.gather(*asking) == [["http://other"]] * 5
    assert await named == "http://other"
    assert await peers.url_of("own") is None
    assert controller.asked == 1


async def test_who_waits_reads_anew_where_the_first_one_gives_up(
    controller: Controller, peers: "Peers"
) -> None:
    first = asyncio.ensure_future(peers())
    await until(lambda: controller.asked == 1)
    second = asyncio.ensure_future(peers())
    await asyncio.sleep(0)
    first.cancel()
    await until(lambda: controller.asked == 2)
    controller.answers.set()
    assert await second == ["http://other"]


async def test_a_controller_that_fails_leaves_the_last_answer_and_is_not_asked_by_each(
    controller: Controller, peers: "Peers", monkeypatch: pytest.MonkeyPatch
) -> None:
    controller.answers.set()
    assert await peers() == ["http://other"]
    controller.fails = True
    monkeypatch.setattr(f"{TOPOLOGY}.PEERS_REFRESH_S", -1.0)
    assert await peers() == ["http://other"]
    assert controller.asked == 2
    monkeypatch.setattr(f"{TOPOLOGY}.PEERS_REFRESH_S", 3600.0)
    assert await asyncio.gather(*[peers() for _ in range(5)]) == [["http://other"]] * 5
    assert controller.asked == 2


async def test_a_controller_that_hangs_keeps_nobody_waiting(
    controller: Controller, peers: "Peers", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{TOPOLOGY}.ASK_LIMIT_S", 0.05)
    assert await asyncio.wait_for(peers(), 60) == []
    controller.answers.set()
    assert await peers() == []
    assert controller.asked == 1
