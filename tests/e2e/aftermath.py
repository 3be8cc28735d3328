"""Break one part under load and count what it did to streams that ran and requests that came."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from serve_app.core.tiers import Tier
from tests.e2e.client import Reply, ask, client_session, work
from tests.e2e.figures import keep_figures
from tests.e2e.machine_clock import clock_s
from tests.e2e.site import wait_for

PROBES_PER_S = 10
STREAM_TOKENS = 2000
STREAMS = {Tier.CHAT: 4, Tier.REASONING: 2}


@dataclass(slots=True)
class Aftermath:
    """How the streams that ran ended, and how the requests that came went, by tier."""

    streams: dict[Tier, list[Reply]] = field(default_factory=dict)
    probes: dict[Tier, list[Reply]] = field(default_factory=dict)
    broken_s: float = 0.0
    back_s: float = 0.0

    def cut(self, tier: Tier) -> int:
        """Streams, and short requests that were running at that moment."""
        running = [reply for reply in self.probes[tier] if reply.sent_s < self.broken_s]
        return sum(not reply.served for reply in [*self.streams.get(tier, []), *running])

    def after(self, tier: Tier) -> list[Reply]:
        """Requests that came afterwards."""
        return [reply for reply in self.probes[tier] if reply.sent_s >= self.broken_s]

    def failed(self, tier: Tier) -> list[Reply]:
        return [reply for reply in self.after(tier) if not reply.served]

    def failing_for_s(self, tier: Tier) -> float:
        """From the break until the last request came that failed."""
        return max((reply.sent_s - self.broken_s for reply in self.failed(tier)), default=0.0)

    def longest_s(self, tier: Tier) -> float:
        return max(reply.e2e_s for reply in self.after(tier))

    def figures(self) -> dict[str, Any]:
        """What documentation says of it, by tier."""
        return {"back_s": round(self.back_s, 1)} | {
            f"{tier}": {
                "streams": len(self.streams.get(tier, [])),
                "running_requests_cut": self.cut(tier),
                "requests_after": len(self.after(tier)),
                "requests_after_failed": len(self.failed(tier)),
                "requests_after_refused": sum(is_refusal(r) for r in self.after(tier)),
                "failing_for_s": round(self.failing_for_s(tier), 2),
                "longest_request_s": round(self.longest_s(tier), 2),
            }
            for tier in Tier
        }

    def ends(self, tier: Tier) -> str:
        """A line for each request that came afterwards and was not served, for who looks why."""
        return "\n".join(
            f"{tier} {reply.sent_s - self.broken_s:.1f} s, {reply.e2e_s:.1f} s long: "
            f"{reply.status} {(reply.fault or reply.text)[:100]!r}"
            for reply in self.failed(tier)
        )

    def keep(self, name: str) -> None:
        keep_figures(f"fault: {name}", **self.figures())


def is_refusal(reply: Reply) -> bool:
    """Refused with a Retry-After."""
    return reply.status in (429, 503) and "retry-after" in reply.headers


async def break_under_load(
    address: Callable[[], str],
    break_it: Callable[[], object],
    is_back: Callable[[], bool],
    *,
    within_s: float,
    streams: Mapping[Tier, int] = STREAMS,
    stream_tokens: int = STREAM_TOKENS,
    probes_per_s: float = PROBES_PER_S,
    afterwards_s: float = 0.0,
) -> Aftermath:
    """Streams run and requests come in; break it; until it is back, `afterwards_s` more have gone
    by, and all streams have ended.

    Each request asks anew for the `address` to go to, such as `http://127.0.0.1:8000`.
    """
    aftermath = Aftermath()
    async with client_session() as session, probing(session, address, aftermath, probes_per_s):
        watched = {tier: [Reply() for _ in range(count)] for tier, count in streams.items()}
        ends = [
            asyncio.create_task(
                ask(
                    session,
                    address() + tier.route_prefix,
                    stream_body(tier, i, stream_tokens),
                    reply,
                )
            )
            for tier, replies in watched.items()
            for i, reply in enumerate(replies)
        ]
        await asyncio.to_thread(
            wait_for, lambda: all_run(list(watched.values())), "all streams run"
        )
        assert not any(end.done() for end in ends)
        aftermath.broken_s = clock_s()
        await asyncio.to_thread(break_it)
        await asyncio.to_thread(wait_for, is_back, "it is back", within_s)
        aftermath.back_s = clock_s() - aftermath.broken_s
        await asyncio.sleep(afterwards_s)
        await asyncio.gather(*ends)
        aftermath.streams = watched
    return aftermath


def stream_body(tier: Tier, number: int, tokens: int) -> dict[str, object]:
    return work(f"{tier} {number}", tokens, stream=True)


def all_run(watched: Sequence[list[Reply]]) -> bool:
    return all(reply.first_token_s is not None for replies in watched for reply in replies)


@asynccontextmanager
async def probing(
    session: aiohttp.ClientSession,
    address: Callable[[], str],
    aftermath: Aftermath,
    probes_per_s: float,
) -> AsyncIterator[None]:
    """Short requests at this rate, to each tier in turn, whatever became of others."""
    sent: list[tuple[Tier, asyncio.Task[Reply]]] = []

    async def send() -> None:
        for number in range(10**6):
            tier = list(Tier)[number % 2]
            url = address() + tier.route_prefix
            probe = ask(session, url, work(f"probe {number}", 1, stream=False))
            sent.append((tier, asyncio.create_task(probe)))
            await asyncio.sleep(1 / probes_per_s)

    sending = asyncio.create_task(send())
    try:
        yield
    finally:
        sending.cancel()
        await asyncio.gather(sending, *(probe for _, probe in sent), return_exceptions=True)
    for tier in Tier:
        aftermath.probes[tier] = [probe.result() for own, probe in sent if own is tier]
