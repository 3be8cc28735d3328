"""What is seen while a soak runs: the phase, what comes next, errors so far, memory by role."""

import asyncio
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from loadtest.evaluation.words import mib, number
from loadtest.soak.phases import Course

PERIOD_S = 2.0
PERIOD_UNSEEN_S = 30.0
# Where a line at a time would be thousands of them.
MOST_LINES = 500


class Progress:
    """A table that is drawn anew; a line now and then where the output is no terminal."""

    def __init__(self, course: Course, console: Console) -> None:
        self._course, self._console = course, console
        self._first: dict[str, float] = {}
        self._latest: dict[str, float] = {}
        self._sample: Mapping[str, Any] = {}

    def add(self, sample: Mapping[str, Any]) -> None:
        self._sample, self._latest = sample, memory_by_role(sample)
        for role, held in self._latest.items():
            self._first.setdefault(role, held)

    async def run(self) -> None:
        """Until it is cancelled."""
        if not self._console.is_terminal:
            period_s = max(PERIOD_UNSEEN_S, self._course.plan.duration_s / MOST_LINES)
            while True:
                self._console.print(self.line(), soft_wrap=True, highlight=False, markup=False)
                await asyncio.sleep(period_s)
        with Live(console=self._console, auto_refresh=False, transient=True) as live:
            while True:
                live.update(self.table(), refresh=True)
                await asyncio.sleep(PERIOD_S)

    def line(self) -> str:
        course = self._course
        now_s, of_s = course.traffic.client.clock(), course.plan.duration_s
        told = f"{now_s:,.0f} of {of_s:,.0f} s, {course.phase}"
        if course.coming:
            told += f", next fault: {course.coming}"
        counts = course.counts
        told += (
            f"; {counts['ended']:,} ended, {counts['refused']:,} refused, {counts['wrong']:,} wrong"
        )
        if course.latest_wrong:
            told += f" (latest: {course.latest_wrong})"
        return f"{told}; memory {mib(sum(self._latest.values()))}"

    def table(self) -> Table:
        table = Table(title=self.line(), title_justify="left")
        table.add_column("role")
        for name in ("memory", "at first"):
            table.add_column(name, justify="right")
        for role in sorted(self._first):
            table.add_row(role, mib(self._latest.get(role)), mib(self._first[role]))
        in_flight = sum(self._sample.get("in_flight", {}).values())
        table.caption = f"{in_flight} open, {number(self._sample.get('series'))} series"
        return table


def memory_by_role(sample: Mapping[str, Any]) -> dict[str, float]:
    """Bytes of all processes of each role."""
    found: dict[str, float] = {}
    for part in sample.get("processes", ()):
        found[part["role"]] = found.get(part["role"], 0.0) + part["memory_bytes"]
    return found
