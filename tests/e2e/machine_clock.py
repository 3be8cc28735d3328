"""Time in which a process of this machine got its turn.

A host may stop a virtual machine, and Linux 6.18 with scheduling groups for sessions (README,
Limits) may leave some processes without a core for seconds while others run. Such a gap (5 to 28 s
were seen) says nothing of the server, so the tests' durations leave it out.
"""

import threading
import time
from collections.abc import Callable
from functools import cache

TICK_S = 0.02
# A thread that only sleeps gets its turn within this time on busy cores that are shared fairly.
LONGEST_TICK_S = 0.5


def clock_s() -> float:
    """Monotonic seconds without such gaps, since an arbitrary moment."""
    return _clock().read_s()


@cache
def _clock() -> "MachineClock":
    clock = MachineClock(time.monotonic)
    threading.Thread(target=_tick_on, args=(clock,), name="machine-clock", daemon=True).start()
    return clock


def _tick_on(clock: "MachineClock") -> None:
    while True:
        time.sleep(TICK_S)
        clock.read_s()


class MachineClock:
    """Where two readings lie further apart than `LONGEST_TICK_S`, the reader had no turn."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._paused_s = 0.0
        self._read_s = now_s()
        self._lock = threading.Lock()

    def read_s(self) -> float:
        with self._lock:
            now_s = self._now_s()
            self._paused_s += max(0.0, now_s - self._read_s - LONGEST_TICK_S)
            self._read_s = now_s
            return now_s - self._paused_s
