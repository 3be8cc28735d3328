"""What a cold replica costs: starts it eager and compiled, with an empty and with a kept cache."""

import argparse
import json
import statistics
import tempfile
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from rich.console import Console

from loadtest.options import positive
from loadtest.report.pages import write_section
from loadtest.report.results_file import META, RESULTS, provenance, taken_on, write
from loadtest.servers.random_model import make_random_qwen2
from loadtest.servers.systems import our_chat_tier
from serve_app.config.engine import EngineConfig
from serve_app.core.tiers import Tier

OUT = RESULTS / "cold_start.json"
STARTS = "starts"
# Each row of the table; a kept cache is the one that the row above has filled.
KINDS = (
    ("eager", "empty"),
    ("eager", "kept"),
    ("compiled", "empty"),
    ("compiled", "kept"),
)
COLUMNS = ("process", "import", "configuration", "load", "compile", "application", "warm-up")
# What `compile` is a part of.
WHOLE = "load"
HEADER = (
    "| start | cache | starts | process | import | configuration | load | of it compile "
    "| application, warm-up | the rest | ready after |",
    "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
)
PUBLISHED = (
    "On a GPU, by others, not measured here: 35 to 50 s for a 1.8B model on an A100 with a warm "
    "cache (imports 10, weights 2, Dynamo 7, compiled graph 6, profiling 2 to 14, graph capture "
    "2 to 18; github.com/upb-cn/vllm-startup-profiler)."
)
DESCRIPTION = (
    "Starts the chat tier with a small random model, eager and compiled, with "
    "an empty and with a kept cache in turn, and writes loadtest/results/cold_start.json and "
    "the table of the docs."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rounds", type=positive, default=2, help="starts of each kind; 4 minutes each"
    )


def run(options: argparse.Namespace, argv: list[str], console: Console) -> int:
    """Start each kind as often in turn; the results are written after every round."""
    meta, starts = provenance(argv), []
    model = make_random_qwen2()
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory(prefix="tierserve-cold-start-") as folder:
            for mode, cache in KINDS:
                console.print(f"{mode}, {cache} cache")
                phases_s = start(model, Path(folder) / mode, eager=mode == "eager")
                console.print(f"  {phases_s}", highlight=False)
                starts.append({"mode": mode, "cache": cache, "phases_s": phases_s})
        results = {META: meta, STARTS: starts}
        write(OUT, results)
        write_section("cold-start", table(results))
    return 0


def start(model: Path, cache: Path, *, eager: bool) -> dict[str, float]:
    """Start the chat tier alone and stop it; the seconds of each phase, reported by its replica."""
    engine = EngineConfig(max_model_len=2048, enforce_eager=eager, compile_cache_dir=str(cache))
    with our_chat_tier(model, engine, slots=8, on_wait=lambda: None) as system:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(urljoin(system.chat_url, "/api/tiers"), timeout=30) as answer:
            tiers = json.load(answer)
    [tier] = (entry for entry in tiers["tiers"] if entry["tier"] == Tier.CHAT)
    [replica] = tier["replicas"]
    return replica["start_phases_s"]


def table(results: Mapping[str, Any]) -> str:
    """A row of means for each kind of start, and what it was measured on."""
    rows = []
    for mode, cache in KINDS:
        starts = [
            entry["phases_s"]
            for entry in results[STARTS]
            if (entry["mode"], entry["cache"]) == (mode, cache)
        ]
        if starts:
            rows.append(_row(mode, cache, starts))
    return "\n".join([*HEADER, *rows, "", _caption(results[META])])


def _row(mode: str, cache: str, starts: Sequence[Mapping[str, float]]) -> str:
    mean = {name: statistics.fmean(s.get(name, 0.0) for s in starts) for name in COLUMNS}
    totals = sorted(s["total"] for s in starts)
    timed = sum(mean.values()) - mean["compile"]
    cells = (
        mode,
        cache,
        str(len(starts)),
        *(f"{mean[name]:.1f} s" for name in ("process", "import", "configuration", WHOLE)),
        f"{mean['compile']:.1f} s" if mean["compile"] else "",
        f"{mean['application'] + mean['warm-up']:.1f} s",
        f"{statistics.fmean(totals) - timed:.1f} s",
        f"{statistics.fmean(totals):.0f} s ({totals[0]:.0f} to {totals[-1]:.0f})",
    )
    return f"| {' | '.join(cells)} |"


def _caption(meta: Mapping[str, Any]) -> str:
    return (
        "Seconds from the replica's process to its first health check, means; in parentheses the "
        "range. Small random Qwen2 (7M), whose weights take no time to load; packages are in the "
        f"page cache; {taken_on(meta)}; `python -m loadtest cold-start` measures it again. "
        f"{PUBLISHED}"
    )
