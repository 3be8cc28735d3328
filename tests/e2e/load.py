"""Open-loop load: requests come when they come, whether or not earlier ones have ended."""

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import aiohttp

from tests.e2e.client import Reply, ask
from tests.e2e.machine_clock import clock_s


@dataclass(slots=True)
class Attempts:
    """One request, and its one retry if it was refused."""

    first: Reply
    retry: Reply | None = None

    @property
    def last(self) -> Reply:
        return self.retry or self.first


async def ask_with_retry(
    session: aiohttp.ClientSession,
    url: str,
    body: object,
    on_refusal: Callable[[], None] = lambda: None,
) -> Attempts:
    """Ask; if refused, retry once, after its Retry-After."""
    first = await ask(session, url, body)
    if first.status != 429 or "retry-after" not in first.headers:
        return Attempts(first)
    on_refusal()
    await asyncio.sleep(int(first.headers["retry-after"]))
    return Attempts(first, await ask(session, url, body))


async def arrive(
    session: aiohttp.ClientSession, url: str, bodies: Sequence[object], *, rate_per_s: float
) -> list[Attempts]:
    """Send all bodies with exponential gaps (the same at each run) and wait for every end."""
    rng = random.Random(len(bodies))
    asked: list[asyncio.Task[Attempts]] = []
    due_s = clock_s()
    for body in bodies:
        asked.append(asyncio.create_task(ask_with_retry(session, url, body)))
        due_s += rng.expovariate(rate_per_s)
        await asyncio.sleep(max(0.0, due_s - clock_s()))
    return list(await asyncio.gather(*asked))


async def swell(
    session: aiohttp.ClientSession,
    url: str,
    bodies: Iterable[object],
    *,
    rate_per_s: float,
    refused_fraction: float,
    least: int,
) -> list[Attempts]:
    """Send bodies ever faster, twice as fast after `least`, until that many are sent and this
    fraction of all is refused: an overload of any machine. Wait for every end."""
    rng = random.Random(least)
    refused = 0

    def count() -> None:
        nonlocal refused
        refused += 1

    asked: list[asyncio.Task[Attempts]] = []
    due_s = clock_s()
    for body in bodies:
        if len(asked) >= least and refused >= refused_fraction * len(asked):
            break
        asked.append(asyncio.create_task(ask_with_retry(session, url, body, count)))
        due_s += rng.expovariate(rate_per_s * (1 + len(asked) / least))
        await asyncio.sleep(max(0.0, due_s - clock_s()))
    return list(await asyncio.gather(*asked))


async def measure_capacity_rps(
    session: aiohttp.ClientSession, url: str, body: object, *, slots: int
) -> float:
    """Requests a second with every slot busy: one full batch, from start to end."""
    started_s = clock_s()
    replies = await asyncio.gather(*(ask(session, url, body) for _ in range(slots)))
    assert all(reply.served for reply in replies), [reply for reply in replies if not reply.served]
    return slots / (clock_s() - started_s)
