"""A client that goes away frees its place and is aborted in the engine within a second."""

import asyncio

import pytest

from serve_app.core.tiers import Tier
from tests.e2e.client import Reply, ask, client_session, work
from tests.e2e.machine_clock import clock_s
from tests.e2e.site import Site, wait_for

FREED_WITHIN_S = 1.0


def is_running(site: Site, tier: Tier) -> bool:
    load = site.load()
    return load[f"{tier} running"] > 0 and load[f"{tier} engine running"] > 0


async def leave_while_running(site: Site, path: str, body: dict[str, object], tier: Tier) -> float:
    """Start the request, leave once it runs; seconds until nothing is left of it."""
    async with client_session() as session:
        request = asyncio.create_task(ask(session, site.url + path, body))
        await asyncio.to_thread(wait_for, lambda: is_running(site, tier), "the request runs")
        request.cancel()
        left_s = clock_s()
        await asyncio.to_thread(wait_for, site.is_idle, "its place is free")
        return clock_s() - left_s


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("path", "model", "tier"),
    [
        ("/api/chat", "chat", Tier.CHAT),
        ("/api/reasoning/v1/chat/completions", "reasoning", Tier.REASONING),
        ("/v1/chat/completions", "reasoning", Tier.REASONING),
    ],
)
async def test_leaving_ends_the_work(
    site: Site, path: str, model: str, tier: Tier, stream: bool
) -> None:
    gone = site.metrics().value("tierserve_disconnected_total", tier=tier)
    body = work("Count to a thousand.", 900, stream=stream, model=model)
    assert await leave_while_running(site, path, body, tier) < FREED_WITHIN_S
    assert site.metrics().value("tierserve_disconnected_total", tier=tier) == gone + 1


async def test_leaving_the_line_never_runs(site: Site) -> None:
    slots = site.tier(Tier.CHAT)["slots"]
    async with client_session() as session:
        url = f"{site.url}/api/chat"
        running = [
            asyncio.create_task(ask(session, url, work(f"{i}", 200, stream=True)))
            for i in range(slots)
        ]
        await asyncio.to_thread(
            wait_for, lambda: site.tier(Tier.CHAT)["running"] == slots, "all slots busy"
        )
        waiting, seen = [], Reply()
        waiting.append(asyncio.create_task(ask(session, url, work("w", 200, stream=True), seen)))
        await asyncio.to_thread(
            wait_for, lambda: site.tier(Tier.CHAT)["queued"] == 1, "one request waits"
        )
        waiting[0].cancel()
        await asyncio.to_thread(
            wait_for, lambda: site.tier(Tier.CHAT)["queued"] == 0, "the line is empty", 1.0
        )
        for request in running:
            request.cancel()
    assert seen.chunks == 0
