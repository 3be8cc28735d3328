"""Whether the generator kept up: how late its event loop is, and how late it sent.

Every time that it reports is taken on that loop, so a late loop makes a server look slow.
"""

import asyncio
import time
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from loadtest.report.statistics import spread

PERIOD_S = 0.02
# Above these the generator says that it was the bottleneck.
MOST_LAG_P99_S = 0.05
MOST_LATE_P99_S = 0.05
MOST_CPU = 0.9
# Late with so little work of its own: it was not given the time.
STARVED_CPU = 0.3


@dataclass(slots=True)
class LoopLag:
    """Measured by a timer: `lag_s[i]` is how much later than asked it fired at `at_s[i]`."""

    clock: Callable[[], float]
    at_s: array = field(default_factory=lambda: array("d"))
    lag_s: array = field(default_factory=lambda: array("d"))
    _cpu_s: float = field(default_factory=time.process_time)
    _began_s: float = field(default_factory=time.perf_counter)

    async def run(self) -> None:
        """Until it is cancelled."""
        clock = self.clock
        while True:
            due_s = clock() + PERIOD_S
            await asyncio.sleep(PERIOD_S)
            now_s = clock()
            self.at_s.append(now_s)
            self.lag_s.append(max(0.0, now_s - due_s))

    def last_s(self, span_s: float = 1.0) -> float:
        """The largest of the last second."""
        return max(self.lag_s[-max(1, int(span_s / PERIOD_S)) :], default=0.0)

    def between(self, first_s: float, last_s: float) -> array:
        """Lags of a part of the run."""
        pairs = zip(self.at_s, self.lag_s, strict=True)
        return array("d", (lag_s for at_s, lag_s in pairs if first_s <= at_s <= last_s))

    def cpu(self) -> float:
        """Cores that this process used since it began to measure."""
        wall_s = time.perf_counter() - self._began_s
        return (time.process_time() - self._cpu_s) / wall_s if wall_s > 0 else 0.0


def report(lag_s: array, late_s: Iterable[float | None], cpu: float) -> dict[str, Any]:
    """The generator's own figures, and whether they spoil the others."""
    loop = spread(lag_s)
    late = spread(late_s)
    reasons = []
    if (loop["p99"] or 0) > MOST_LAG_P99_S:
        reasons.append(f"its event loop was late by {loop['p99'] * 1e3:.0f} ms (p99)")
    if (late["p99"] or 0) > MOST_LATE_P99_S:
        reasons.append(f"it sent requests {late['p99'] * 1e3:.0f} ms late (p99)")
    if cpu > MOST_CPU:
        reasons.append(f"it used {cpu:.2f} cores, and has one")
    if reasons and cpu < STARVED_CPU:
        reasons.append(f"it got no more than {cpu:.2f} cores: other programs kept the machine busy")
    return {
        "kept_up": not reasons,
        "why_not": "; ".join(reasons) or None,
        "loop_lag_s": loop,
        "sent_late_s": late,
        "cpu_cores": round(cpu, 3),
    }
