"""Requests to a tier that has no replica are held until one is up; an idle tier goes to zero."""

import asyncio
from collections.abc import Iterator

import pytest

from serve_app.core.tiers import Tier
from serve_app.local.cluster import LocalCluster
from tests.e2e.client import ask, client_session, work
from tests.e2e.configs import small_model_config
from tests.e2e.figures import keep_figures
from tests.e2e.site import Site, site_of, wait_for

START_LIMIT_S = 300.0
# As many as a replica runs and lets wait: 8 and 4.
REQUESTS = 12
IDLE_WITHIN_S = 150.0
# A machine that starts an engine is slow, and a head that is late must not look like none.
HEARTBEAT_S = 1.0


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    config = small_model_config()
    for app in config["applications"]:
        if app["name"] == "web":
            app["args"]["heartbeat_s"] = HEARTBEAT_S
        if app["name"] in list(Tier):
            app["deployments"][0]["autoscaling_config"] |= {
                "min_replicas": 0,
                "initial_replicas": 0,
                "max_replicas": 1,
            }
    with LocalCluster() as cluster:
        # Not /readyz: no tier is ready before it is asked.
        cluster.deploy(config, ready_path="/healthz", timeout_s=START_LIMIT_S)
        with site_of(cluster) as site:
            yield site


async def test_a_stream_gets_heartbeats_until_a_replica_is_up_and_is_then_answered(
    site: Site,
) -> None:
    body = work("hi", 20, stream=True, model="chat")
    async with client_session() as session:
        held = await ask(session, f"{site.url}/v1/chat/completions", body)
    assert held.served
    assert held.text.startswith(": waiting for a replica\n\n")
    # Its head comes with the first of them, long before an engine has started.
    assert held.headers_s - held.sent_s < held.ttft_s / 2
    beats = held.text.count(": waiting for a replica")
    assert beats >= 2
    keep_figures("to zero, stream", ttft_s=round(held.ttft_s, 1), heartbeats=beats)


async def test_whole_answers_wait_for_a_replica_and_none_is_lost(site: Site) -> None:
    async with client_session() as session:
        url = f"{site.url}/api/reasoning"
        replies = await asyncio.gather(
            *(ask(session, url, work(f"{i}", 20, stream=False)) for i in range(REQUESTS))
        )
    assert [reply for reply in replies if not reply.served] == []
    slowest_s = max(reply.e2e_s for reply in replies)
    keep_figures("to zero, whole answers", requests=REQUESTS, slowest_s=round(slowest_s, 1))


def test_a_tier_that_nobody_asks_goes_back_to_zero(site: Site) -> None:
    """It waits until the next request has become unlikely, by what came before."""
    idle_s = wait_for(lambda: site.tier(Tier.CHAT)["replicas_wanted"] == 0, "zero", IDLE_WITHIN_S)
    scaling = site.tier(Tier.CHAT)["scaling"]
    assert scaling["last"][0]["replicas_wanted"] == 0
    keep_figures("to zero, idle", idle_s=round(idle_s, 1))
