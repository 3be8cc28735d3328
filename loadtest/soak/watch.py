"""What is looked at while a soak runs: memory, handles and threads by process, the size of the
metrics, the tiers' own counts, log bytes and shared memory."""

import asyncio
import contextlib
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from loadtest.client.server_info import tiers_of
from loadtest.servers.processes import parts
from loadtest.soak.load import Traffic

COUNTS = ("running", "queued", "queue_depth", "lent", "borrowed")
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - looked into only
TICK_S = 0.05
TIMEOUT = aiohttp.ClientTimeout(total=10)


@dataclass(slots=True)
class Watch:
    """`run_id` and `run_dir` are None of a server elsewhere, whose processes are not seen."""

    traffic: Traffic
    base_url: str
    run_id: str | None
    run_dir: Path | None
    _latest_s: float = 0.0

    async def run(self, every_s: float, add: Callable[[Mapping[str, Any]], None]) -> None:
        """A sample each `every_s`, until it is cancelled."""
        due_s = self.traffic.client.clock()
        while True:
            add(await self.sample())
            due_s = max(due_s + every_s, self.traffic.client.clock())
            await self._tick_until(due_s)

    async def sample(self) -> dict[str, Any]:
        clock, session = self.traffic.client.clock, self.traffic.client.session
        # Before the server is asked: what begins meanwhile may be in its count and not in this.
        before = dict(self.traffic.in_flight)
        tiers = await tiers_of(session, self.base_url)
        after = dict(self.traffic.in_flight)
        document: dict[str, Any] = {
            "at_s": round(clock(), 2),
            "lag_s": round(self._latest_s, 4),
            "in_flight": {
                tier: max(before.get(tier, 0), after.get(tier, 0)) for tier in self.traffic.tiers
            },
            "tiers": {
                name: {key: tier.get(key) for key in COUNTS} for name, tier in (tiers or {}).items()
            },
            **await self._metrics(session),
        }
        self._latest_s = 0.0
        if self.run_id is not None and self.run_dir is not None:
            document |= await asyncio.to_thread(_machine, self.run_id, self.run_dir)
        return document

    async def _metrics(self, session: aiohttp.ClientSession) -> dict[str, Any]:
        began_s = time.perf_counter()
        try:
            async with session.get(f"{self.base_url}/metrics", timeout=TIMEOUT) as response:
                text = await response.read() if response.status == 200 else b""
        except (aiohttp.ClientError, TimeoutError):
            text = b""
        if not text:
            return {"series": None, "metrics_bytes": None, "metrics_s": None}
        series = sum(bool(line) and not line.startswith(b"#") for line in text.split(b"\n"))
        took_s = round(time.perf_counter() - began_s, 4)
        return {"series": series, "metrics_bytes": len(text), "metrics_s": took_s}

    async def _tick_until(self, due_s: float) -> None:
        """Sleeps, and sees how late this loop is woken: it takes all times of the soak."""
        clock = self.traffic.client.clock
        while (now_s := clock()) < due_s:
            wait_s = min(TICK_S, due_s - now_s)
            await asyncio.sleep(wait_s)
            self._latest_s = max(self._latest_s, clock() - now_s - wait_s)


def _machine(run_id: str, run_dir: Path) -> dict[str, Any]:
    disk = shutil.disk_usage(run_dir)
    return {
        "processes": [part.as_dict() for part in parts(run_id)],
        "shared_memory_bytes": shared_memory_bytes(),
        "session_bytes": folder_bytes(run_dir),
        "disk_free_bytes": disk.free,
    }


def shared_memory_bytes() -> int:
    """Of all programs of this machine."""
    return shutil.disk_usage(SHARED_MEMORY).used


def shared_memory_files() -> dict[str, int]:
    """What lies in it, and the bytes of each file."""
    found = {}
    for path in SHARED_MEMORY.iterdir():
        with contextlib.suppress(OSError):
            found[path.name] = path.lstat().st_blocks * 512
    return found


def folder_bytes(folder: Path) -> int:
    """What its files take; files that go away meanwhile are left out."""
    total = 0
    for root, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):
                total += Path(root, name).lstat().st_blocks * 512
    return total
