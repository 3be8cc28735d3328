"""The service's processes: which must not die, and how much memory they have."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import psutil

from serve_app.local.cluster import LocalCluster
from serve_app.local.supervisor import processes_of_run

# Beginnings of the titles of processes whose death takes something away from somebody. Workers
# that compile what strangers send, which may be killed, are none of them.
LASTING = ("ray::ServeReplica", "VLLM::", "ray::ServeController", "ray::HAProxy", "ray::Proxy")
LASTING_PROGRAMS = ("raylet", "gcs_server", "haproxy")
SAMPLE_S = 0.5
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Part:
    """A process that must live."""

    title: str
    process: psutil.Process

    @property
    def alive(self) -> bool:
        # psutil distinguishes a process from another that got its number later.
        with suppress(psutil.Error):
            return self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE
        return False

    @property
    def private_bytes(self) -> int:
        """What would be free if it ended."""
        with suppress(psutil.Error):
            return self.process.memory_full_info().uss
        return 0


@dataclass(slots=True)
class Watch:
    cluster: LocalCluster
    parts: list[Part] = field(default_factory=list)
    peak_bytes: int = 0

    def take_stock(self) -> None:
        """From now on these are the processes that must live."""
        found = processes_of_run(self.cluster.run_id, self.cluster.run_dir)
        titled = ((title_of(process), process) for process in found)
        self.parts = [Part(title, process) for title, process in titled if _lasts(title)]

    def dead(self) -> list[str]:
        return [f"{part.title} ({part.process.pid})" for part in self.parts if not part.alive]

    def memory_mib(self) -> dict[str, float]:
        """Private memory of the replicas and engines, by title."""
        sizes: dict[str, float] = {}
        for part in self.parts:
            sizes[part.title] = sizes.get(part.title, 0.0) + part.private_bytes / MIB
        return sizes

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Keep the highest sum of all processes' resident memory, workers too."""
        stop = threading.Event()

        def sample() -> None:
            while not stop.wait(SAMPLE_S):
                self.peak_bytes = max(
                    self.peak_bytes, _resident_bytes(part.process for part in self.parts)
                )

        sampler = threading.Thread(target=sample, daemon=True)
        sampler.start()
        try:
            yield
        finally:
            stop.set()
            sampler.join()


def title_of(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        command = process.cmdline()
        if command:
            return command[0].rsplit("/", 1)[-1] if "/" in command[0] else command[0]
    return ""


def _lasts(title: str) -> bool:
    return title.startswith(LASTING) or title in LASTING_PROGRAMS


def _resident_bytes(processes: Iterable[psutil.Process]) -> int:
    """Of these and their children, each once."""
    sizes: dict[int, int] = {}
    for process in processes:
        with suppress(psutil.Error):
            for one in (process, *process.children()):
                with suppress(psutil.Error):
                    sizes[one.pid] = one.memory_info().rss
    return sum(sizes.values())
