"""`python -m loadtest gateway-speed`: what one process of `/v1` forwards, and what it adds to the
time to a first token.

Three processes: a tier of scripted streams, the web application under uvicorn, and this client. The
same requests go to the tier directly and through the gateway, in turn, so that drift of the machine
cancels. There is no engine, no Ray and no HAProxy: what is measured is the gateway.
"""

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from loadtest.errors import MeasurementError
from loadtest.load.run import on_own_loop
from loadtest.options import positive
from loadtest.report.formatting import markdown_table
from loadtest.report.results_file import RESULTS, provenance, write
from serve_app.api.upstream import Address, Upstream, UpstreamPool

OUT = RESULTS / "gateway_speed.json"
STREAMS = (1, 8, 32)
# The last one is what the bar is about: 20,000 events a second, each in its own write.
PACED_STREAMS = (1, 8, 32, 200)
EVENTS = 512
# Paced: as many events a second and stream as a GPU of the middle class.
TICK_S = 0.01
PACED_ROUNDS = 2
BAR_CHUNKS_PER_S = 20_000
BAR_ADDED_TTFT_MS = 1.0
BODY = json.dumps(
    {"model": "chat", "stream": True, "messages": [{"role": "user", "content": "sea " * 100}]}
).encode()
HEADERS = ((b"content-type", b"application/json"), (b"authorization", b"Bearer none"))
DIRECT_PATH, GATEWAY_PATH = "/api/chat/v1/chat/completions", "/v1/chat/completions"
EVENT_BEGIN = b"data: "
# By its path, so that it runs beside another checkout's application too.
ROOT = Path(__file__).resolve().parents[2]
GATEWAY_PROCESS = str(ROOT / "loadtest" / "servers" / "gateway_process.py")
DESCRIPTION = (
    "Streams from a scripted tier, directly and through one process of /v1 in "
    "turn: chunks a second flat out, CPU of the gateway for each chunk, added TTFT."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--streams", type=positive, nargs="+", default=STREAMS, help="at once")
    add("--paced", type=positive, nargs="+", default=PACED_STREAMS, help="the same, 100 events/s")
    add("--events", type=positive, default=EVENTS, help="of a stream")
    add("--rounds", type=positive, default=7, help="of each level, direct and gateway in turn")
    add("--requests", type=positive, default=12, help="of each stream in a round")
    add("--pairs", type=positive, default=400, help="requests of each way for the TTFT")
    add("--python-path", help="measure the web application of another checkout")
    add("--out", type=Path, default=OUT)


def run(options: argparse.Namespace, argv: list[str], console: Console) -> int:
    document: dict[str, Any] = {
        "meta": provenance(argv),
        "events": options.events,
        **on_own_loop(_measured(options)),
    }
    document["bar"] = verdict(document)
    write(options.out, document)
    console.print(page(document), markup=False, highlight=False, soft_wrap=True)
    return 0


@dataclass(frozen=True, slots=True)
class Round:
    """One round of one way. `gateway_cpu_s` is 0 for the direct one."""

    chunks: int
    wall_s: float
    gateway_cpu_s: float

    @property
    def chunks_per_s(self) -> float:
        return self.chunks / self.wall_s


async def _measured(options: argparse.Namespace) -> dict[str, Any]:
    levels: list[dict[str, Any]] = []
    for tick_s, all_streams in ((0.0, options.streams), (TICK_S, options.paced)):
        async with _both_ways(options.events, tick_s, options.python_path) as ways:
            for streams in all_streams:
                levels.append(await _level(ways, streams, options, tick_s))
    async with _both_ways(8, 0.0, options.python_path) as ways:
        added = [await _added_ttft(ways, streams, options.pairs) for streams in options.streams]
    return {"levels": levels, "ttft": added}


@dataclass(slots=True)
class Way:
    address: Address
    path: str
    pool: UpstreamPool
    headers: tuple[tuple[bytes, bytes], ...] = HEADERS
    # The process of the gateway, by its number; None on the direct way.
    gateway: int | None = None

    async def begin(self) -> Upstream:
        answer = await self.pool.post(self.address, self.path, self.headers, BODY)
        if answer.status != 200:
            raise MeasurementError(f"{self.path}: status {answer.status}")
        return answer

    async def streamed(self) -> int:
        """The number of its events."""
        answer, events = await self.begin(), 0
        while True:
            if data := answer.take():
                events += data.count(EVENT_BEGIN)
            elif answer.complete:
                answer.release()
                return events
            elif answer.broken:
                raise MeasurementError(f"{self.path}: a stream broke after {events} events")
            else:
                await answer.more()

    async def ttft_s(self) -> float:
        began_s = time.perf_counter()
        answer = await self.begin()
        while not (data := answer.take()):
            await answer.more()
        first_s = time.perf_counter() - began_s
        assert EVENT_BEGIN in data
        while not answer.complete:
            await answer.more()
        answer.release()
        return first_s

    def cpu_s(self) -> float:
        """Of the gateway's process, to the nanosecond: `/proc` counts in hundredths of a second, in
        which it forwards hundreds of events."""
        if self.gateway is None:
            return 0.0
        # As clock_getcpuclockid(3) makes it.
        return time.clock_gettime(~self.gateway << 3 | 2)


async def _level(
    ways: tuple[Way, Way], streams: int, options: argparse.Namespace, tick_s: float
) -> dict[str, Any]:
    requests = options.requests if not tick_s else 1
    rounds: dict[str, list[Round]] = {"direct": [], "gateway": []}
    for number in range(options.rounds if not tick_s else PACED_ROUNDS):
        named = list(zip(rounds, ways, strict=True))
        for name, way in named if number % 2 == 0 else reversed(named):
            rounds[name].append(await _round(way, streams, requests))
    by_way = {
        name: round(statistics.median(each.chunks_per_s for each in done), 1)
        for name, done in rounds.items()
    }
    cpu_us = [1e6 * each.gateway_cpu_s / each.chunks for each in rounds["gateway"]]
    return {
        "streams": streams,
        "paced": bool(tick_s),
        "chunks_per_s": by_way,
        "gateway_cpu_us_per_chunk": round(statistics.median(cpu_us), 1),
        "gateway_chunks_per_cpu_s": round(1e6 / statistics.median(cpu_us)),
        "rounds": {name: [asdict(each) for each in done] for name, done in rounds.items()},
    }


async def _round(way: Way, streams: int, requests: int) -> Round:
    async def stream() -> int:
        return sum([await way.streamed() for _ in range(requests)])

    cpu_s, began_s = way.cpu_s(), time.perf_counter()
    chunks = sum(await asyncio.gather(*(stream() for _ in range(streams))))
    return Round(chunks, time.perf_counter() - began_s, way.cpu_s() - cpu_s)


async def _added_ttft(ways: tuple[Way, Way], streams: int, pairs: int) -> dict[str, Any]:
    """All streams ask the same way at once, then the other."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(max(20, pairs // streams)):
        for at in (0, 1) if number % 2 else (1, 0):
            got = await asyncio.gather(*(ways[at].ttft_s() for _ in range(streams)))
            if number >= 5:
                times[at].extend(got)
    direct, gateway = (np.percentile(np.asarray(each) * 1e3, (50, 95)) for each in times)
    return {
        "streams": streams,
        "direct_p50_ms": round(float(direct[0]), 3),
        "direct_p95_ms": round(float(direct[1]), 3),
        "added_p50_ms": round(float(gateway[0] - direct[0]), 3),
        "added_p95_ms": round(float(gateway[1] - direct[1]), 3),
    }


@contextlib.asynccontextmanager
async def _both_ways(
    events: int, tick_s: float, python_path: str | None
) -> AsyncIterator[tuple[Way, Way]]:
    pool = UpstreamPool()
    tier = [sys.executable, "-m", "loadtest.servers.scripted_stream", "--events", str(events)]
    with server_process([*tier, "--tick-s", str(tick_s)]) as (port, _):
        command = [sys.executable, GATEWAY_PROCESS, "--upstream", f"http://127.0.0.1:{port}"]
        with server_process(command, python_path) as (gateway_port, gateway):
            direct = Way(Address("127.0.0.1", port), DIRECT_PATH, pool)
            through = Way(Address("127.0.0.1", gateway_port), GATEWAY_PATH, pool, gateway=gateway)
            try:
                for way in (direct, through):
                    await way.streamed()
                yield direct, through
            finally:
                pool.close()


@contextlib.contextmanager
def server_process(command: list[str], python_path: str | None = None) -> Iterator[tuple[int, int]]:
    """Its port, which it prints first, and its number."""

    environment = {**os.environ, "PYTHONPATH": python_path or str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline()), process.pid
        finally:
            process.terminate()


def verdict(document: dict[str, Any]) -> dict[str, bool]:
    """Flat out many events come in one read: paced is the harder one."""
    paced = [each for each in document["levels"] if each["paced"]]
    most = max(paced, key=lambda each: each["streams"])["gateway_chunks_per_cpu_s"]
    alone = document["ttft"][0]
    return {
        f"at least {BAR_CHUNKS_PER_S} chunks a CPU second of one process": most >= BAR_CHUNKS_PER_S,
        f"added TTFT p50 at {alone['streams']} streams at most {BAR_ADDED_TTFT_MS:g} ms": (
            alone["added_p50_ms"] <= BAR_ADDED_TTFT_MS
        ),
    }


def page(document: dict[str, Any]) -> str:
    speed = [
        (
            str(each["streams"]),
            "paced" if each["paced"] else "flat out",
            *(f"{each['chunks_per_s'][way]:,.0f}" for way in ("direct", "gateway")),
            f"{each['gateway_cpu_us_per_chunk']:.1f}",
            f"{each['gateway_chunks_per_cpu_s']:,}",
        )
        for each in document["levels"]
    ]
    ttft = [
        (
            str(each["streams"]),
            *(f"{each[name]:.2f}" for name in ("direct_p50_ms", "direct_p95_ms")),
            *(f"{each[name]:+.2f}" for name in ("added_p50_ms", "added_p95_ms")),
        )
        for each in document["ttft"]
    ]
    kept = [
        f"- {'kept' if is_kept else 'MISSED'}: {bar}" for bar, is_kept in document["bar"].items()
    ]
    return "\n".join(
        [
            markdown_table(
                (
                    *("streams", "", "direct chunks/s", "gateway chunks/s"),
                    *("gateway µs a chunk", "chunks per CPU second"),
                ),
                speed,
            ),
            "",
            markdown_table(("streams", "TTFT p50 ms", "p95", "added p50", "added p95"), ttft),
            "",
            *kept,
        ]
    )
