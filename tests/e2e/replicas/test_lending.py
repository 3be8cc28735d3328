"""A full tier borrows idle slots of the other one, which go back when they are not needed."""

import asyncio
from collections.abc import Iterator
from statistics import median, quantiles

import pytest

from serve_app.core.tiers import Tier
from serve_app.local.profiles import with_http_port
from tests.e2e.client import Reply, ask, client_session, work
from tests.e2e.configs import small_model_config
from tests.e2e.figures import keep_figures
from tests.e2e.machine_clock import clock_s
from tests.e2e.site import Site, wait_for

CHAT_SLOTS = 1
REASONING_SLOTS = 8
LENT = REASONING_SLOTS // 2
# At each replica of chat; small_model_config says so.
WAITING = 4
TOKENS = 600
SOON_S = 1.5
BURST_REQUESTS = 40
BURST_S = 8.0


@pytest.fixture
def lending_site(site: Site) -> Iterator[Site]:
    """Chat has one slot in each of its two replicas; reasoning lends it half of its eight."""
    deploy(site, chat_slots=CHAT_SLOTS, lend_share=0.5)
    yield site
    deploy(site, chat_slots=8, lend_share=0.0)


def deploy(site: Site, *, chat_slots: int, lend_share: float) -> None:
    config = small_model_config(chat_replicas=2, chat_slots=chat_slots, lend_share=lend_share)
    site.cluster.api.deploy(with_http_port(config, site.cluster.port))
    wait_for(lambda: site.tier(Tier.CHAT)["slots"] == 2 * chat_slots, "chat's slots")
    wait_for(lambda: lend_shares(site) == {lend_share}, "the share that is lent")


def lend_shares(site: Site) -> set[float | None]:
    settings = [site.tier(tier)["settings"] for tier in Tier]
    return {found and found["admission"]["lend_share"] for found in settings}


async def test_a_flooded_tier_borrows_and_the_lender_still_starts_its_own_at_once(
    lending_site: Site,
) -> None:
    site = lending_site
    before = site.metrics_now()
    async with client_session() as session:
        flood = [
            asyncio.create_task(
                ask(session, f"{site.url}/api/chat", work(f"{i}", TOKENS, stream=i % 2 == 0))
            )
            for i in range(2 * (CHAT_SLOTS + WAITING))
        ]
        await asyncio.to_thread(
            wait_for, lambda: site.tier(Tier.REASONING)["lent"] == LENT, "half is lent"
        )
        assert site.tier(Tier.CHAT)["borrowed"] == LENT
        own = [
            await ask(session, f"{site.url}/api/reasoning", work(f"own {i}", 1, stream=True))
            for i in range(10)
        ]
        assert site.tier(Tier.REASONING)["lent"] == LENT, "the flood must outlast the probes"
        served = await asyncio.gather(*flood)
    assert [reply for reply in [*served, *own] if not reply.served] == []
    assert max(reply.ttft_s for reply in own) < SOON_S
    assert [reply for reply in own if reply.heartbeats] == []
    for reply in served:
        assert '"model":"chat"' in reply.text
        assert '"model":"reasoning"' not in reply.text
    await asyncio.to_thread(wait_for, site.is_idle, "the flood is over")
    assert {site.tier(tier)[name] for tier in Tier for name in ("lent", "borrowed")} == {0}
    now = site.metrics_now()

    def counted(name: str, **labels: str) -> float:
        return now.value(name, **labels) - before.value(name, **labels)

    borrowed = counted("tierserve_borrowed_total", tier="chat", lender="reasoning")
    assert borrowed >= LENT
    assert counted("tierserve_lent_total", tier="reasoning", borrower="chat") == borrowed
    assert counted("tierserve_requests_total", tier="chat", status="200") == len(served)
    assert counted("tierserve_requests_total", tier="reasoning") == len(own)


async def test_a_client_that_marks_its_own_request_as_borrowed_gets_what_it_would_get_without(
    lending_site: Site,
) -> None:
    marked = {"x-tierserve-borrowed-by": "chat", "x-tierserve-relayed": "1"}
    before = lending_site.metrics_now().value("tierserve_requests_total", tier="reasoning")
    body = work("hi", 1, stream=False)
    assert lending_site.post("/api/reasoning", body, **marked).status_code == 200
    above = lending_site.post("/api/reasoning", {**body, "max_tokens": 99_999}, **marked)
    assert above.json()["error"]["code"] == "max_tokens_exceeds_tier_limit"
    after = lending_site.metrics_now().value("tierserve_requests_total", tier="reasoning")
    assert after - before == 2


async def test_what_lending_gives_a_burst_and_what_it_costs_the_lender(lending_site: Site) -> None:
    site = lending_site
    bursts = {}
    for share in (0.0, 0.5):
        await asyncio.to_thread(deploy, site, chat_slots=CHAT_SLOTS, lend_share=share)
        bursts[share] = await a_burst(site)
        await asyncio.to_thread(wait_for, site.is_idle, "the burst is over")
    keep_figures("lending", **{f"lend_share {share}": each for share, each in bursts.items()})
    assert bursts[0.5]["served"] > bursts[0.0]["served"]


async def a_burst(site: Site) -> dict[str, float]:
    """Requests to chat at a steady rate for some seconds, with reasoning asked all the while."""
    async with client_session() as session:
        url, gap_s = f"{site.url}/api/chat", BURST_S / BURST_REQUESTS
        burst: list[asyncio.Task[Reply]] = []
        probes: list[float] = []
        for number in range(BURST_REQUESTS):
            body = work(f"{number}", TOKENS, stream=True)
            burst.append(asyncio.create_task(ask(session, url, body)))
            started_s = clock_s()
            own = work(f"own {number}", 1, stream=True)
            probe = await ask(session, f"{site.url}/api/reasoning", own)
            assert probe.served
            probes.append(probe.ttft_s * 1e3)
            await asyncio.sleep(max(0.0, gap_s - (clock_s() - started_s)))
        replies = await asyncio.gather(*burst)
    served = [reply for reply in replies if reply.served]
    assert {reply.status for reply in replies if not reply.served} <= {429}
    return {
        "requests": BURST_REQUESTS,
        "served": len(served),
        "ttft_p50_s": round(median(reply.ttft_s for reply in served), 2),
        "e2e_p50_s": round(median(reply.e2e_s for reply in served), 2),
        "reasoning_ttft_p50_ms": round(median(probes), 1),
        "reasoning_ttft_p95_ms": round(quantiles(probes, n=20)[-1], 1),
    }
