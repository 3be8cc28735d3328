"""Time in which this machine ran.

A virtual machine may be stopped by its host for seconds: no process runs, and every clock has
advanced afterwards. Such a pause (5 to 23 s were seen where this was written) says nothing of the
server, so the tests' durations leave it out.
"""

import threading
import time
from functools import cache

TICK_S = 0.02
# A thread that only sleeps gets its turn within this time, however busy the cores are.
LONGEST_TICK_S = 0.5


def clock_s() -> float:
    """Monotonic seconds in which this machine ran, since an arbitrary moment."""
    return _clock().read_s()


@cache
def _clock() -> "MachineClock":
    return MachineClock()


class MachineClock:
    """A thread ticks: where two ticks lie further apart than `LONGEST_TICK_S`, nothing has run."""

    def __init__(self) -> None:
        self._paused_s = 0.0
        self._ticked_s = time.monotonic()
        self._lock = threading.Lock()
        threading.Thread(target=self._tick_on, name="machine-clock", daemon=True).start()

    def read_s(self) -> float:
        with self._lock:
            now_s = time.monotonic()
            self._paused_s += max(0.0, now_s - self._ticked_s - LONGEST_TICK_S)
            self._ticked_s = now_s
            return now_s - self._paused_s

    def _tick_on(self) -> None:
        while True:
            time.sleep(TICK_S)
            self.read_s()
