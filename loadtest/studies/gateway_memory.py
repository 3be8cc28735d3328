"""`python -m loadtest gateway-memory`: what the streams of one process of `/v1` take of memory.

The same streams, of a scripted tier and all at once, without a journal, with one, and resumable.
"""

import argparse
import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from loadtest.errors import MeasurementError
from loadtest.load.run import on_own_loop
from loadtest.options import positive
from loadtest.report.formatting import markdown_table
from loadtest.report.pages import write_section
from loadtest.report.results_file import META, RESULTS, provenance, taken_on, write
from loadtest.studies.gateway_speed import (
    GATEWAY_PATH,
    GATEWAY_PROCESS,
    HEADERS,
    Way,
    server_process,
)
from serve_app.api.upstream import Address, UpstreamPool
from serve_app.config.replay import ReplayConfig

OUT = RESULTS / "gateway_memory.json"
SECTION = "gateway-memory"
STREAMS, EVENTS = 500, 512
TICK_S = 0.05
LOOK_EVERY_S = 0.1
MIB = 1024 * 1024
RESUMABLE = (b"x-tierserve-resumable", b"1")
DESCRIPTION = (
    "Memory of one process of /v1 while 500 streams go through it: without a journal, with one, "
    "and resumable. Writes the table of the docs."
)


@dataclass(frozen=True, slots=True)
class Kind:
    """`bound_mib`: what its streams keep at most, by the settings; None where they keep nothing."""

    name: str
    max_times: int
    headers: tuple[tuple[bytes, bytes], ...]
    bound_mib: int | None


_DEFAULTS = ReplayConfig()
KINDS = (
    Kind("no journal (`max_times: 0`)", 0, HEADERS, None),
    Kind("journal", _DEFAULTS.max_times, HEADERS, _DEFAULTS.max_journal_mib),
    Kind(
        "journal, resumable",
        _DEFAULTS.max_times,
        (*HEADERS, RESUMABLE),
        _DEFAULTS.max_journal_mib + _DEFAULTS.max_kept_mib,
    ),
)


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--streams", type=positive, default=STREAMS, help="at once")
    add("--events", type=positive, default=EVENTS, help="of a stream, 20 a second")
    add("--rounds", type=positive, default=3, help="each of all kinds, in a process of its own")
    add("--out", type=Path, default=OUT)


def run(options: argparse.Namespace, argv: list[str], console: Console) -> int:
    document = {
        META: provenance(argv),
        "streams": options.streams,
        "events": options.events,
        "kinds": on_own_loop(_measured(options)),
    }
    write(options.out, document)
    console.print(table(document), markup=False, highlight=False, soft_wrap=True)
    if options.out == OUT:
        write_section(SECTION, table(document))
    return 0


async def _measured(options: argparse.Namespace) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": kind.name, "bound_mib": kind.bound_mib, "idle_mib": [], "added_mib": []}
        for kind in KINDS
    ]
    for _ in range(options.rounds):
        for kind, into in zip(KINDS, found, strict=True):
            idle, most = await _round(kind, options.streams, options.events)
            into["idle_mib"].append(round(idle / MIB, 1))
            into["added_mib"].append(round((most - idle) / MIB, 1))
    return found


async def _round(kind: Kind, streams: int, events: int) -> tuple[int, int]:
    """Bytes of the gateway's process, after one stream and at most while all run."""
    tier = [sys.executable, "-m", "loadtest.servers.scripted_stream", "--events", str(events)]
    with server_process([*tier, "--tick-s", str(TICK_S)]) as (port, _):
        command = [sys.executable, GATEWAY_PROCESS, "--upstream", f"http://127.0.0.1:{port}"]
        command += ["--max-times", str(kind.max_times)]
        with server_process(command) as (gateway_port, gateway):
            pool = UpstreamPool()
            address = Address("127.0.0.1", gateway_port)
            way = Way(address, GATEWAY_PATH, pool, kind.headers)
            process = psutil.Process(gateway)
            try:
                await way.streamed()
                idle = process.memory_info().rss
                return idle, await _most(process, way, streams, events)
            finally:
                pool.close()


async def _most(process: psutil.Process, way: Way, streams: int, events: int) -> int:
    most = 0

    async def look() -> None:
        nonlocal most
        while True:
            most = max(most, process.memory_info().rss)
            await asyncio.sleep(LOOK_EVERY_S)

    looking = asyncio.create_task(look())
    try:
        read = await asyncio.gather(*(way.streamed() for _ in range(streams)))
    finally:
        looking.cancel()
    # The last event is none of the model's.
    if any(each < events - 1 for each in read):
        raise MeasurementError(f"a stream had {min(read)} of {events} events")
    return most


def table(document: dict[str, Any]) -> str:
    rows = [
        (
            each["name"],
            f"{min(each['idle_mib']):.0f} MiB",
            f"{min(each['added_mib']):.0f} to {max(each['added_mib']):.0f} MiB",
            "" if each["bound_mib"] is None else f"{each['bound_mib']} MiB",
        )
        for each in document["kinds"]
    ]
    header = ("streams", "idle process", "most above it", "journals and events by the settings")
    caption = (
        f"{document['streams']} streams at once of {document['events']} events, "
        f"{1 / TICK_S:.0f} a second each, in one process of `/v1` in front of a scripted tier, "
        f"resident memory; {taken_on(document[META])}; `python -m loadtest gateway-memory` "
        "measures it again."
    )
    return f"{markdown_table(header, rows)}\n\n{caption}"
