"""What a part's death costs: runs the tests that kill parts, keeps their counts, shows them."""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from loadtest.report.pages import write_section
from loadtest.report.results_file import (
    META,
    REPOSITORY,
    RESULTS,
    provenance,
    read,
    taken_on,
    write,
)

OUT = RESULTS / "faults.json"
PREFIX = "fault: "
HEADER = (
    "| killed under load | tier | cut while running | requests that came afterwards "
    "| longest wait | all back after |",
    "|---|---|---|---|---:|---:|",
)
DESCRIPTION = (
    "Runs the tests that kill a replica, an engine, HAProxy and the controller "
    "under load, and writes loadtest/results/faults.json and the table of the docs."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """None."""


def run(options: argparse.Namespace, argv: list[str], console: Console) -> int:
    """Run the tests, write the results file and the table; the tests' exit status."""
    meta = provenance(argv)
    with tempfile.TemporaryDirectory(prefix="tierserve-faults-") as folder:
        figures = Path(folder) / "figures.json"
        tests = [sys.executable, "-m", "pytest", "-m", "e2e", "tests/e2e/replicas/test_faults.py"]
        environment = os.environ | {"E2E_FIGURES": str(figures)}
        status = subprocess.run(tests, cwd=REPOSITORY, env=environment, check=False).returncode
        if status != 0:
            console.print("the tests failed: nothing is written")
            return status
        kept = read(figures)
    faults = {n.removeprefix(PREFIX): f for n, f in kept.items() if n.startswith(PREFIX)}
    results = {META: meta, "faults": faults}
    write(OUT, results)
    write_section("faults", table(results))
    return 0


def table(results: Mapping[str, Any]) -> str:
    """A row for each part and tier."""
    rows = [
        _row(part, tier, counts, figures["back_s"])
        for part, figures in results["faults"].items()
        for tier, counts in figures.items()
        if isinstance(counts, Mapping)
    ]
    caption = (
        "Two replicas of chat, one of reasoning, pauses of the whole machine left out; "
        f"{taken_on(results[META])}; `python -m loadtest faults` measures it again."
    )
    return "\n".join([*HEADER, *rows, "", caption])


def _row(part: str, tier: str, counts: Mapping[str, float], back_s: float) -> str:
    came, failed = counts["requests_after"], counts["requests_after_failed"]
    answered = f"{came - failed} of {came} served"
    if failed:
        answered += f", the others refused or failed in the first {counts['failing_for_s']:.0f} s"
    cells = (
        part,
        tier,
        f"{counts['running_requests_cut']} ({counts['streams']} streams ran)",
        answered,
        f"{counts['longest_request_s']:.1f} s",
        f"{back_s:.0f} s",
    )
    return f"| {' | '.join(cells)} |"
