"""One run from its scenario to its folder: each request as a line when it has ended, samples of the
server, and at the end the summary, the pictures and the report."""

import asyncio
import contextlib
import gc
import resource
import signal
from collections import Counter, deque
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import aiohttp
import yaml
from rich.console import Console
from rich.table import Table

from loadtest.client.chat import open_session
from loadtest.client.record import Outcome, Record
from loadtest.errors import UserError
from loadtest.load import lag as lag_of
from loadtest.load import report
from loadtest.load.arrivals import Due, schedule
from loadtest.load.generator import Generator
from loadtest.load.lag import LoopLag
from loadtest.load.scenario_file import checked
from loadtest.load.summary import summarise, timeline
from loadtest.load.targets import Target, Watch, find_target
from loadtest.report.formatting import seconds
from loadtest.report.progress import show
from loadtest.report.results_file import provenance, write
from loadtest.report.run_folder import RunFolder, read_document, read_lines, refuse_used
from loadtest.scenario import Closed, Scenario

REQUESTS, SAMPLES, SUMMARY = "requests.jsonl", "server.jsonl", "summary.json"
STOPPING = (signal.SIGINT, signal.SIGTERM)
# Drawing takes milliseconds of the loop that also reads the streams.
PERIOD_S = 1.0
LATEST = 100

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Measured:
    """What a run left in memory. `samples` are the server's."""

    records: list[Record]
    samples: list[dict[str, Any]]
    lag: LoopLag
    cpu: float
    interrupted: bool


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run, as it is read back."""

    summary: Mapping[str, Any]
    scenario: Scenario
    records: list[Record]


def read(folder: Path) -> Run:
    """Raises UserError."""
    summary = read_document(folder, SUMMARY, "finished run")
    try:
        records = [Record.from_dict(line) for line in read_lines(folder, REQUESTS)]
        scenario = checked(summary["scenario"], str(folder / SUMMARY))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder} is no finished run: {error!r}") from None
    return Run(summary, scenario, records)


def execute(
    scenario: Scenario,
    folder: Path,
    console: Console,
    *,
    argv: Sequence[str] = (),
    api_key: str | None = None,
) -> dict[str, Any]:
    """Run it on a loop of its own, and write everything; the summary."""
    dues = schedule(scenario)
    if not dues and not any(isinstance(load.arrivals, Closed) for load in scenario.loads):
        raise UserError("No request comes in this time at this rate: let it last longer.")
    measured = on_own_loop(measure(scenario, dues, folder, console, api_key=api_key))
    return finish(scenario, folder, measured, argv)


def on_own_loop(work: Coroutine[Any, Any, Value]) -> Value:
    """On uvloop, which takes a part of the client's CPU off it."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


async def measure(
    scenario: Scenario,
    dues: list[Due],
    folder: Path,
    console: Console,
    *,
    api_key: str | None = None,
) -> Measured:
    _allow_many_connections()
    refuse_used(folder, REQUESTS)
    async with open_session(scenario.timeout, api_key) as session:
        targets = await _targets(session, scenario, dues)
        with RunFolder(folder) as lines:
            records: list[Record] = []
            generator = Generator(scenario, targets, lambda record: end(record))
            lag, watch = LoopLag(generator.clock), Watch(generator.clock)
            progress = Progress(generator, lag)

            def end(record: Record) -> None:
                records.append(record)
                lines.add(REQUESTS, record.as_dict())
                progress.add(record)

            show_progress = show(console, progress.line, progress.table, period_s=PERIOD_S)
            # What is there already is not looked through again while streams come in.
            gc.collect()
            gc.freeze()
            try:
                async with beside(lag.run(), watch.run(session, scenario.base_url), show_progress):
                    with stopping_on_signals(generator.stopped):
                        await generator.run(session, dues)
                    cpu = lag.cpu()
            finally:
                gc.unfreeze()
            for sample in watch.samples:
                lines.add(SAMPLES, sample)
        records.sort(key=lambda record: record.number)
        return Measured(records, watch.samples, lag, cpu, generator.stopped.is_set())


async def _targets(
    session: aiohttp.ClientSession, scenario: Scenario, dues: Sequence[Due]
) -> dict[str, Target]:
    """Of each tier that gets requests, by the first load that names it."""
    named = [(load.tier, load) for load in scenario.loads]
    named += [(due.tier, scenario.loads[due.load]) for due in dues]
    loads = {tier: load for tier, load in reversed(named)}
    return {tier: await find_target(session, scenario, tier, load) for tier, load in loads.items()}


