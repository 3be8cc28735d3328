"""Processes are known by their titles, and measured by what the kernel tells."""

import os

import psutil
import pytest

from loadtest.servers.processes import _part, role_of_title


@pytest.mark.parametrize(
    ("title", "role"),
    [
        ("ray::ServeReplica:reasoning:reasoning", "replica reasoning"),
        ("ray::ServeReplica:web:web.handle_request", "replica web"),
        ("ray::ServeController.run_control_loop", "controller"),
        ("ray::HAProxyManager", "proxy"),
        ("haproxy", "haproxy"),
        ("gcs_server", "gcs"),
        ("ray::IDLE", "other"),
        ("", "other"),
    ],
)
def test_a_title_has_its_role(title: str, role: str) -> None:
    assert role_of_title(title) == role


def test_a_part_has_memory_handles_and_threads() -> None:
    part = _part(psutil.Process())
    assert (part.role, part.pid) == ("other", os.getpid())
    assert part.memory_bytes > 2**20
    assert part.handles >= 3
    assert part.threads >= 1
