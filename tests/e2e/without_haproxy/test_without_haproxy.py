"""Through Serve's own proxy all of it works as well, slower."""

import asyncio
from collections.abc import Iterator

import pytest

from serve_app.core.tiers import Tier
from serve_app.local.cluster import LocalCluster
from tests.e2e.client import ask, client_session, work
from tests.e2e.configs import small_model_config
from tests.e2e.site import Site, assert_in_time, site_of, wait_for

START_LIMIT_S = 300.0
SLOTS, QUEUED = 2, 4
FREED_WITHIN_S = 1.0
TOKENS = 30


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with LocalCluster(haproxy=False) as cluster:
        cluster.deploy(small_model_config(chat_slots=SLOTS), timeout_s=START_LIMIT_S)
        with site_of(cluster) as running:
            yield running


def test_both_tiers_are_ready(site: Site) -> None:
    assert site.get("/readyz").status_code == 200
    for tier in Tier:
        assert site.tier(tier)["ready"]
    assert site.metrics_now().value("tierserve_replica_up") == len(Tier)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "path", ["/api/chat", "/api/reasoning/v1/chat/completions", "/v1/chat/completions"]
)
async def test_each_route_answers(site: Site, path: str, stream: bool) -> None:
    model = "reasoning" if "reasoning" in path else "chat"
    async with client_session() as session:
        usage = {"stream_options": {"include_usage": True}} if stream else {}
        body = work("hi", TOKENS, stream=stream, model=model, **usage)
        reply = await ask(session, site.url + path, body)
    assert reply.served
    assert len(reply.headers.getall("x-request-id")) == 1
    assert reply.completion_tokens == TOKENS
    if stream:
        assert reply.chunks > TOKENS / 2


def test_a_clients_fault_is_its_own(site: Site) -> None:
    answer = site.post("/api/chat", {"prompt": "hi", "max_tokens": 99999})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "max_tokens"


async def test_a_full_tier_refuses_and_those_who_leave_make_room(site: Site) -> None:
    await assert_in_time(lambda: fill_and_leave(site), FREED_WITHIN_S)


async def fill_and_leave(site: Site) -> float:
    """Seconds until those who waited have the places of those who left."""
    async with client_session() as session:
        url = f"{site.url}/api/chat"
        running = [
            asyncio.create_task(ask(session, url, work(f"{i}", 3000, stream=i == 0)))
            for i in range(SLOTS)
        ]
        await asyncio.to_thread(
            wait_for, lambda: site.tier(Tier.CHAT)["running"] == SLOTS, "all slots busy"
        )
        waiting = [
            asyncio.create_task(ask(session, url, work(f"w {i}", 1, stream=True)))
            for i in range(QUEUED)
        ]
        await asyncio.to_thread(
            wait_for, lambda: site.tier(Tier.CHAT)["queued"] == QUEUED, "the line is full"
        )
        for stream in (True, False):
            refused = await ask(session, url, work("one more", 1, stream=stream))
            assert refused.status == 429
            assert int(refused.headers["retry-after"]) >= 1
        for task in running:
            task.cancel()
        freed_s = await asyncio.to_thread(
            wait_for, lambda: site.tier(Tier.CHAT)["queued"] == 0, "their places are free"
        )
        assert all(reply.served for reply in await asyncio.gather(*waiting))
    await asyncio.to_thread(wait_for, site.is_idle, "nothing is left")
    return freed_s
