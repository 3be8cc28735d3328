"""What a newcomer meets: a clean clone, `make serve`, the README's curl commands, `make test`."""

import datetime
import json
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

from loadtest.readme_table import between_markers
from loadtest.results_file import REPOSITORY, commit, machine, write

RESULTS = REPOSITORY / "loadtest" / "results" / "first_run.json"
# What `make serve` says last when all that it started has ended.
STOPPED = "stopped: nothing is left running"
READY = re.compile(r"Ready after \d+ s at (http://\S+)")
README_PORT = "http://127.0.0.1:8000"
START_LIMIT_S = 1800.0


class FirstRunError(RuntimeError):
    """A step of the first run failed; the message says which."""


@dataclass(frozen=True, slots=True)
class Started:
    """A running `make serve`, and how long it took."""

    base_url: str
    ready_s: float


def run(port: int, *, with_tests: bool, console: Console) -> int:
    """Clone, serve twice, ask, test; write the results file and the README's lines."""
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    results: dict[str, Any] = {"meta": {"date": date, "commit": commit(), "machine": machine()}}
    with tempfile.TemporaryDirectory(prefix="tierserve-first-run-") as folder:
        clone = Path(folder) / "tierserve"
        subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(clone)], check=True)
        console.print("make serve, from a clean clone: set-up included")
        with serving(clone, port, console) as first:
            results["first_start_s"] = round(first.ready_s, 1)
            results["answers"] = [
                ask(command, first.base_url) for command in curl_commands(clone / "README.md")
            ]
        console.print("make serve, a second time")
        with serving(clone, port, console) as second:
            results["second_start_s"] = round(second.ready_s, 1)
        if with_tests:
            console.print("make test")
            began_s = time.monotonic()
            if subprocess.run(["make", "test"], cwd=clone, check=False).returncode != 0:
                raise FirstRunError("make test failed in the clean clone")
            results["test_s"] = round(time.monotonic() - began_s, 1)
    write(RESULTS, results)
    write_readme(results, REPOSITORY / "README.md")
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
        ["bash", "-c", command.replace(README_PORT, base_url)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    events = [line[6:] for line in answer.splitlines() if line.startswith("data: {")]
    pieces = [json.loads(event)["choices"][0]["delta"].get("content") for event in events]
    text = "".join(piece for piece in pieces if piece)
    if "data: [DONE]" not in answer or not text:
        raise FirstRunError(f"no streamed answer to {command!r}: {answer[:300]!r}")
    return {"text": text, "chunks": len(events), "e2e_s": round(time.monotonic() - began_s, 2)}


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
        raise FirstRunError("make serve did not end in order after Ctrl-C")


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
    raise FirstRunError("make serve ended before it was ready")


def sentences(results: Mapping[str, Any]) -> str:
    """What the README says of the first run."""
    meta = results["meta"]
    tests = f" `make test` took {results['test_s'] / 60:.0f} min." if "test_s" in results else ""
    answer = results["answers"][0]
    return (
        f"From a clean clone `make serve` was ready after {results['first_start_s']:.0f} s, "
        f"set-up included; a second start took {results['second_start_s']:.0f} s.{tests} "
        f"The first command answered “{answer['text']}” in {answer['e2e_s']:.1f} s. "
        f"({meta['machine']['cores']} cores of {meta['machine']['cpu']}, package downloads from a "
        f"nearby mirror, {meta['date'][:10]}, commit {meta['commit']}; "
        "`python -m loadtest first-run` measures it again.)"
    )


def write_readme(results: Mapping[str, Any], readme: Path) -> None:
    """Put the sentences between the README's markers."""
    text = readme.read_text(encoding="utf-8")
    readme.write_text(between_markers(text, "first-run", sentences(results)), encoding="utf-8")