def finish(
    scenario: Scenario, folder: Path, measured: Measured, argv: Sequence[str]
) -> dict[str, Any]:
    """Sum up, draw, and write it beside the requests."""
    document = sum_up(scenario, folder, measured, argv)
    lag, records = measured.lag, measured.records
    course = timeline(records, measured.samples, (lag.at_s, lag.lag_s))
    drawn = report.draw(folder, records, scenario, course, lag.lag_s)
    text = yaml.safe_dump(document["scenario"], sort_keys=False, allow_unicode=True)
    report.write(folder, {**document, "scenario_yaml": text}, drawn)
    return document


def sum_up(
    scenario: Scenario, folder: Path, measured: Measured, argv: Sequence[str]
) -> dict[str, Any]:
    """All figures, written without pictures."""
    lag, records = measured.lag, measured.records
    figures = summarise(records, scenario)
    chunks = sum(len(record.token_s) for record in records)
    document = {
        "meta": provenance(argv),
        "scenario": scenario.model_dump(mode="json", exclude_none=True),
        "interrupted": measured.interrupted,
        "generator": {
            **lag_of.report(lag.lag_s, (record.late_s for record in records), measured.cpu),
            "chunks": chunks,
            "chunks_per_s": round(chunks / figures["window_s"], 1) if figures["window_s"] else 0.0,
        },
        **figures,
    }
    write(folder / SUMMARY, document)
    return document


@contextlib.asynccontextmanager
async def beside(*work: Coroutine[Any, Any, None]) -> AsyncIterator[list[asyncio.Task[None]]]:
    """All this goes on while the block runs."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.contextmanager
def stopping_on_signals(stopped: asyncio.Event) -> Iterator[None]:
    """Ctrl-C or SIGTERM ends the run with what it has; a second one ends the process."""
    loop = asyncio.get_running_loop()

    def restore() -> None:
        for number in STOPPING:
            loop.remove_signal_handler(number)

    def stop() -> None:
        stopped.set()
        restore()

    try:
        for number in STOPPING:
            loop.add_signal_handler(number, stop)
    except (ValueError, RuntimeError):
        yield  # not the main thread: a test, or an embedding program
        return
    try:
        yield
    finally:
        restore()


def _allow_many_connections() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@dataclass(slots=True)
class _Seen:
    """Of one tier."""

    ended: Counter[Outcome] = field(default_factory=Counter)
    chunks: int = 0
    ttft_s: deque[float] = field(default_factory=lambda: deque(maxlen=LATEST))


@dataclass(slots=True)
class Progress:
    """Each tier's counts and latest latencies, and the generator's lag."""

    generator: Generator
    lag: LoopLag
    _seen: dict[str, _Seen] = field(default_factory=dict)
    _last: tuple[float, dict[str, int]] = (0.0, {})

    def add(self, record: Record) -> None:
        seen = self._seen.setdefault(record.tier, _Seen())
        seen.ended[record.outcome] += 1
        seen.chunks += len(record.token_s)
        if record.served:
            seen.ttft_s.append(record.ttft_s or 0.0)

    def line(self) -> str:
        ended = sum((seen.ended for seen in self._seen.values()), Counter())
        counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(ended.items()))
        return (
            f"{self.generator.clock():.0f} s: {len(self.generator.active)} in flight, "
            f"{counts or 'none ended'}; lag {self.lag.last_s() * 1e3:.0f} ms"
        )

    def table(self) -> Table:
        now_s, chunks = self.generator.clock(), self._chunks()
        before_s, before = self._last
        table = Table(
            title=f"{self.generator.scenario.name}, {now_s:.0f} s; generator's lag "
            f"{self.lag.last_s() * 1e3:.0f} ms, {self.lag.cpu():.0%} of a core",
            title_justify="left",
        )
        table.add_column("tier")
        for name in ("in flight", "served", "refused", "errors", "chunks/s", "TTFT p50 (latest)"):
            table.add_column(name, justify="right")
        for tier in sorted(self.generator.targets):
            seen = self._seen.get(tier, _Seen())
            speed = (chunks.get(tier, 0) - before.get(tier, 0)) / max(1e-9, now_s - before_s)
            in_flight = sum(record.tier == tier for record in self.generator.active.values())
            shown = (Outcome.SERVED, Outcome.REFUSED, Outcome.ERROR)
            table.add_row(
                *(tier, str(in_flight), *(str(seen.ended[outcome]) for outcome in shown)),
                f"{max(0.0, speed):,.0f}",
                seconds(median(seen.ttft_s)) if seen.ttft_s else "--",
            )
        self._last = (now_s, chunks)
        return table

    def _chunks(self) -> dict[str, int]:
        """So far: of answers that ended, and of those that still come."""
        chunks = {tier: seen.chunks for tier, seen in self._seen.items()}
        for record in self.generator.active.values():
            chunks[record.tier] = chunks.get(record.tier, 0) + len(record.token_s)
        return chunks
