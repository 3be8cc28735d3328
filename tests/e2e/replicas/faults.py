"""The parts of a cluster on this machine that tests kill."""

import os
import signal
from collections.abc import Sequence

import httpx
import psutil

from tests.e2e.site import Site


def kill(process: psutil.Process) -> None:
    os.kill(process.pid, signal.SIGKILL)


def process_of(site: Site, title: str) -> psutil.Process:
    """The one process of this cluster whose command line begins so."""
    (raylet,) = (
        process
        for process in psutil.process_iter(["cmdline"])
        if is_raylet(process.info["cmdline"] or [], str(site.cluster.run_dir))
    )
    found = [child for child in raylet.children(recursive=True) if begins(child, title)]
    assert len(found) == 1, f"{title}: {found}"
    return found[0]


def is_raylet(command: Sequence[str], run_dir: str) -> bool:
    return bool(command) and command[0].endswith("/raylet") and run_dir in " ".join(command)


def begins(process: psutil.Process, title: str) -> bool:
    try:
        command = process.cmdline()
    except psutil.Error:
        return False
    return bool(command) and command[0].rsplit("/", 1)[-1].startswith(title)


def answers(site: Site) -> bool:
    try:
        return site.get("/readyz").status_code == 200
    except httpx.HTTPError:
        return False
