"""A T4 overlay's Pods, run by hand: each by its own command, variables, user, volumes and probes,
in namespaces of its own. Real Ray, HAProxy, Redis and vLLM; in its GPUs only Ray believes.

Left out: the autoscaler's sidecar (there is no API server), NetworkPolicy, the kinds of clouds.
"""

import asyncio
from pathlib import Path

import httpx
import psutil
import pytest

from serve_app.core.tiers import Tier
from tests.e2e.aftermath import break_under_load, is_refusal
from tests.e2e.client import ask, client_session, work
from tests.k8s.pods.operator import Operator, serve_config, wait_for
from tests.k8s.pods.site import LONG_STREAM_TOKENS
from tests.k8s.pods.watch import (
    address,
    answers,
    engines,
    is_running,
    keep,
    replica_pod,
    tier,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

RELOAD_WITHIN_S = 10.0
NEW_WORKER_WITHIN_S = 240.0
NEW_HEAD_WITHIN_S = 120.0
STREAMS = {Tier.REASONING: 2}
PROBES_PER_S = 4.0


def test_every_pod_runs_as_its_security_context_says(site: Operator) -> None:
    for pod in site.pods.values():
        for process in pod.main.processes():
            status = _status(process)
            assert status["Uid"].split() == ["1000"] * 4
            assert status["Gid"].split() == ["100"] * 4
            assert status["CapEff"] == status["CapBnd"] == "0" * 16
            assert status["NoNewPrivs"] == "1"
        for path in ("/", "/opt", "/usr", "/etc"):
            assert not pod.main.execute(["touch", f"{path}/x"], timeout_s=10)
        assert pod.main.execute(["touch", "/tmp/x", "/home/scratch/x"], timeout_s=10)


def test_the_gateway_runs_beside_no_gpu(site: Operator) -> None:
    assert replica_pod(site, "web") == "web-0"
    assert {replica_pod(site, name) for name in Tier} == {"t4-0", "t4-1"}


async def test_a_chat_streams(site: Operator) -> None:
    messages = [{"role": "user", "content": "What is 2+3?"}]
    body = {"model": "chat", "messages": messages, "stream": True}
    async with client_session() as session:
        reply = await ask(session, f"{address(site)}/api/chat/v1/chat/completions", body)
    assert reply.served, reply
    assert reply.chunks > 3
    assert reply.headers["x-accel-buffering"] == "no"


def test_what_prometheus_scrapes_is_there(site: Operator) -> None:
    for role, pod in site.pods.items():
        page = httpx.get(f"http://{pod.address}:8080/metrics", timeout=10).text
        assert "ray_" in page, role
    assert "tierserve_replica_up" in httpx.get(f"{address(site)}/metrics", timeout=10).text


async def test_user_config_reloads_in_place_under_a_stream(site: Operator) -> None:
    config = serve_config(site.manifests)
    chat = next(each for each in config["applications"] if each["name"] == Tier.CHAT)
    chat["deployments"][0]["user_config"]["max_new_tokens"] = 16
    before = engines(site)
    async with client_session() as session:
        stream = asyncio.create_task(
            ask(session, address(site) + "/api/reasoning", work("long", 1500, stream=True))
        )
        await asyncio.sleep(1)
        assert not stream.done()
        await asyncio.to_thread(site.submit, config)
        took_s = await asyncio.to_thread(
            wait_for,
            lambda: tier(site, Tier.CHAT)["max_new_tokens"] == 16,
            "the new limit holds",
            RELOAD_WITHIN_S,
        )
        short = await ask(session, address(site) + "/api/chat", work("x", 64, stream=False))
        assert short.status == 400, short
        assert (await stream).served
    assert engines(site) == before
    keep("reload", seconds=took_s)
    site.submit(serve_config(site.manifests))
    wait_for(lambda: tier(site, Tier.CHAT)["max_new_tokens"] == 1024, "back", RELOAD_WITHIN_S)


async def test_a_killed_worker_is_replaced(site: Operator) -> None:
    role = replica_pod(site, Tier.CHAT)
    victim, other = site.pods[role], site.pods[replica_pod(site, Tier.REASONING)]
    kept = engines(site)[other.name]

    def is_back() -> bool:
        new = site.pods[role]
        return new is not victim and new.ready and answers(site, Tier.CHAT)

    aftermath = await break_under_load(
        # A stream that came in by the killed Pod ends with it.
        lambda: f"http://{other.address}:8000",
        victim.kill,
        is_back,
        within_s=NEW_WORKER_WITHIN_S,
        streams=STREAMS,
        probes_per_s=PROBES_PER_S,
    )
    keep("worker with chat killed", **aftermath.figures())
    assert aftermath.cut(Tier.REASONING) == 0
    assert not aftermath.failed(Tier.REASONING), aftermath.ends(Tier.REASONING)
    # Chat has no replica meanwhile: its requests wait, and beyond those that may they are refused.
    refused = [reply for reply in aftermath.failed(Tier.CHAT) if not is_refusal(reply)]
    assert not refused, aftermath.ends(Tier.CHAT)
    assert engines(site)[other.name] == kept


async def test_a_deleted_worker_hands_over(site: Operator) -> None:
    role = replica_pod(site, Tier.REASONING)
    leaving = site.pods[role]

    def is_back() -> bool:
        new = site.pods[role]
        return bool(leaving.failed) and new is not leaving and new.ready

    aftermath = await break_under_load(
        lambda: address(site),
        lambda: site.delete(role),
        is_back,
        within_s=NEW_WORKER_WITHIN_S,
        streams=STREAMS,
        stream_tokens=LONG_STREAM_TOKENS,
        probes_per_s=PROBES_PER_S,
    )
    keep("worker with reasoning deleted", **aftermath.figures())
    assert leaving.failed == "ended by itself"
    for name in Tier:
        assert aftermath.cut(name) == 0
        assert not aftermath.failed(name), aftermath.ends(name)


async def test_the_heads_death_is_not_noticed(site: Operator) -> None:
    victim, before = site.head, engines(site)

    def is_back() -> bool:
        return site.head is not victim and site.head.ready and is_running(site)

    aftermath = await break_under_load(
        lambda: address(site),
        victim.kill,
        is_back,
        within_s=NEW_HEAD_WITHIN_S,
        streams=STREAMS,
        stream_tokens=LONG_STREAM_TOKENS,
        probes_per_s=PROBES_PER_S,
    )
    keep("head killed", **aftermath.figures())
    for name in Tier:
        assert aftermath.cut(name) == 0
        assert not aftermath.failed(name), aftermath.ends(name)
    assert engines(site) == before


def _status(process: psutil.Process) -> dict[str, str]:
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
