"""A request that would wait at a full replica runs at the one with room."""

import asyncio

from serve_app.core.tiers import Tier
from tests.e2e.client import ask, client_session, work
from tests.e2e.site import Site, wait_for

SLOTS = 8
# More than one sequence needs sampling.
LARGE = {"n": SLOTS, "temperature": 1.0}
SOON_S = 1.5


async def test_nothing_waits_while_another_replica_has_room(site: Site) -> None:
    """One request of as many sequences as a replica has slots fills one replica with a single
    connection, so HAProxy, which counts connections, goes on sending to it."""
    relayed = site.metrics_now().value("tierserve_relayed_total", tier="chat")
    async with client_session() as session:
        url = f"{site.url}/api/chat"
        large = asyncio.create_task(ask(session, url, work("all", 1500, stream=True, **LARGE)))
        await asyncio.to_thread(
            wait_for, lambda: site.tier(Tier.CHAT)["running"] == SLOTS, "one replica is full"
        )
        replies = await asyncio.gather(
            *(ask(session, url, work(f"{i}", 20, stream=i % 2 == 0)) for i in range(SLOTS))
        )
        assert not large.done(), "the full replica must stay full"
        large.cancel()
    assert [reply for reply in replies if not reply.served] == []
    assert max(reply.e2e_s for reply in replies) < SOON_S
    assert site.metrics_now().value("tierserve_relayed_total", tier="chat") > relayed


async def test_a_full_tier_refuses(site: Site) -> None:
    async with client_session() as session:
        url = f"{site.url}/api/chat"
        running = [
            asyncio.create_task(ask(session, url, work("all", 1500, stream=True, **LARGE)))
            for _ in range(2)
        ]
        await asyncio.to_thread(
            wait_for, lambda: site.tier(Tier.CHAT)["running"] == 2 * SLOTS, "both are full"
        )
        waiting = [
            asyncio.create_task(ask(session, url, work(f"{i}", 1, stream=False))) for i in range(12)
        ]
        done, _ = await asyncio.wait(waiting, timeout=SOON_S)
        assert {task.result().status for task in done} == {429}
        assert len(done) >= 12 - 2 * 4
        for task in [*running, *waiting]:
            task.cancel()
