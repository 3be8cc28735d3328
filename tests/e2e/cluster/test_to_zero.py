"""Requests to a tier that has no replica are held until one is up; an idle tier goes to zero. The
first that starts is vLLM on the CPU, behind a GPU that only Ray believes in."""

import asyncio
from typing import Any

import aiohttp

from loadtest.servers.random_model import make_random_qwen2
from serve_app.core.placement.hardware import CPU
from serve_app.core.placement.labels import ACCELERATOR_LABEL
from serve_app.core.tiers import Tier
from tests.e2e.client import Reply, ask, client_session, work
from tests.e2e.cluster.mixed import (
    FAKE,
    await_replicas,
    deploy,
    mixed_config,
    node_labels,
    ready,
)
from tests.e2e.figures import keep_figures
from tests.e2e.machine_clock import clock_s
from tests.e2e.site import POLL_S, Site, wait_for

# As many as a replica runs and lets wait: 8 and 4.
SLOTS, QUEUED = 8, 4
TOKENS = 20
ROUTED_WITHIN_S, IDLE_WITHIN_S = 30.0, 150.0


def from_zero(engine: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Chat on this engine, with one replica at most."""
    config = mixed_config(chat=(0, 1), reasoning=(2, 2), slots=SLOTS, engine=engine, **more)
    (chat,) = (app for app in config["applications"] if app["name"] == Tier.CHAT)
    (deployment,) = chat["deployments"]
    deployment["user_config"]["admission"]["max_queued_requests"] = QUEUED
    deployment["autoscaling_config"] |= {"initial_replicas": 0, "downscale_delay_s": 0}
    return config


def deploy_from_zero(site: Site, config: dict[str, Any]) -> None:
    deploy(site, config)
    wait_for(lambda: app_status(site, Tier.CHAT) == "RUNNING", "chat is deployed")
    await_replicas(site, chat=0, reasoning=2)


def app_status(site: Site, tier: Tier) -> str:
    """Of the tier's application; empty where Serve does not know it yet."""
    app = site.cluster.api.status().get(tier)
    return app.status if app else ""


async def ask_once_routed(session: aiohttp.ClientSession, url: str, body: object) -> Reply:
    """HAProxy learns of a new application a moment after Serve: until then `/` answers with 404."""
    deadline_s = clock_s() + ROUTED_WITHIN_S
    while True:
        reply = await ask(session, url, body)
        if reply.status != 404 or clock_s() > deadline_s:
            return reply
        await asyncio.sleep(POLL_S)


async def test_a_stream_gets_heartbeats_until_vllm_is_up_and_says_where_it_runs(site: Site) -> None:
    deploy(site, mixed_config(reasoning=(2, 2)))
    await_replicas(site, chat=1, reasoning=2)
    deploy_from_zero(site, from_zero({"cpu_slice": "0/2"}, model=str(make_random_qwen2())))
    usage = {"include_usage": True}
    body = work("hi", TOKENS, stream=True, model="chat", stream_options=usage)
    async with client_session() as session:
        held = await ask_once_routed(session, f"{site.url}/v1/chat/completions", body)
    assert_held(held)
    (replica,) = ready(site, Tier.CHAT)
    assert replica["engine"] == "vllm"
    # Which GPU is left depends on what reasoning has taken.
    labels = node_labels(site)[replica["node"]]
    assert replica["accelerator_type"] == labels[ACCELERATOR_LABEL]
    assert replica["gpu_ids"] == ["0"]
    assert replica["hardware"] == CPU.name
    (line,) = (
        text
        for file in site.cluster.log_dir.glob("worker-*.out")
        for text in file.read_text().splitlines()
        if "this vLLM computes on the CPU" in text
    )
    assert '"level": "WARNING"' in line


def assert_held(held: Reply) -> None:
    assert held.served
    assert held.completion_tokens == TOKENS
    assert held.text.startswith(": waiting for a replica\n\n")
    # Its head comes with the first of them, long before an engine has started.
    assert held.headers_s - held.sent_s < held.ttft_s / 2
    beats = held.text.count(": waiting for a replica")
    assert beats >= 2
    keep_figures("to zero, stream", ttft_s=round(held.ttft_s, 1), heartbeats=beats)


def test_a_tier_that_nobody_asks_goes_back_to_zero(site: Site) -> None:
    """It waits until the next request has become unlikely, by what came before."""
    idle_s = wait_for(lambda: site.tier(Tier.CHAT)["replicas_wanted"] == 0, "zero", IDLE_WITHIN_S)
    scaling = site.tier(Tier.CHAT)["scaling"]
    assert scaling["last"][0]["replicas_wanted"] == 0
    keep_figures("to zero, idle", idle_s=round(idle_s, 1))


async def test_whole_answers_wait_for_a_replica_and_none_is_lost(site: Site) -> None:
    deploy_from_zero(site, from_zero({"fake": FAKE}))
    async with client_session() as session:
        url = f"{site.url}/api/chat"
        bodies = (work(f"{i}", TOKENS, stream=False) for i in range(SLOTS + QUEUED))
        replies = await asyncio.gather(*(ask_once_routed(session, url, body) for body in bodies))
    assert [reply for reply in replies if not reply.served] == []
    slowest_s = max(reply.e2e_s for reply in replies)
    keep_figures("to zero, whole answers", requests=SLOTS + QUEUED, slowest_s=round(slowest_s, 1))
