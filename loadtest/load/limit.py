"""`python -m loadtest generator-limit`: what the load generator itself can read, and whether it
reports when that is too much."""

import argparse
import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from loadtest.load import lag as lag_of
from loadtest.load import run as run_of
from loadtest.load.arrivals import schedule
from loadtest.options import positive
from loadtest.report.formatting import markdown_table
from loadtest.report.results_file import RESULTS, provenance, write
from loadtest.scenario import Closed, Load, Scenario

OUT = RESULTS / "generator.json"
STREAMS = 500
# Chunks a second that the server writes in all. The last one is doubled until it is far too many.
RATES = (2_500, 5_000, 10_000, 15_000, 20_000, 30_000, 60_000)
MOST_DOUBLINGS = 4
SECONDS = 10
BAR_CHUNKS_PER_S = 10_000
# Read so much of what was asked. Not all of it: the streams begin, and end, within half a second.
KEPT = 0.95
DESCRIPTION = (
    "Starts a plain server that writes stream chunks of vLLM's form as fast as "
    "asked, and reads them as `run` does, at rising rates, doubled until it cannot, and once "
    "more."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--streams", type=positive, default=STREAMS, help="at once")
    add("--rates", type=positive, nargs="+", default=RATES, help="chunks a second of all streams")
    add("--seconds", type=positive, default=SECONDS, help="of each rate")
    add("--out", type=Path, default=OUT)


def run(options: argparse.Namespace, argv: Sequence[str], console: Console) -> int:
    rows: list[dict[str, Any]] = []
    for rate in (*options.rates, *doubled(options.rates[-1])):
        if len(rows) >= len(options.rates) and overloaded(rows):
            break
        with console.status(f"{options.streams} streams, {rate:,} chunks/s"):
            rows.append(measure(options.streams, rate, options.seconds))
    document = {
        "meta": provenance(argv),
        "streams": options.streams,
        "seconds": options.seconds,
        "rates": rows,
        **verdict(rows),
    }
    write(options.out, document)
    console.print(page(document), markup=False, highlight=False, soft_wrap=True)
    console.print(f"wrote {options.out}", highlight=False, soft_wrap=True)
    return 0


def doubled(rate: int) -> list[int]:
    """What is tried after the last rate, until the generator is overloaded: how it behaves then is
    part of what is measured."""
    return [rate * 2**times for times in range(1, MOST_DOUBLINGS + 1)]


def overloaded(rows: Sequence[dict[str, Any]]) -> bool:
    """At two rates in a row, so on purpose: at the first one it may just fail to keep up, and be
    late no more than before."""
    return len(rows) > 1 and not any(row["kept_up"] for row in rows[-2:])


def verdict(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The best of all rates, and whether the promise on it is kept."""
    most = max(rows, key=lambda row: row["chunks_per_s"])
    sustained = [row["chunks_per_s"] for row in rows if row["kept_up"] and row["in_full"]]
    last = rows[-1]["loop_lag_s"]["p99"] or 0.0
    return {
        "most_chunks_per_s": most["chunks_per_s"],
        "most_sustained_chunks_per_s": max(sustained, default=None),
        "bar": {
            f"at least {BAR_CHUNKS_PER_S} chunks a second of a core": any(
                row["chunks_per_s"] >= 0.95 * BAR_CHUNKS_PER_S
                and row["chunks_per_cpu_s"] >= BAR_CHUNKS_PER_S
                for row in rows
            ),
            "says that it does not keep up when overloaded": not rows[-1]["kept_up"],
            "reported lag rises when overloaded": last > 2 * (rows[0]["loop_lag_s"]["p99"] or 0.0),
        },
    }


def measure(streams: int, rate: float, length_s: int) -> dict[str, Any]:
    """One rate: a server of its own, a closed loop with one long answer for each client."""
    per_stream = rate / streams
    with plain_server(per_stream) as (url, server):
        load = Load(
            tier="plain",
            arrivals=Closed(kind="closed", concurrency=streams),
            input_tokens=8,
            output_tokens=max(2, round(per_stream * length_s)),
            requests=streams,
        )
        scenario = Scenario(name="limit", base_url=url, loads=(load,), drain=60)
        before = server.cpu_times()
        with tempfile.TemporaryDirectory() as folder:
            work = run_of.measure(scenario, schedule(scenario), Path(folder), Console(quiet=True))
            measured = run_of.on_own_loop(work)
        after = server.cpu_times()
    return row(measured, rate, after.user + after.system - before.user - before.system)


def row(measured: run_of.Measured, rate: float, server_cpu_s: float) -> dict[str, Any]:
    """Over the time in which chunks came: all clients begin at once, and the second in which so
    many connect is no part of the rate and the lag. It is a part of the CPU time."""
    records = measured.records
    chunks = sum(len(record.token_s) for record in records)
    first = min(record.token_s[0] for record in records if record.token_s)
    last = max(record.token_s[-1] for record in records if record.token_s)
    reads = sum(len(set(record.token_s)) for record in records)
    whole_s = max(record.ended_s or 0.0 for record in records)
    all_run_s = max(record.token_s[0] for record in records if record.token_s)
    report = lag_of.report(measured.lag.between(all_run_s, last), [], measured.cpu)
    return {
        "asked_chunks_per_s": rate,
        "chunks_per_s": round(chunks / (last - first), 1),
        "in_full": chunks / (last - first) >= KEPT * rate,
        "chunks_per_read": round(chunks / reads, 2),
        "chunks_per_cpu_s": round(chunks / (measured.cpu * whole_s), 1),
        "cpu_cores": report["cpu_cores"],
        "server_cpu_cores": round(server_cpu_s / whole_s, 3),
        "loop_lag_s": report["loop_lag_s"],
        "kept_up": report["kept_up"],
        "why_not": report["why_not"],
        "served": sum(record.served for record in records),
        "requests": len(records),
    }


@contextlib.contextmanager
def plain_server(per_s: float) -> Iterator[tuple[str, psutil.Process]]:
    """The server in a process of its own: its base URL, and the process."""
    command = [sys.executable, "-m", "loadtest.load.plain_server", "--per-s", str(per_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            port = int(process.stdout.readline())
            yield f"http://127.0.0.1:{port}/v1", psutil.Process(process.pid)
        finally:
            process.terminate()


def page(document: dict[str, Any]) -> str:
    header = (
        *("asked chunks/s", "read", "client cores", "chunks per core second", "chunks a read"),
        *("server cores", "loop lag p50", "p99", "kept up"),
    )
    rows = [
        (
            f"{row['asked_chunks_per_s']:,}",
            f"{row['chunks_per_s']:,.0f}",
            f"{row['cpu_cores']:.2f}",
            f"{row['chunks_per_cpu_s']:,.0f}",
            f"{row['chunks_per_read']:.2f}",
            f"{row['server_cpu_cores']:.2f}",
            *(f"{1e3 * row['loop_lag_s'][key]:.1f} ms" for key in ("p50", "p99")),
            "yes" if row["kept_up"] and row["in_full"] else "no",
        )
        for row in document["rates"]
    ]
    kept = [
        f"- {'kept' if is_kept else 'MISSED'}: {bar}" for bar, is_kept in document["bar"].items()
    ]
    return "\n".join([markdown_table(header, rows), "", *kept])
