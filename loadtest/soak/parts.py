"""The server's processes by what they are, and what each of them holds."""

import contextlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from loadtest.process_cpu import server_processes
from serve_app.core.tiers import Tier

# By the begin of the title that a process gives itself.
TITLES = (
    ("ray::ServeController", "controller"),
    ("ray::ProxyActor", "proxy"),
    ("ray::HAProxyManager", "proxy"),
    ("haproxy", "haproxy"),
    ("raylet", "raylet"),
    ("gcs_server", "gcs"),
    ("ray-dashboard", "dashboard"),
    ("dashboard.py", "dashboard"),
    ("ray::DashboardAgent", "dashboard agent"),
    ("ray::RuntimeEnvAgent", "runtime-env agent"),
)
REPLICA = "ray::ServeReplica:"
ENGINE = "VLLM::"
# Workers that Ray starts ahead and ends again as it likes.
IDLE = "ray::IDLE"
OTHER = "other"


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


def role_of(process: psutil.Process) -> str:
    """`engine chat`, `replica web`, `haproxy`; what is not known by its title is `other`."""
    title = title_of(process)
    if title.startswith(ENGINE):
        parent = process.parent()
        owner = _replica(title_of(parent)) if parent is not None else ""
        return f"engine {owner}".strip()
    return role_of_title(title)


def role_of_title(title: str) -> str:
    if title.startswith(REPLICA):
        return f"replica {_replica(title)}"
    return next((role for begin, role in TITLES if title.startswith(begin)), OTHER)


def title_of(process: psutil.Process) -> str:
    """The first word of the command line without its folder, or the script that Python runs; '' of
    a process that is gone."""
    try:
        command = process.cmdline()
    except psutil.Error:
        return ""
    first = command[0] if command else ""
    if "::" in first:
        return first  # may have a slash behind its colons
    script = next((Path(word).name for word in command if word.endswith(".py")), "")
    return script or Path(first).name


def role_of_tier(role: str, tier: Tier | str) -> str:
    return f"{role} {tier}"


def _replica(title: str) -> str:
    """`ray::ServeReplica:chat:chat.handle_request` is chat's."""
    return title.removeprefix(REPLICA).partition(":")[0] if title.startswith(REPLICA) else ""


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
