"""One run from its scenario to its folder."""

import asyncio
import contextlib
import datetime
import gc
import resource
import shlex
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from rich.console import Console

from loadtest.load import lag as lag_of
from loadtest.load import report, run_dir
from loadtest.load.arrivals import Due, schedule
from loadtest.load.ask import open_session
from loadtest.load.faults import LoadFault
from loadtest.load.generator import Generator
from loadtest.load.lag import LoopLag
from loadtest.load.progress import Progress
from loadtest.load.record import Record
from loadtest.load.scenario import Closed, Scenario
from loadtest.load.server import Target, Watch, find_target
from loadtest.load.summary import summarise, timeline
from loadtest.results_file import commit, machine, write

STOPPING = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class Measured:
    """What a run left in memory. `samples` are the server's."""

    records: list[Record]
    samples: list[dict[str, Any]]
    lag: LoopLag
    cpu: float
    interrupted: bool


def execute(
    scenario: Scenario,
    folder: Path,
    console: Console,
    *,
    argv: Sequence[str] = (),
    api_key: str | None = None,
) -> dict[str, Any]:
    """Run it on a loop of its own, and write everything; the summary."""
    import uvloop

    dues = schedule(scenario)
    if not dues and not any(isinstance(load.arrivals, Closed) for load in scenario.loads):
        raise LoadFault("No request comes in this time at this rate: let it last longer.")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        measured = runner.run(measure(scenario, dues, folder, console, api_key=api_key))
    return finish(scenario, folder, measured, argv)


async def measure(
    scenario: Scenario,
    dues: list[Due],
    folder: Path,
    console: Console,
    *,
    api_key: str | None = None,
) -> Measured:
    _allow_many_connections()
    async with open_session(scenario.timeout, api_key) as session:
        targets = await _targets(session, scenario, dues)
        with run_dir.writing(folder) as file:
            records: list[Record] = []
            generator = Generator(scenario, targets, lambda record: end(record))
            lag, watch = LoopLag(generator.clock), Watch(generator.clock)
            progress = Progress(generator, lag, console)

            def end(record: Record) -> None:
                records.append(record)
                file.add(record)
                progress.add(record)

            beside = (lag.run(), watch.run(session, scenario.base_url), progress.run())
            # What is there already is not looked through again while streams come in.
            gc.collect()
            gc.freeze()
            try:
                async with _beside(*beside):
                    with _stopping_on_interrupt(generator):
                        await generator.run(session, dues)
                    cpu = lag.cpu()
            finally:
                gc.unfreeze()
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
    told = timeline(records, measured.samples, (lag.at_s, lag.lag_s))
    drawn = report.draw(folder, records, scenario, told, lag.lag_s)
    text = yaml.safe_dump(document["scenario"], sort_keys=False, allow_unicode=True)
    report.write(folder, {**document, "scenario_yaml": text}, drawn)
    return document


def sum_up(
    scenario: Scenario, folder: Path, measured: Measured, argv: Sequence[str]
) -> dict[str, Any]:
    """All figures, written without pictures."""
    records = measured.records
    late_s = [record.late_s for record in records]
    figures = summarise(records, scenario)
    chunks = sum(len(record.token_s) for record in records)
    document = {
        "meta": {
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "commit": commit(),
            "machine": machine(),
            "command": shlex.join(["python", "-m", "loadtest", *argv]),
        },
        "scenario": scenario.model_dump(mode="json", exclude_none=True),
        "interrupted": measured.interrupted,
        "generator": {
            **lag_of.report(measured.lag.lag_s, late_s, measured.cpu),
            "chunks": chunks,
            "chunks_per_s": round(chunks / figures["window_s"], 1) if figures["window_s"] else 0.0,
        },
        **figures,
    }
    write(folder / run_dir.SUMMARY, document)
    run_dir.write_samples(folder, measured.samples)
    return document


@contextlib.asynccontextmanager
async def _beside(*work: Any):
    tasks = [asyncio.create_task(each) for each in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.contextmanager
def _stopping_on_interrupt(generator: Generator):
    """Ctrl-C or SIGTERM ends the run with what it has; a second one ends the process."""
    loop = asyncio.get_running_loop()

    def leave() -> None:
        for number in STOPPING:
            loop.remove_signal_handler(number)

    def stop() -> None:
        generator.stopped.set()
        leave()

    try:
        for number in STOPPING:
            loop.add_signal_handler(number, stop)
    except (ValueError, RuntimeError):
        yield  # not the main thread: a test, or an embedding program
        return
    try:
        yield
    finally:
        leave()


def _allow_many_connections() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
