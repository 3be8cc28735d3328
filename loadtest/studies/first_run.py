"""What a newcomer meets: a clean clone, `make serve`, the README's curl commands, `make test`."""

import argparse
import os
import re
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from loadtest.client.stream import TextReader
from loadtest.errors import MeasurementError
from loadtest.report.pages import write_section
from loadtest.report.results_file import META, REPOSITORY, RESULTS, provenance, taken_on, write

OUT = RESULTS / "first_run.json"
# What `make serve` says last when all that it started has ended.
STOPPED = "stopped: nothing is left running"
READY = re.compile(r"Ready after \d+ s at (http://\S+)")
README_PORT = "http://127.0.0.1:8000"
START_LIMIT_S = 1800.0
HELP_FORMAT = argparse.HelpFormatter
DESCRIPTION = (
    "Does what a newcomer does with the last commit, measures how long it takes, "
    "and writes loadtest/results/first_run.json and the sentences of the docs about it."
)


@dataclass(frozen=True, slots=True)
class Started:
    """A running `make serve`, and how long it took."""

    base_url: str
    ready_s: float


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--no-tests", action="store_true", help="leave `make test` out")


def run(options: argparse.Namespace, argv: list[str], console: Console) -> int:
    """Clone, serve twice, ask, test; write the results file and the sentences."""
    results: dict[str, Any] = {META: provenance(argv)}
    with tempfile.TemporaryDirectory(prefix="tierserve-first-run-") as folder:
        clone = Path(folder) / "tierserve"
        subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(clone)], check=True)
        console.print("make serve, from a clean clone: set-up included")
        with serving(clone, options.port, console) as first:
            results["first_start_s"] = round(first.ready_s, 1)
            results["answers"] = [
                ask(command, first.base_url) for command in curl_commands(clone / "README.md")
            ]
        console.print("make serve, a second time")
        with serving(clone, options.port, console) as second:
            results["second_start_s"] = round(second.ready_s, 1)
        if not options.no_tests:
            console.print("make test")
            began_s = time.monotonic()
            if subprocess.run(["make", "test"], cwd=clone, check=False).returncode != 0:
                raise MeasurementError("make test failed in the clean clone")
            results["test_s"] = round(time.monotonic() - began_s, 1)
    write(OUT, results)
    write_section("first-run", sentences(results))
    console.print(sentences(results))
    return 0


def curl_commands(readme: Path) -> list[str]:
    """The README's `curl -N` commands, as they stand."""
    blocks = re.findall(r"```bash\n(.*?)```", readme.read_text(encoding="utf-8"), re.DOTALL)
    return [block.strip() for block in blocks if block.startswith("curl -N")]


def ask(command: str, base_url: str) -> dict[str, Any]:
    """Run one curl command in a shell as a reader would; its streamed text and times."""
    began_s = time.monotonic()
    answer = subprocess.run(
        ["bash", "-c", command.replace(README_PORT, base_url)], capture_output=True, check=True
    ).stdout
    took_s, reader = time.monotonic() - began_s, TextReader()
    reader.feed(answer, took_s)
    reader.close(took_s)
    if not (reader.done and reader.content):
        raise MeasurementError(f"no streamed answer to {command!r}: {answer[:300]!r}")
    return {"text": reader.content, "chunks": len(reader.token_s), "e2e_s": round(took_s, 2)}


@contextmanager
def serving(clone: Path, port: int, console: Console) -> Iterator[Started]:
    """`make serve` in the clone until the block ends, then Ctrl-C, which must end it in order."""
    # The environment of this package's own virtual environment is not a newcomer's.
    environment = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHONPATH")}
    began_s = time.monotonic()
    process = subprocess.Popen(
        ["make", "serve", f"PORT={port}"],
        cwd=clone,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    with ThreadPoolExecutor(max_workers=1) as pool:
        try:
            base_url = _wait_until_ready(process, console)
            # Read on, so that its log lines never fill the pipe.
            rest = pool.submit(process.communicate)
            yield Started(base_url, time.monotonic() - began_s)
        finally:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(timeout=90)
    # make ends by the signal itself, so its status says nothing of what it ran.
    if STOPPED not in rest.result()[0]:
        raise MeasurementError("make serve did not end in order after Ctrl-C")


def _wait_until_ready(process: "subprocess.Popen[str]", console: Console) -> str:
    assert process.stdout is not None
    overdue = threading.Timer(START_LIMIT_S, process.kill)
    overdue.start()
    try:
        for line in process.stdout:
            console.print(f"  {line.rstrip()}", highlight=False, markup=False)
            if found := READY.search(line):
                return found[1]
    finally:
        overdue.cancel()
    raise MeasurementError("make serve ended before it was ready")


def sentences(results: Mapping[str, Any]) -> str:
    """What the README says of the first run."""
    tests = f" `make test` took {results['test_s'] / 60:.0f} min." if "test_s" in results else ""
    answer = results["answers"][0]
    return (
        f"From a clean clone `make serve` was ready after {results['first_start_s']:.0f} s, "
        f"set-up included; a second start took {results['second_start_s']:.0f} s.{tests} "
        f"The first command answered “{answer['text']}” in {answer['e2e_s']:.1f} s. "
        f"(Package downloads from a nearby mirror; {taken_on(results[META])}; "
        "`python -m loadtest first-run` measures it again.)"
    )
