"""A replica that is taken away ends its streams first."""

import asyncio

from serve_app.core.tiers import Tier
from serve_app.local.profiles import with_http_port
from tests.e2e.client import ask, client_session, work
from tests.e2e.configs import small_model_config
from tests.e2e.site import Site, drain_lines, wait_for

STREAMS = 4


async def test_two_replicas_to_one_cuts_no_stream(site: Site) -> None:
    url = f"{site.url}/api/chat"
    async with client_session() as session:
        streams = [
            asyncio.create_task(ask(session, url, work(f"{i}", 3000, stream=True)))
            for i in range(STREAMS)
        ]
        await asyncio.to_thread(
            wait_for,
            lambda: all(replica["running"] for replica in site.tier(Tier.CHAT)["replicas"]),
            "both replicas run streams",
        )
        fewer = small_model_config(chat_replicas=1)
        await asyncio.to_thread(site.cluster.api.deploy, with_http_port(fewer, site.cluster.port))
        await asyncio.to_thread(
            wait_for, lambda: len(drain_lines(site.cluster.log_dir)) == 1, "one replica drains", 20
        )
        assert not any(stream.done() for stream in streams), "streams must span the change"
        probes = [await ask(session, url, work(f"p {i}", 1, stream=False)) for i in range(20)]
        ends = await asyncio.gather(*streams)
    assert [reply for reply in [*ends, *probes] if not reply.served] == []
    wait_for(lambda: site.tier(Tier.CHAT)["replicas_running"] == 1, "one replica is left", 60)
    (line,) = drain_lines(site.cluster.log_dir)
    assert line["limit_s"] > 5
    assert "tokens at" in line["why"]
