"""Flooding chat leaves reasoning's latency alone: each tier has its own cores, slots and queue."""

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from statistics import median, quantiles

import aiohttp

from serve_app.core.tiers import Tier
from tests.e2e.client import ask, client_session, work
from tests.e2e.figures import keep_figures
from tests.e2e.load import Attempts, ask_with_retry
from tests.e2e.site import Site, wait_for

# Idle and flooded in turn, so that a drift of the machine cancels. What its host does for a second
# spoils the p95 of the round it falls into; a busy host spoils several. The median of five rounds
# counts, until so many are on one side that it is decided.
ROUNDS = 5
SAMPLES = 100
MOST_RATIO = 1.5
FLOOD_TOKENS = 64


async def reasoning_ttft_ms(
    session: aiohttp.ClientSession, site: Site, phase: str, samples: int
) -> list[float]:
    """One after the other, each with a prompt of its own, so that no cache answers it."""
    replies = [
        await ask(session, f"{site.url}/api/reasoning", work(f"{phase} {i}?", 1, stream=True))
        for i in range(samples)
    ]
    assert all(reply.served for reply in replies), [reply for reply in replies if not reply.served]
    return [reply.ttft_s * 1e3 for reply in replies]


@asynccontextmanager
async def flooded_chat(session: aiohttp.ClientSession, site: Site) -> AsyncIterator[list[Attempts]]:
    """Twice as many clients as there are slots, each with its next request at once."""
    slots = site.tier(Tier.CHAT)["slots"]
    asked: list[Attempts] = []

    async def client(number: int) -> None:
        body = work(f"Client {number}.", FLOOD_TOKENS, stream=True)
        while True:
            asked.append(await ask_with_retry(session, f"{site.url}/api/chat", body))

    clients = [asyncio.create_task(client(number)) for number in range(2 * slots)]
    await asyncio.to_thread(
        wait_for, lambda: site.tier(Tier.CHAT)["running"] >= slots, "chat is flooded"
    )
    try:
        yield asked
    finally:
        for task in clients:
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)


@contextmanager
def unscanned_heap() -> Iterator[None]:
    """Everything that pytest holds is left out of garbage collection: the flood's chunks set it off
    often, and its scans of a thousand collected tests would count as the server's time."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


async def test_reasoning_is_as_fast_while_chat_is_flooded(site: Site) -> None:
    idle_p95_ms, flooded_p95_ms, ratios, busy = [], [], [], {}
    with unscanned_heap():
        async with client_session() as session:
            for number in range(ROUNDS):
                idle = await reasoning_ttft_ms(session, site, f"{number}, idle", SAMPLES)
                async with flooded_chat(session, site) as flood:
                    flooded = await reasoning_ttft_ms(session, site, f"{number}, flooded", SAMPLES)
                    busy = site.tier(Tier.CHAT)
                await asyncio.to_thread(wait_for, site.is_idle, "the flood is over")
                assert busy["running"] >= busy["slots"] / 2
                assert flood, "chat ended no request meanwhile"
                idle_p95_ms.append(quantiles(idle, n=20)[-1])
                flooded_p95_ms.append(quantiles(flooded, n=20)[-1])
                ratios.append(flooded_p95_ms[-1] / idle_p95_ms[-1])
                if is_decided(ratios):
                    break
    keep_figures(
        "isolation",
        idle_ttft_p95_ms=[round(value, 1) for value in idle_p95_ms],
        flooded_ttft_p95_ms=[round(value, 1) for value in flooded_p95_ms],
        ratios=[round(ratio, 2) for ratio in ratios],
        chat_running=busy["running"],
        chat_slots=busy["slots"],
    )
    assert kept(ratios), (idle_p95_ms, flooded_p95_ms)


def is_decided(ratios: Sequence[float]) -> bool:
    """Whether further rounds could not change on which side the median of all is."""
    above = sum(ratio > MOST_RATIO for ratio in ratios)
    return max(above, len(ratios) - above) > ROUNDS // 2


def kept(ratios: Sequence[float]) -> bool:
    return median(ratios) <= MOST_RATIO
