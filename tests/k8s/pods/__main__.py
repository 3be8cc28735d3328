"""Run the Pods by hand, then write what it measured into docs/kubernetes.md."""

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loadtest.report.pages import between_markers
from loadtest.report.results_file import (
    META,
    REPOSITORY,
    commit,
    machine,
    versions,
    write,
)
from tests.k8s.pods.conftest import IMAGE_VARIABLE, OVERLAY
from tests.k8s.pods.watch import PREFIX

RESULTS = REPOSITORY / "loadtest" / "results" / "pods.json"
PAGE = REPOSITORY / "docs" / "kubernetes.md"
MIB = 2**20


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.k8s.pods", description=__doc__)
    parser.add_argument("--image", type=Path, help="a folder that `make test-image` has filled; "
                        "default: this machine's own root and environment")  # fmt: skip
    options = parser.parse_args()
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with tempfile.TemporaryDirectory(prefix="tierserve-figures-") as folder:
        figures = Path(folder) / "figures.json"
        environment = os.environ | {"E2E_FIGURES": str(figures)}
        if options.image:
            environment[IMAGE_VARIABLE] = str(options.image.resolve())
        tests = [sys.executable, "-m", "pytest", "-m", "e2e", "tests/k8s/pods"]
        status = subprocess.run(tests, cwd=REPOSITORY, env=environment, check=False).returncode
        if status != 0 or not figures.exists():
            print("nothing is written: the tests failed, or were skipped for the reason above")
            return status or 1
        kept = json.loads(figures.read_text())
    pods = {n.removeprefix(PREFIX): f for n, f in kept.items() if n.startswith(PREFIX)}
    root = "the image of `make test-image`" if options.image else "this machine's packages"
    meta = {"date": date, "commit": commit(), "machine": machine(), "versions": versions()}
    write(RESULTS, {META: meta, "root": root, "pods": pods})
    text = between_markers(PAGE.read_text(), "pods", table(json.loads(RESULTS.read_text())))
    PAGE.write_text(text)
    print(f"written: {RESULTS.relative_to(REPOSITORY)}, {PAGE.relative_to(REPOSITORY)}")
    return 0


def table(results: Mapping[str, Any]) -> str:
    """What was done, and what became of it."""
    pods, meta = results["pods"], results[META]
    start, memory = pods["start"], pods["memory"]
    rows = [
        ("nothing there", f"head ready after {start['head_s']:.0f} s; both tiers serve after "
         f"{start['serving_s']:.0f} s; all workers ready {start['ready_s']:.0f} s later"),
        ("`user_config` changed under a stream", f"holds {pods['reload']['seconds']:.1f} s later; "
         "same engine processes, the stream whole"),
        *((what, _outcome_text(pods[what])) for what in pods if "back_s" in pods[what]),
        ("most memory of a Pod", ", ".join(f"{role} {used / MIB:,.0f} MiB"
         for role, used in sorted(memory.items()) if used)),
    ]  # fmt: skip
    caption = (
        f"Overlay `{OVERLAY}`, {meta['machine']['cores']} cores of {meta['machine']['cpu']}, from "
        f"{results['root']}, {meta['date'][:10]}, commit {meta['commit']}."
    )
    lines = ["| done | what became of it |", "|---|---|"]
    return "\n".join([*lines, *(f"| {a} | {b} |" for a, b in rows), "", caption])


def _outcome_text(figures: Mapping[str, Any]) -> str:
    parts = [f"back after {figures['back_s']:.0f} s"]
    for tier, counts in figures.items():
        if not isinstance(counts, Mapping):
            continue
        came, refused = counts["requests_after"], counts["requests_after_refused"]
        part = f"{tier}: {counts['requests_after_failed'] - refused} of {came} requests failed"
        if refused:
            part += f", {refused} refused with Retry-After"
        part += f", longest {counts['longest_request_s']:.1f} s"
        if counts["streams"]:
            part += f", {counts['running_requests_cut']} of {counts['streams']} streams cut"
        parts.append(part)
    return "; ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
