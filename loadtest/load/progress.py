"""What is seen while a load test runs: each tier's counts and latest latencies, and the lag."""

import asyncio
from collections import Counter, deque
from dataclasses import dataclass, field
from statistics import median

from rich.console import Console
from rich.live import Live
from rich.table import Table

from loadtest.evaluation.words import seconds
from loadtest.load.generator import Generator
from loadtest.load.lag import LoopLag
from loadtest.load.record import Outcome, Record

# Drawing takes milliseconds of the loop that also reads the streams.
PERIOD_S = 1.0
PERIOD_UNSEEN_S = 30.0
LATEST = 100


@dataclass(slots=True)
class _Seen:
    """Of one tier."""

    ended: Counter[Outcome] = field(default_factory=Counter)
    chunks: int = 0
    ttft_s: deque[float] = field(default_factory=lambda: deque(maxlen=LATEST))


class Progress:
    """A table that is drawn anew; a line now and then where the output is no terminal."""

    def __init__(self, generator: Generator, lag: LoopLag, console: Console) -> None:
        self._generator, self._lag, self._console = generator, lag, console
        self._seen: dict[str, _Seen] = {}
        self._last: tuple[float, dict[str, int]] = (0.0, {})

    def add(self, record: Record) -> None:
        seen = self._seen.setdefault(record.tier, _Seen())
        seen.ended[record.outcome] += 1
        seen.chunks += len(record.token_s)
        if record.served:
            seen.ttft_s.append(record.ttft_s or 0.0)

    async def run(self) -> None:
        """Until it is cancelled."""
        if not self._console.is_terminal:
            while True:
                await asyncio.sleep(PERIOD_UNSEEN_S)
                self._console.print(self.line(), soft_wrap=True, highlight=False)
        with Live(console=self._console, auto_refresh=False, transient=True) as live:
            while True:
                live.update(self.table(), refresh=True)
                await asyncio.sleep(PERIOD_S)

    def line(self) -> str:
        ended = sum((seen.ended for seen in self._seen.values()), Counter())
        told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(ended.items()))
        return (
            f"{self._generator.clock():.0f} s: {len(self._generator.active)} in flight, "
            f"{told or 'none ended'}; lag {self._lag.last_s() * 1e3:.0f} ms"
        )

    def table(self) -> Table:
        now_s, chunks = self._generator.clock(), self._chunks()
        before_s, before = self._last
        table = Table(
            title=f"{self._generator.scenario.name}, {now_s:.0f} s; generator's lag "
            f"{self._lag.last_s() * 1e3:.0f} ms, {self._lag.cpu():.0%} of a core",
            title_justify="left",
        )
        table.add_column("tier")
        for name in ("in flight", "served", "refused", "errors", "chunks/s", "TTFT p50 (latest)"):
            table.add_column(name, justify="right")
        for tier in sorted(self._generator.targets):
            seen = self._seen.get(tier, _Seen())
            speed = (chunks.get(tier, 0) - before.get(tier, 0)) / max(1e-9, now_s - before_s)
            table.add_row(
                tier,
                str(sum(record.tier == tier for record in self._generator.active.values())),
                *(
                    str(seen.ended[outcome])
                    for outcome in (Outcome.SERVED, Outcome.REFUSED, Outcome.ERROR)
                ),
                f"{max(0.0, speed):,.0f}",
                seconds(median(seen.ttft_s)) if seen.ttft_s else "--",
            )
        self._last = (now_s, chunks)
        return table

    def _chunks(self) -> dict[str, int]:
        """So far: of answers that ended, and of those that still come."""
        chunks = {tier: seen.chunks for tier, seen in self._seen.items()}
        for record in self._generator.active.values():
            chunks[record.tier] = chunks.get(record.tier, 0) + len(record.token_s)
        return chunks
