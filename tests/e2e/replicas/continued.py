"""Streams of `/v1` that run while something else of a test happens, beside the same unbroken."""

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from loadtest.studies.continuity.streams import Ask, Stream, differences, read
from serve_app.core.tiers import Tier
from tests.e2e.client import client_session
from tests.e2e.site import Site, wait_for


@dataclass(slots=True)
class Continued:
    """`streams` are whole once the block is left."""

    unbroken: Sequence[Stream]
    streams: Sequence[Stream] = field(default_factory=list[Stream])

    def assert_nobody_noticed(self) -> None:
        assert [stream.fault or stream.errors for stream in self.streams if not stream.whole] == []
        differ = map(differences, self.streams, self.unbroken)
        assert [found for found in differ if found] == []

    @property
    def replayed(self) -> int:
        return sum(stream.replays > 0 for stream in self.streams)

    def gaps_s(self, since_s: float = 0.0) -> list[float]:
        return sorted(stream.gap_s(since_s, math.inf) for stream in self.streams)


@asynccontextmanager
async def continued(site: Site, tier: Tier, count: int, tokens: int) -> AsyncIterator[Continued]:
    """So many streams of so many tokens have begun when the block is entered."""
    asked = [_ask(tier, number, tokens) for number in range(count)]
    async with client_session() as session:

        def reading(streams: Sequence[Stream]) -> list[asyncio.Task[Stream]]:
            return [asyncio.create_task(read(session, site.url, each)) for each in streams]

        running = Continued(await asyncio.gather(*reading([Stream(ask) for ask in asked])))
        assert all(stream.whole for stream in running.unbroken), running.unbroken
        running.streams = [Stream(ask) for ask in asked]
        tasks = reading(running.streams)
        try:
            await asyncio.to_thread(
                wait_for,
                lambda: all(stream.has_begun for stream in running.streams),
                "the streams of /v1 have begun",
            )
            yield running
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()


def _ask(tier: Tier, number: int, tokens: int) -> Ask:
    body = {
        "model": tier.value,
        "messages": [{"role": "user", "content": f"to be continued {number}"}],
        "max_tokens": tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return Ask("text", "/v1/chat/completions", body)
