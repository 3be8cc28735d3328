"""Engines on the CPU have the variables that let glibc keep their memory, in a real cluster."""

from pathlib import Path

import pytest

from loadtest.servers.processes import ENGINE, role_of, server_processes
from tests.e2e.site import Site

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(
    not HUGE_PAGES.exists() or "[madvise]" not in HUGE_PAGES.read_text(),
    reason="only where a process must ask for huge pages do they tell who did",
)
def test_engines_on_the_cpu_ask_for_huge_pages(site: Site) -> None:
    engines = [p for p in server_processes(site.cluster.run_id) if role_of(p).startswith(ENGINE)]

    assert len(engines) == 2
    assert all(_huge_kib(process.pid) > 0 for process in engines)


def _huge_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("AnonHugePages:"))
