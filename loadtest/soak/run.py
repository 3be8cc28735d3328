"""A whole soak: the server, the load, the watch, and the folder with all of it."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console
from rich.table import Table

from loadtest.client.chat import Client, RunClock, open_session
from loadtest.client.server_info import tiers_of
from loadtest.errors import UserError
from loadtest.load.run import beside, on_own_loop, stopping_on_signals
from loadtest.load.targets import find_target
from loadtest.report.formatting import mib, number
from loadtest.report.progress import UNSEEN_PERIOD_S, show
from loadtest.report.results_file import provenance, write
from loadtest.report.run_folder import RunFolder, refuse_used
from loadtest.scenario import Scenario, Slo
from loadtest.soak.load import Traffic
from loadtest.soak.observations import EVENTS, META, SAMPLES
from loadtest.soak.phases import Course
from loadtest.soak.plan import Fault, Plan
from loadtest.soak.server import Own, Server, own_server
from loadtest.soak.traffic import scenario_of
from loadtest.soak.watch import Watch

TIMEOUT_S = 180.0
PERIOD_S = 2.0
# Where a line at a time would be thousands of them.
MOST_LINES = 500


@dataclass(frozen=True, slots=True)
class SoakSettings:
    """What the command line says. Without a `base_url` a server is started."""

    plan: Plan
    faults: tuple[Fault, ...]
    base_url: str | None
    model: str | None
    load_share: float
    slo: Slo
    seed: int
    argv: tuple[str, ...]


def execute(settings: SoakSettings, path: Path, console: Console) -> Own | None:
    """Soak, and write all but the judgement; the server of its own, whose logs are still there.
    Raises UserError."""
    refuse_used(path, META)
    if settings.base_url is not None:
        on_own_loop(soak(settings, path, console, settings.base_url, None))
        return None
    with own_server(settings.model, lambda text: console.print(text, highlight=False)) as own:
        on_own_loop(soak(settings, path, console, own.cluster.base_url, own))
    with RunFolder(path) as folder:
        folder.add(EVENTS, {"event": "stopped", **(own.left_behind or {})})
    return own


async def soak(
    settings: SoakSettings, path: Path, console: Console, base_url: str, own: Own | None
) -> None:
    """From the first request to the last; the server runs, and goes on running."""
    async with open_session(TIMEOUT_S) as session:
        tiers = list(await tiers_of(session, base_url) or {})
        if not tiers:
            raise UserError(f"{base_url}/api/tiers reports no tiers: soak needs such a server.")
        rates = dict.fromkeys(tiers, 1.0)
        scenario = scenario_of(base_url, rates, settings.slo, settings.seed, TIMEOUT_S)
        refuse_used(path, META)
        write(path / META, meta_of(settings, scenario, own))
        with RunFolder(path) as folder:
            await _course(settings, scenario, folder, console, session, own)


async def _course(
    settings: SoakSettings,
    scenario: Scenario,
    folder: RunFolder,
    console: Console,
    session: aiohttp.ClientSession,
    own: Own | None,
) -> None:
    loads = {load.tier: load for load in scenario.loads}
    targets = {t: await find_target(session, scenario, t, load) for t, load in loads.items()}
    cluster = own.cluster if own is not None else None
    server = Server(scenario.base_url, session, cluster, own.config if own else None)
    course = Course(settings.plan, settings.faults, settings.load_share, server, folder)
    course.traffic = Traffic(scenario, targets, Client(session, RunClock()), course.end)
    run_id, run_dir = (cluster.run_id, cluster.run_dir) if cluster else (None, None)
    watch = Watch(course.traffic, scenario.base_url, run_id, run_dir)
    progress = Progress(course)

    def add(sample: Mapping[str, Any]) -> None:
        folder.add(SAMPLES, {"phase": course.phase, **sample})
        progress.add(sample)

    show_progress = show(
        console,
        progress.line,
        progress.table,
        period_s=PERIOD_S,
        unseen_period_s=max(UNSEEN_PERIOD_S, settings.plan.duration_s / MOST_LINES),
    )
    watching = watch.run(settings.plan.sample_every_s, add)
    async with beside(course.run(), watching, show_progress) as (main, *others):
        with stopping_on_signals(course.stopped):
            # A watch that fails would else leave hours of nothing.
            await asyncio.wait([main, *others], return_when=asyncio.FIRST_COMPLETED)
            for task in others:
                if task.done():
                    task.result()
            await main
        add(await watch.sample())


def meta_of(settings: SoakSettings, scenario: Scenario, own: Own | None) -> dict[str, Any]:
    return {
        **provenance(settings.argv),
        "plan": asdict(settings.plan),
        "faults": [fault.name for fault in settings.faults],
        "load_share": settings.load_share,
        "own_server": own is not None,
        "profile": own.profile if own is not None else None,
        "models": list(own.models) if own is not None else None,
        "scenario": scenario.model_dump(mode="json", exclude_none=True),
    }


@dataclass(slots=True)
class Progress:
    """The phase, what comes next, errors so far, memory by role."""

    course: Course
    _first: dict[str, float] = field(default_factory=dict)
    _latest: dict[str, float] = field(default_factory=dict)
    _sample: Mapping[str, Any] = field(default_factory=dict)

    def add(self, sample: Mapping[str, Any]) -> None:
        self._sample, self._latest = sample, memory_by_role(sample)
        self._first = self._latest | self._first

    def line(self) -> str:
        course, counts = self.course, self.course.counts
        coming = f", next fault: {course.coming}" if course.coming else ""
        latest = f" (latest: {course.latest_wrong})" if course.latest_wrong else ""
        return (
            f"{course.traffic.client.clock():,.0f} of {course.plan.duration_s:,.0f} s, "
            f"{course.phase}{coming}; {counts['ended']:,} ended, {counts['refused']:,} refused, "
            f"{counts['wrong']:,} wrong{latest}; memory {mib(sum(self._latest.values()))}"
        )

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
    found: Counter[str] = Counter()
    for part in sample.get("processes", ()):
        found[part["role"]] += part["memory_bytes"]
    return dict(found)
