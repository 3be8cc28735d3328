"""Only engines interrupt what runs on their cores: a real cluster as `make serve` starts it."""

import contextlib
import os

import psutil

from loadtest.servers.processes import ENGINE, HAPROXY, OTHER, role_of, server_processes
from tests.e2e.site import Site

AMONG_THEM = {
    "engine chat", "engine reasoning", "replica chat", "replica reasoning", "replica web",
    "controller", "gcs", "raylet", HAPROXY,
}  # fmt: skip


def test_engines_interrupt_and_all_else_gives_way(site: Site) -> None:
    found: dict[str, set[int]] = {}
    for process in server_processes(site.cluster.run_id):
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            classes = {os.sched_getscheduler(thread.id) for thread in process.threads()}
            found.setdefault(role_of(process), set()).update(classes)

    # Helpers of Python's and vLLM's: what tracks an engine's semaphores is started with it.
    found.pop(OTHER, None)
    assert found.keys() >= AMONG_THEM
    assert found == {
        role: {os.SCHED_OTHER if role.startswith(ENGINE) else os.SCHED_BATCH} for role in found
    }
