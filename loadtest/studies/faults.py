"""What a part's death costs: runs the tests that kill parts, keeps their counts, shows them."""

import datetime
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from loadtest.readme_table import between_markers
from loadtest.results_file import META, REPOSITORY, commit, machine, write

RESULTS = REPOSITORY / "loadtest" / "results" / "faults.json"
PREFIX = "fault: "
HEADER = (
    "| killed under load | tier | cut while running | requests that came afterwards "
    "| longest wait | all back after |",
    "|---|---|---|---|---:|---:|",
)


def run(console: Console) -> int:
    """Run the tests, write the results file and the README's table; the tests' exit status."""
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with tempfile.TemporaryDirectory(prefix="tierserve-faults-") as folder:
        figures = Path(folder) / "figures.json"
        tests = [sys.executable, "-m", "pytest", "-m", "e2e", "tests/e2e/replicas/test_faults.py"]
        environment = os.environ | {"E2E_FIGURES": str(figures)}
        status = subprocess.run(tests, cwd=REPOSITORY, env=environment, check=False).returncode
        if status != 0:
            console.print("the tests failed: nothing is written")
            return status
        kept = json.loads(figures.read_text())
    faults = {n.removeprefix(PREFIX): f for n, f in kept.items() if n.startswith(PREFIX)}
    meta = {"date": date, "commit": commit(), "machine": machine()}
    write(RESULTS, {META: meta, "faults": faults})
    write_readme(json.loads(RESULTS.read_text()), REPOSITORY / "README.md")
    return 0


def write_readme(results: Mapping[str, Any], readme: Path) -> None:
    """Put the table between the README's markers."""
    text = readme.read_text(encoding="utf-8")
    readme.write_text(between_markers(text, "faults", table(results)), encoding="utf-8")


def table(results: Mapping[str, Any]) -> str:
    """A row for each part and tier."""
    rows = [
        _row(part, tier, counts, figures["back_s"])
        for part, figures in results["faults"].items()
        for tier, counts in figures.items()
        if isinstance(counts, Mapping)
    ]
    meta = results[META]
    caption = (
        f"Two replicas of chat, one of reasoning, {meta['machine']['cores']} cores of "
        f"{meta['machine']['cpu']}, pauses of the whole machine left out, {meta['date'][:10]}, "
        f"commit {meta['commit']}; `python -m loadtest faults` measures it again."
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
