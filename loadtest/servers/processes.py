"""A server's processes: what each is, what it uses, and how all are frozen."""

import contextlib
import os
import signal
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from serve_app.core.tiers import Tier
from serve_app.local.supervisor import RUN_ID_VARIABLE

# vLLM's own, without Ray.
BARE_SERVER = "vllm server"
HAPROXY = "haproxy"
# By the begin of the title that a process gives itself.
TITLES = (
    ("api_server", BARE_SERVER),
    ("ray::ServeController", "controller"),
    ("ray::ProxyActor", "proxy"),
    ("ray::HAProxyManager", "proxy"),
    ("haproxy", HAPROXY),
    ("raylet", "raylet"),
    ("gcs_server", "gcs"),
    ("ray-dashboard", "dashboard"),
    ("dashboard.py", "dashboard"),
    ("ray::DashboardAgent", "dashboard agent"),
    ("ray::RuntimeEnvAgent", "runtime-env agent"),
)
REPLICA_TITLE = "ray::ServeReplica:"
ENGINE_TITLE = "VLLM::"
# Where the engine's process cannot set its title, which happens, it keeps how Python has begun it.
SPAWNED = "multiprocessing.spawn"
ENGINE_OWNERS = ("replica", "vllm")
OTHER = "other"


def role_of(process: psutil.Process) -> str:
    """`engine chat`, `replica web`, `haproxy`; what is not known by its title is `other`."""
    title = title_of(process)
    if not title.startswith(ENGINE_TITLE) and title != SPAWNED:
        return role_of_title(title)
    owner_title = _title_of_parent(process)
    if title == SPAWNED and role_of_title(owner_title).partition(" ")[0] not in ENGINE_OWNERS:
        return OTHER
    return f"engine {_replica(owner_title)}".strip()


def role_of_title(title: str) -> str:
    if title.startswith(REPLICA_TITLE):
        return f"replica {_replica(title)}"
    return next((role for begin, role in TITLES if title.startswith(begin)), OTHER)


def title_of(process: psutil.Process) -> str:
    """The first word of the command line without its folder, or the script or module that Python
    runs; '' of a process that has ended."""
    try:
        command = process.cmdline()
    except psutil.Error:
        return ""
    first = command[0] if command else ""
    if "::" in first:
        return first  # may have a slash behind its colons
    if SPAWNED in " ".join(command):
        return SPAWNED
    if "-m" in command[:-1]:
        return command[command.index("-m") + 1].rpartition(".")[2]
    script = next((Path(word).name for word in command if word.endswith(".py")), "")
    return script or Path(first).name


def role_of_tier(role: str, tier: Tier | str) -> str:
    return f"{role} {tier}"


def _title_of_parent(process: psutil.Process) -> str:
    try:
        parent = process.parent()
    except psutil.Error:
        return ""
    return "" if parent is None else title_of(parent)


def _replica(title: str) -> str:
    """`ray::ServeReplica:chat:chat.handle_request` is chat's."""
    return (
        title.removeprefix(REPLICA_TITLE).partition(":")[0]
        if title.startswith(REPLICA_TITLE)
        else ""
    )


ENGINE, SERVER, RAY = "engine", "server", "ray"
REPLICA_KIND, WEB = "replica", "replica web"
BUSY_KINDS = ("user", "nice", "system", "irq", "softirq", "steal")


def server_processes(run_id: str) -> list[psutil.Process]:
    """Every live process of the server that was started with this run id; never the caller."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        if process.pid in found:
            continue  # came as a child, and its own children with it
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(RUN_ID_VARIABLE) == run_id:
                found[process.pid] = process
                found.update({child.pid: child for child in process.children(recursive=True)})
    found.pop(os.getpid(), None)
    return list(found.values())


def cpu_s(processes: Iterable[psutil.Process]) -> float:
    """User and system time, with that of children that ended: it never falls when one ends."""
    total_s = 0.0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total_s += times.user + times.system + times.children_user + times.children_system
    return total_s


def cpu_by_part_s(run_id: str) -> dict[str, float]:
    """CPU time of `engine`, `server` (what stands between HTTP and the engine), `haproxy` and
    `ray`, which is all else."""
    used_s: defaultdict[str, float] = defaultdict(float)
    for process in server_processes(run_id):
        with contextlib.suppress(psutil.Error):
            used_s[part_of(role_of(process))] += cpu_s([process])
    return used_s


def part_of(role: str) -> str:
    """Of Ray's systems the replicas do what vLLM's own server does, but for tierserve's `web`."""
    kind = role.partition(" ")[0]
    if kind in (ENGINE, HAPROXY):
        return kind
    is_server = role == BARE_SERVER or (kind == REPLICA_KIND and role != WEB)
    return SERVER if is_server else RAY


def machine_busy_s() -> float:
    """CPU time that anything on this machine used, or that its host took away."""
    times = psutil.cpu_times()._asdict()
    return sum(times[kind] for kind in BUSY_KINDS)


@contextlib.contextmanager
def frozen(run_ids: Iterable[str]) -> Iterator[None]:
    """The servers stand still inside the block, so that none slows the one that is measured."""
    stopped = [process for run_id in run_ids for process in server_processes(run_id)]
    try:
        _signal(stopped, signal.SIGSTOP)
        yield
    finally:
        _signal(stopped, signal.SIGCONT)


def _signal(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)


@dataclass(frozen=True, slots=True)
class Part:
    """A process at one moment. `memory_bytes` is its proportional share (PSS) where the kernel
    reports it, which counts shared pages once in all; else what is resident."""

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
