"""A whole soak: the server, the load, the watch, and the folder with all of it."""

import asyncio
import contextlib
import datetime
import shlex
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console

from loadtest.load.ask import Client, open_session
from loadtest.load.faults import LoadFault
from loadtest.load.generator import RunClock
from loadtest.load.scenario import Scenario, Slo
from loadtest.load.server import find_target, tiers_of
from loadtest.results_file import commit, machine, versions
from loadtest.soak import folder as names
from loadtest.soak.folder import Folder
from loadtest.soak.load import Traffic
from loadtest.soak.phases import Course
from loadtest.soak.plan import Fault, Plan
from loadtest.soak.progress import Progress
from loadtest.soak.server import Own, Server, own_server
from loadtest.soak.traffic import scenario_of
from loadtest.soak.watch import Watch

TIMEOUT_S = 180.0


@dataclass(frozen=True, slots=True)
class Wish:
    """What the caller wants. Without a `base_url` a server is started."""

    plan: Plan
    faults: tuple[Fault, ...]
    base_url: str | None
    model: str | None
    load_share: float
    slo: Slo
    seed: int
    argv: tuple[str, ...]


def execute(wish: Wish, path: Path, console: Console) -> Own | None:
    """Soak, and write all but the judgement; the server of its own, whose logs are still there.
    Raises LoadFault."""

    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    if wish.base_url is not None:
        _on_a_loop(wish, path, console, wish.base_url, None)
        return None
    with own_server(wish.model, say) as own:
        _on_a_loop(wish, path, console, own.cluster.base_url, own)
    folder = Folder(path)
    folder.add(names.EVENTS, {"event": "stopped", **(own.left_behind or {})})
    folder.close()
    return own


def _on_a_loop(wish: Wish, path: Path, console: Console, base_url: str, own: Own | None) -> None:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(soak(wish, path, console, base_url, own))


async def soak(wish: Wish, path: Path, console: Console, base_url: str, own: Own | None) -> None:
    """From the first request to the last; the server runs, and goes on running."""
    async with open_session(TIMEOUT_S) as session:
        tiers = list(await tiers_of(session, base_url) or {})
        if not tiers:
            raise LoadFault(f"{base_url}/api/tiers tells no tiers: soak needs such a server.")
        scenario = scenario_of(base_url, dict.fromkeys(tiers, 1.0), wish.slo, wish.seed, TIMEOUT_S)
        folder = Folder.make(path, meta_of(wish, scenario, own))
        try:
            await _course(wish, scenario, folder, console, session, own)
        finally:
            folder.close()


async def _course(
    wish: Wish,
    scenario: Scenario,
    folder: Folder,
    console: Console,
    session: aiohttp.ClientSession,
    own: Own | None,
) -> None:
    loads = {load.tier: load for load in scenario.loads}
    targets = {t: await find_target(session, scenario, t, load) for t, load in loads.items()}
    cluster = own.cluster if own is not None else None
    server = Server(scenario.base_url, session, cluster, own.config if own else None)
    course = Course(wish.plan, wish.faults, wish.load_share, server, folder)
    course.traffic = Traffic(scenario, targets, Client(session, RunClock()), course.end)
    watch = Watch(
        course.traffic,
        scenario.base_url,
        cluster.run_id if cluster else None,
        cluster.run_dir if cluster else None,
    )
    progress = Progress(course, console)

    def add(sample: Mapping[str, Any]) -> None:
        folder.add(names.SAMPLES, {"phase": course.phase, **sample})
        progress.add(sample)

    beside = [
        asyncio.create_task(watch.run(wish.plan.sample_every_s, add)),
        asyncio.create_task(progress.run()),
    ]
    main = asyncio.create_task(course.run())
    try:
        with _stopping_on_signals(course):
            # A watch that fails would else leave hours of nothing.
            await asyncio.wait([main, *beside], return_when=asyncio.FIRST_COMPLETED)
            for task in beside:
                if task.done():
                    task.result()
            await main
        add(await watch.sample())
    finally:
        for task in (main, *beside):
            task.cancel()
        await asyncio.gather(main, *beside, return_exceptions=True)


def meta_of(wish: Wish, scenario: Scenario, own: Own | None) -> dict[str, Any]:
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
        "command": shlex.join(["python", "-m", "loadtest", *wish.argv]),
        "plan": asdict(wish.plan),
        "faults": [fault.name for fault in wish.faults],
        "load_share": wish.load_share,
        "own_server": own is not None,
        "profile": own.profile if own is not None else None,
        "models": list(own.models) if own is not None else None,
        "scenario": scenario.model_dump(mode="json", exclude_none=True),
    }


@contextlib.contextmanager
def _stopping_on_signals(course: Course) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the soak with the report of what it has; a second one ends it at
    once."""
    loop = asyncio.get_running_loop()
    numbers: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM)

    def stop() -> None:
        course.stopped.set()
        for number in numbers:
            loop.remove_signal_handler(number)

    try:
        for number in numbers:
            loop.add_signal_handler(number, stop)
    except (ValueError, RuntimeError):
        yield  # not the main thread: a test
        return
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
