"""Break one part under load and count what it did to streams that ran and requests that came."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import httpx
import psutil

from serve_app.core.tiers import Tier
from tests.e2e.client import Reply, ask, client_session, work
from tests.e2e.figures import keep_figures
from tests.e2e.machine_clock import clock_s
from tests.e2e.site import Site, wait_for

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
        return sum(not reply.served for reply in [*self.streams[tier], *running])

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

    def keep(self, name: str) -> None:
        keep_figures(
            f"fault: {name}",
            back_s=round(self.back_s, 1),
            **{
                f"{tier}": {
                    "streams": len(self.streams[tier]),
                    "running_requests_cut": self.cut(tier),
                    "requests_after": len(self.after(tier)),
                    "requests_after_failed": len(self.failed(tier)),
                    "failing_for_s": round(self.failing_for_s(tier), 2),
                    "longest_request_s": round(self.longest_s(tier), 2),
                }
                for tier in Tier
            },
        )


async def break_under_load(
    site: Site, break_it: Callable[[], None], is_back: Callable[[], bool], *, within_s: float
) -> Aftermath:
    """Streams run and requests come in; break it; until it is back and all streams have ended."""
    aftermath = Aftermath()
    async with client_session() as session, probing(session, site, aftermath):
        watched = {tier: [Reply() for _ in range(count)] for tier, count in STREAMS.items()}
        ends = [
            asyncio.create_task(
                ask(session, site.url + tier.route_prefix, stream_body(tier, i), reply)
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
        await asyncio.gather(*ends)
        aftermath.streams = watched
    return aftermath


def stream_body(tier: Tier, number: int) -> dict[str, object]:
    return work(f"{tier} {number}", STREAM_TOKENS, stream=True)


def all_run(watched: Sequence[list[Reply]]) -> bool:
    return all(reply.first_token_s is not None for replies in watched for reply in replies)


@asynccontextmanager
async def probing(
    session: aiohttp.ClientSession, site: Site, aftermath: Aftermath
) -> AsyncIterator[None]:
    """A short request every tenth of a second, to each tier in turn, whatever became of others."""
    sent: list[tuple[Tier, asyncio.Task[Reply]]] = []

    async def send() -> None:
        for number in range(10**6):
            tier = list(Tier)[number % 2]
            url = site.url + tier.route_prefix
            probe = ask(session, url, work(f"probe {number}", 1, stream=False))
            sent.append((tier, asyncio.create_task(probe)))
            await asyncio.sleep(1 / PROBES_PER_S)

    sending = asyncio.create_task(send())
    try:
        yield
    finally:
        sending.cancel()
        await asyncio.gather(sending, *(probe for _, probe in sent), return_exceptions=True)
    for tier in Tier:
        aftermath.probes[tier] = [probe.result() for own, probe in sent if own is tier]


def kill(process: psutil.Process) -> None:
    os.kill(process.pid, signal.SIGKILL)


def process_of(site: Site, title: str) -> psutil.Process:
    """The one process of this cluster whose command line begins so."""
    (raylet,) = (
        process
        for process in psutil.process_iter(["cmdline"])
        if is_raylet(process.info["cmdline"] or [], str(site.cluster.run_dir))
    )
    found = [child for child in raylet.children(recursive=True) if begins(child, title)]
    assert len(found) == 1, f"{title}: {found}"
    return found[0]


def is_raylet(command: Sequence[str], run_dir: str) -> bool:
    return bool(command) and command[0].endswith("/raylet") and run_dir in " ".join(command)


def begins(process: psutil.Process, title: str) -> bool:
    try:
        command = process.cmdline()
    except psutil.Error:
        return False
    return bool(command) and command[0].rsplit("/", 1)[-1].startswith(title)


def answers(site: Site) -> bool:
    try:
        return site.get("/readyz").status_code == 200
    except httpx.HTTPError:
        return False
