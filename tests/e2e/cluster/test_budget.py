"""Three GPUs for two tiers: reasoning lends chat the one that it does not need, keeps its minimum,
and gets the GPU back. Nothing is lent by slots here, so that GPUs have to move."""

import asyncio

import aiohttp

from loadtest.servers.ray_nodes import RTX_4090, T4
from serve_app.core.tiers import Tier
from tests.e2e.client import Reply, ask, client_session, work
from tests.e2e.cluster.mixed import await_replicas, deploy, mixed_config
from tests.e2e.cluster.watch import Sight, watching
from tests.e2e.figures import keep_figures
from tests.e2e.machine_clock import clock_s
from tests.e2e.site import Site

TOKENS = 300
# Chat's clients are sent home in the end; its arrivals are forgotten at the pace of the slow mean
# (40 s), and reasoning's second burst outlasts that.
SHORT, LONG, CHAT_STREAMS = 24, 90, 60
WITHIN_S = 100.0


def test_a_gpu_goes_to_who_queues_and_back(site: Site) -> None:
    deploy(site, mixed_config(chat=(1, 3), reasoning=(1, 2), lend_share=0.0))
    await_replicas(site, chat=1, reasoning=1)
    asyncio.run(_to_and_fro(site))
    await_replicas(site, chat=1, reasoning=1)


async def _to_and_fro(site: Site) -> None:
    async with client_session() as session, watching(session, site.url) as watch:

        async def until(chat: int, reasoning: int) -> tuple[float, Sight]:
            began_s = clock_s()
            sight = await watch.first(
                f"{chat} replicas of chat and {reasoning} of reasoning",
                lambda now: (
                    (len(now.names(Tier.CHAT)), len(now.names(Tier.REASONING))) == (chat, reasoning)
                ),
                within_s=WITHIN_S,
            )
            return round(sight.at_s - began_s, 1), sight

        reasoning = burst(session, site, Tier.REASONING, SHORT)
        taken_s, now = await until(chat=1, reasoning=2)
        taken = [*now.accelerator_types(Tier.CHAT), *now.accelerator_types(Tier.REASONING)]
        assert sorted(taken) == [RTX_4090, RTX_4090, T4], "every GPU is in use"
        assert lost(await asyncio.gather(*reasoning)) == []
        chat = burst(session, site, Tier.CHAT, CHAT_STREAMS)
        handed_over_s, _ = await until(chat=2, reasoning=1)
        assert any("another tier scales down" in sight.reason(Tier.CHAT) for sight in watch.sights)
        reasoning = burst(session, site, Tier.REASONING, LONG)
        await asyncio.sleep(2.0)
        for stream in chat:
            stream.cancel()
        handed_back_s, _ = await until(chat=1, reasoning=2)
        assert lost(await asyncio.gather(*reasoning)) == []
        keep_figures(
            "budget",
            taken_s=taken_s,
            handed_over_s=handed_over_s,
            handed_back_s=handed_back_s,
        )
        assert all(sight.wanted(Tier.REASONING) >= 1 for sight in watch.sights)
        assert all(
            sight.wanted(Tier.CHAT) + sight.wanted(Tier.REASONING) <= 3 for sight in watch.sights
        )


def burst(
    session: aiohttp.ClientSession, site: Site, tier: Tier, streams: int
) -> list[asyncio.Task[Reply]]:
    url = site.url + tier.route_prefix
    return [
        asyncio.create_task(ask(session, url, work(f"{tier} {i}", TOKENS, stream=True)))
        for i in range(streams)
    ]


def lost(replies: list[Reply]) -> list[tuple[int, str]]:
    return [(reply.status, reply.fault) for reply in replies if not reply.served]
