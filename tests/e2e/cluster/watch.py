"""What `/api/tiers` says while a test goes on."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from serve_app.core.tiers import Tier
from tests.e2e.machine_clock import clock_s

PERIOD_S = 0.25


@dataclass(frozen=True, slots=True)
class Sight:
    """Both tiers at one moment."""

    at_s: float
    tiers: dict[Tier, dict[str, Any]]

    def wanted(self, tier: Tier) -> int:
        return self.tiers[tier]["replicas_wanted"]

    def reason(self, tier: Tier) -> str:
        """Of the newest decision that is shown; empty before the first."""
        scaling = self.tiers[tier]["scaling"]
        return scaling["reason"] if scaling else ""

    def names(self, tier: Tier) -> frozenset[str]:
        """The replicas that report."""
        return frozenset(replica["replica"] for replica in self.tiers[tier]["replicas"])

    def process_s(self, name: str) -> float:
        """How long a replica's process took until it began with its engine."""
        (found,) = (
            replica
            for entry in self.tiers.values()
            for replica in entry["replicas"]
            if replica["replica"] == name
        )
        return found["start_phases_s"]["process"]

    def running(self, tier: Tier) -> int:
        """Requests that have a slot, of all replicas that report."""
        return self.tiers[tier]["running"]

    def accelerator_types(self, tier: Tier) -> list[str]:
        """The accelerator types that they were placed on."""
        return sorted(replica["accelerator_type"] for replica in self.tiers[tier]["replicas"])

    def computing(self, tier: Tier) -> frozenset[str]:
        """Those whose engine has read a prompt, so that its first token is there or comes now."""
        replicas = self.tiers[tier]["replicas"]
        return frozenset(one["replica"] for one in replicas if one["kv_cache_usage"])


@dataclass(slots=True)
class Watch:
    sights: list[Sight] = field(default_factory=list)

    async def first(self, what: str, holds: Callable[[Sight], bool], *, within_s: float) -> Sight:
        """The first sight from now on for which it holds."""
        seen = len(self.sights)
        deadline_s = clock_s() + within_s
        while clock_s() < deadline_s:
            for sight in self.sights[seen:]:
                if holds(sight):
                    return sight
            seen = len(self.sights)
            await asyncio.sleep(PERIOD_S / 4)
        raise AssertionError(f"after {within_s} s still not: {what}")


@asynccontextmanager
async def watching(session: aiohttp.ClientSession, url: str) -> AsyncIterator[Watch]:
    watch = Watch()

    async def look() -> None:
        while True:
            async with session.get(f"{url}/api/tiers") as answer:
                tiers = (await answer.json())["tiers"]
            by_tier = {Tier(entry["tier"]): entry for entry in tiers}
            watch.sights.append(Sight(clock_s(), by_tier))
            await asyncio.sleep(PERIOD_S)

    looking = asyncio.create_task(look())
    try:
        yield watch
    finally:
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking
