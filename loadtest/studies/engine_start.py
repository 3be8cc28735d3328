"""How long an engine takes to start with this code and with another checkout's, in turn."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from loadtest.errors import MeasurementError, UserError
from loadtest.options import positive
from loadtest.report.results_file import META, REPOSITORY, RESULTS, provenance, write
from loadtest.servers.random_model import make_random_qwen2

OUT = RESULTS / "engine_start.json"
STARTS = "starts"
THIS, OTHER = "this", "other"
START_LIMIT_S = 600.0
DESCRIPTION = (
    "Starts vLLM's engine as a replica does, without Ray, with a small random model and a kept "
    "cache: with this checkout and with another one in turn. CPU seconds are those of the engine's "
    "process, too, and tell more than the clock on a busy machine. Writes "
    "loadtest/results/engine_start.json."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("other", type=Path, help="another checkout of this repository")
    parser.add_argument("--rounds", type=positive, default=3, help="starts of each, after one more")
    parser.add_argument("--compiled", action="store_true", help="compiled, not eager")


def run(options: argparse.Namespace, argv: list[str], console: Console) -> int:
    """A first start of each fills its cache and is not counted."""
    trees = {THIS: REPOSITORY, OTHER: options.other.resolve()}
    if not (trees[OTHER] / "serve_app").is_dir():
        raise UserError(f"{options.other} is no checkout of this repository")
    model, mode = make_random_qwen2(), "compiled" if options.compiled else "eager"
    results: dict[str, Any] = {META: provenance(argv), "mode": mode, STARTS: []}
    with tempfile.TemporaryDirectory(prefix="tierserve-engine-start-") as folder:
        for number in range(options.rounds + 1):
            for side, tree in trees.items():
                started = start(tree, model, Path(folder) / side, mode)
                load = round(os.getloadavg()[0], 1)
                console.print(f"{number} {side}: {started}, load {load}", highlight=False)
                if number > 0:
                    results[STARTS].append({"side": side, "load": load, **started})
    write(OUT, results)
    console.print(summary(results[STARTS]), highlight=False)
    return 0


def start(tree: Path, model: Path, cache: Path, mode: str) -> dict[str, Any]:
    """One start with a checkout's code; what `engine_start_once.py` reports."""
    script = Path(__file__).with_name("engine_start_once.py")
    process = subprocess.run(
        [sys.executable, str(script), str(model), str(cache), mode],
        env=os.environ | {"PYTHONPATH": str(tree), "HF_HUB_OFFLINE": "1"},
        cwd=tree,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=START_LIMIT_S,
        check=False,
        text=True,
    )
    for line in reversed(process.stdout.splitlines()):
        if line.startswith('{"ready_s"'):
            return json.loads(line)
    error = MeasurementError(f"the engine of {tree} did not start")
    error.add_note("\n".join(process.stdout.splitlines()[-10:]))
    raise error


def summary(starts: Sequence[Mapping[str, Any]]) -> str:
    """The medians of both sides, and the ratio of this one to the other."""
    lines: list[str] = []
    for what, unit in (("ready_s", "s until ready"), ("cpu_s", "CPU seconds")):
        of = {
            side: statistics.median(entry[what] for entry in starts if entry["side"] == side)
            for side in (THIS, OTHER)
        }
        ratio = of[THIS] / of[OTHER]
        lines.append(f"{unit}: {of[THIS]:.1f} here, {of[OTHER]:.1f} there, ratio {ratio:.2f}")
    return "\n".join(lines)
