"""CPU time of a whole server, all its processes included, and freezing it while another is timed.

A server runs below a supervisor that carries its run id and takes in its orphans, so its processes
are the marked ones and all their descendants; a process that sets its title hides its mark.
"""

import contextlib
import os
import signal
from collections import defaultdict
from collections.abc import Iterable, Iterator

import psutil

from loadtest.process_roles import BARE_SERVER, HAPROXY, role_of
from serve_app.local.supervisor import RUN_ID_VARIABLE

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
