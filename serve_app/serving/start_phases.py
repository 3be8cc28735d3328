"""How long each phase of a replica's start took: in the log, the metrics and its report."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
from prometheus_client import Gauge

log = logging.getLogger(__name__)

# Before the replica is made: Python, Ray's worker, the imports of Serve and of this package.
# Nothing where the process was pre-started.
PROCESS = "process"
# From the start's first moment to the first health check.
TOTAL = "total"

# Ray imports this module before a worker may wait for work (`RAY_preload_python_modules`).
_IMPORTED_S = time.monotonic()
# A process that is started for a replica takes one or two seconds from there to the replica.
PRE_STARTED_S = 6.0


def _process_s() -> float:
    if time.monotonic() - _IMPORTED_S > PRE_STARTED_S:
        return 0.0
    return time.time() - psutil.Process().create_time()


class StartPhases:
    """Made when the replica is. `compile` is a part of `load`; `total` is more than their sum."""

    def __init__(
        self,
        gauge: Gauge,
        process_s: Callable[[], float] = _process_s,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._gauge = gauge
        self._now_s = now_s
        self._seconds: dict[str, float] = {}
        self._began_s = now_s()
        self.record(PROCESS, process_s())

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Log and measure one phase of the start."""
        log.info("%s begins", name, extra={"phase": name})
        started_s = time.monotonic()
        yield
        self.record(name, time.monotonic() - started_s)

    def record(self, name: str, duration_s: float) -> None:
        """Keep the duration of a phase that is over."""
        self._seconds[name] = duration_s
        self._gauge.labels(phase=name).set(duration_s)
        log.info("%s done", name, extra={"phase": name, "duration_s": round(duration_s, 2)})

    def end(self) -> None:
        """The replica is ready."""
        self.record(TOTAL, self._seconds[PROCESS] + self._now_s() - self._began_s)

    @property
    def total_s(self) -> float:
        """Seconds of the whole start; 0.0 until it is over."""
        return self._seconds.get(TOTAL, 0.0)

    def report(self) -> dict[str, float]:
        """Seconds of each phase, in the order in which they ended."""
        return {name: round(seconds, 2) for name, seconds in self._seconds.items()}
