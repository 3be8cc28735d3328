"""The server's processes, and what each of them holds."""

import contextlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import psutil

from loadtest.process_cpu import server_processes
from loadtest.process_roles import role_of


@dataclass(frozen=True, slots=True)
class Part:
    """A process at one moment. `memory_bytes` is its proportional share (PSS) where the kernel
    tells it, which counts shared pages once in all; else what is resident."""

    role: str
    pid: int
    started_s: float
    memory_bytes: int
    handles: int
    threads: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def parts(run_id: str) -> list[Part]:
    """Of the server that was started with this run id."""
    found = []
    for process in server_processes(run_id):
        with contextlib.suppress(psutil.Error, OSError):
            found.append(_part(process))
    return found


def pids_of(run_id: str, role: str) -> list[int]:
    """A role's processes, the oldest first."""
    found = [(process.create_time(), process.pid) for process in _of_role(run_id, role)]
    return [pid for _, pid in sorted(found)]


def _of_role(run_id: str, role: str) -> Sequence[psutil.Process]:
    found = []
    for process in server_processes(run_id):
        with contextlib.suppress(psutil.Error, OSError):
            if role_of(process) == role and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _part(process: psutil.Process) -> Part:
    with process.oneshot():
        try:
            memory_bytes = process.memory_full_info().pss
        except (psutil.AccessDenied, AttributeError):
            memory_bytes = process.memory_info().rss
        return Part(
            role=role_of(process),
            pid=process.pid,
            started_s=process.create_time(),
            memory_bytes=memory_bytes,
            handles=process.num_fds(),
            threads=process.num_threads(),
        )
