"""A replica that is taken away ends its streams first, or hands over those without a client."""

import asyncio
import re

import aiohttp

from serve_app.core.tiers import Tier
from serve_app.local.profiles import with_http_port
from tests.e2e.client import ask, client_session, work
from tests.e2e.configs import small_model_config
from tests.e2e.site import Site, drain_lines, wait_for

STREAMS = 4
# Of them one at least is at the replica that drains: HAProxy gives the next to whoever has fewer.
RESUMABLE, RESUMABLE_TOKENS = 2, 1500


async def test_two_replicas_to_one_cuts_no_stream(site: Site) -> None:
    url = f"{site.url}/api/chat"
    async with client_session() as session:
        streams = [
            asyncio.create_task(ask(session, url, work(f"{i}", 3000, stream=True)))
            for i in range(STREAMS)
        ]
        left = [
            await session.post(
                url,
                json=work(f"r {i}", RESUMABLE_TOKENS, stream=True),
                headers={"x-tierserve-resumable": "1"},
            )
            for i in range(RESUMABLE)
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
        await asyncio.gather(*(assert_got_back(session, url, answer) for answer in left))
        ends = await asyncio.gather(*streams)
    assert [reply for reply in [*ends, *probes] if not reply.served] == []
    wait_for(lambda: site.tier(Tier.CHAT)["replicas_running"] == 1, "one replica is left", 60)
    (line,) = drain_lines(site.cluster.log_dir)
    assert line["limit_s"] > 5
    assert "tokens at" in line["why"]


async def assert_got_back(
    session: aiohttp.ClientSession, url: str, answer: aiohttp.ClientResponse
) -> None:
    """The client leaves a stream behind its first event, and asks whichever replica HAProxy selects
    now for the rest, as often as it is told to."""
    assert answer.status == 200
    stream_id = answer.headers["x-tierserve-stream-id"]
    text = (await answer.content.readuntil(b"\n\n")).decode()
    answer.close()
    while not text.endswith("data: [DONE]\n\n"):
        last = {"last-event-id": str(len(numbers_in(text)))}
        async with session.get(f"{url}/streams/{stream_id}", headers=last) as again:
            rest = await again.text()
            assert again.status == 200, rest
            assert "id: " in rest
            text += rest
    numbers = numbers_in(text)
    assert numbers == list(range(1, len(numbers) + 1))
    assert '"error"' not in text


def numbers_in(text: str) -> list[int]:
    return [int(each) for each in re.findall(r"^id: (\d+)$", text, re.MULTILINE)]
