"""`python -m loadtest continuity`: streams of `/v1` whose replicas are killed or replaced."""

import argparse
import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console

from loadtest.errors import MeasurementError, UserError
from loadtest.options import positive
from loadtest.report.pages import write_section
from loadtest.report.results_file import META, RESULTS, provenance, write
from loadtest.servers.systems import START_TIMEOUT_S, chat_only_config, machine_profile
from loadtest.studies.continuity.asks import asks
from loadtest.studies.continuity.faults import FAULTS, LEAST_REPLICAS, Service, until
from loadtest.studies.continuity.results import SECTION, UNBROKEN_RUNS, Cut, figures, table
from loadtest.studies.continuity.streams import Ask, Stream, differences, read
from serve_app.config.tier import EngineConfig
from serve_app.core.tiers import Tier
from serve_app.engine.models.model_dir import MICRO_MODEL, ModelNotFoundError, resolve_model
from serve_app.local.cluster import ClusterError, LocalCluster

OUT = RESULTS / "continuity.json"
STREAM_LIMIT_S = 300.0
SLOTS_FOR_EACH_STREAM = 2
# Where in what the unbroken streams wrote together the fault comes; later on many have ended.
EARLIEST, LATEST = 0.02, 0.8
PLACE_POLL_S = 0.002
DESCRIPTION = (
    "Starts the chat tier and lets streams of /v1 run, greedily, of several kinds; "
    "at a random place a replica or its engine is killed, or replicas are replaced or taken "
    "away. Counts the streams that are cut, compares each with the same one unbroken, and "
    "measures the longest silence. Writes loadtest/results/continuity.json and the table of "
    "the docs."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", default=MICRO_MODEL, help="an embedded model's name, or a model's directory")
    add("--faults", nargs="+", choices=list(FAULTS), default=list(FAULTS), help="what is done")
    add("--replicas", type=positive, nargs="+", default=[1, 2], help="of chat, one after the other")
    add("--streams", type=positive, default=8, help="that run at once")
    add("--cuts", type=positive, default=100, help="streams whose replica a fault must have taken")
    add("--seed", type=int, default=0, help="of the requests and of the places")
    add(
        "--as-served",
        action="store_true",
        help="start both tiers as `make serve` does, in the model's own number format, not chat "
        "alone in 32 bits",
    )
    add("--out", type=Path, default=OUT, help="results file")


def run(options: argparse.Namespace, argv: list[str], console: Console) -> int:
    """1 where a stream was cut or differs; raises MeasurementError where nothing was measured."""
    try:
        model = resolve_model(options.model)
    except ModelNotFoundError as error:
        raise UserError(str(error)) from None
    meta = provenance(argv) | {
        "model": Path(model).name,
        "streams_at_once": options.streams,
        "unbroken_runs": UNBROKEN_RUNS,
        "as_served": options.as_served,
    }
    rows: list[dict[str, Any]] = []
    control = {"streams": 0, "differ": 0}
    results = {META: meta, "control": control, "faults": rows}
    for replicas in options.replicas:
        faults = [name for name in options.faults if replicas >= LEAST_REPLICAS.get(name, 1)]
        measurement = Measurement(options, str(model), replicas, console, results)
        try:
            asyncio.run(measurement.run(faults))
        except ClusterError as error:
            raise MeasurementError(f"{error}\n{getattr(error, 'detail', '')}") from None
    console.print(table(results), highlight=False, soft_wrap=True)
    if options.out == OUT:
        write_section(SECTION, table(results))
    return int(any(row["cut"] or row["invalid"] for row in rows))


@dataclass(slots=True)
class Measurement:
    """All faults on one start of the tier; `results` are written after each."""

    options: argparse.Namespace
    model: str
    replicas: int
    console: Console
    results: dict[str, Any]

    async def run(self, faults: Sequence[str]) -> None:
        options, control = self.options, self.results["control"]
        asked = asks(Tier.CHAT, options.streams, options.seed)
        rng = random.Random(f"places {options.seed} {self.replicas}")
        async with _running(options, self.model, self.replicas) as service:
            unbroken = await unbroken_runs(service, asked, UNBROKEN_RUNS)
            control["streams"] += len(asked)
            control["differ"] += sum(
                any(differences(each, runs[0]) for each in runs[1:]) for runs in unbroken
            )
            self.console.print(f"{self.replicas} replicas; unbroken: {control}")
            for name in faults:
                row: dict[str, Any] = {"fault": name, "replicas": self.replicas}
                self.results["faults"].append(row)
                cuts: list[Cut] = []
                gone_s: list[float] = []
                while sum(cut.met for cut in cuts) < options.cuts:
                    more, seconds = await one_fault(service, name, asked, unbroken, rng)
                    cuts += more
                    gone_s.append(seconds)
                    self._say(name, cuts, seconds)
                    row |= figures(cuts, gone_s)
                    write(options.out, self.results)

    def _say(self, name: str, cuts: Sequence[Cut], gone_s: float) -> None:
        self.console.print(
            f"{name}: {sum(c.met for c in cuts)} of {len(cuts)} streams met, "
            f"{sum(not c.whole for c in cuts)} cut, "
            f"{sum(bool(c.differences) for c in cuts)} differ, "
            f"longest silence {max((c.gap_s for c in cuts if c.met), default=0.0):.1f} s, "
            f"gone {gone_s:.1f} s",
            highlight=False,
        )


def study_config(options: argparse.Namespace, model: str, replicas: int) -> dict[str, Any]:
    """What is deployed: so many replicas of chat, and with `as_served` one of reasoning."""
    profile = machine_profile()
    if options.as_served:
        config = deepcopy(profile)
        for app in config["applications"]:
            if app["name"] in list(Tier):
                app["args"]["model"] = model
    else:
        slots = SLOTS_FOR_EACH_STREAM * options.streams
        # In 16 bits two tokens are as good as equal so often that a batch of another size decides.
        engine = EngineConfig(max_model_len=2048, cpu_slice="0/1", dtype="float32")
        config = chat_only_config(profile, Path(model), engine, slots)
    (app,) = (app for app in config["applications"] if app["name"] == Tier.CHAT)
    (deployment,) = app["deployments"]
    deployment["autoscaling_config"] |= {"min_replicas": replicas, "max_replicas": replicas}
    return config


@asynccontextmanager
async def _running(
    options: argparse.Namespace, model: str, replicas: int
) -> AsyncIterator[Service]:
    config = study_config(options, model, replicas)
    timeout = aiohttp.ClientTimeout(total=STREAM_LIMIT_S)
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    cluster = LocalCluster(environment={"HF_HUB_OFFLINE": "1"})
    await asyncio.to_thread(cluster.start)
    try:
        await asyncio.to_thread(cluster.deploy, config, timeout_s=START_TIMEOUT_S)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            service = Service(cluster, session, config, Tier.CHAT, replicas)
            await service.await_complete(without=set())
            yield service
    finally:
        await asyncio.to_thread(cluster.stop)


async def unbroken_runs(
    service: Service, asked: Sequence[Ask], runs: int = 1
) -> list[tuple[Stream, ...]]:
    """Of each request its streams in so many runs without a fault."""
    made = [await _unbroken(service, asked) for _ in range(runs)]
    return list(zip(*made, strict=True))


async def _unbroken(service: Service, asked: Sequence[Ask]) -> list[Stream]:
    """All at once. Raises MeasurementError where one is not whole or not valid."""
    streams = [Stream(ask) for ask in asked]
    await asyncio.gather(*(read(service.session, service.base_url, each) for each in streams))
    for stream in streams:
        if not stream.whole or not stream.ask.is_valid(stream):
            raise MeasurementError(f"{stream.ask.kind}, unbroken: {stream.fault or stream.errors}")
    return streams


async def one_fault(
    service: Service,
    name: str,
    asked: Sequence[Ask],
    unbroken: Sequence[Sequence[Stream]],
    rng: random.Random,
) -> tuple[list[Cut], float]:
    """Of the streams that ran when it came; and after how many seconds its victim had ended."""
    streams = [Stream(ask) for ask in asked]
    place = rng.uniform(EARLIEST, LATEST) * sum(len(each[0].events) for each in unbroken)
    reading = [
        asyncio.create_task(read(service.session, service.base_url, each)) for each in streams
    ]

    async def at_the_place() -> bool:
        return sum(len(each.events) for each in streams) >= place

    try:
        await until(at_the_place, "the streams are at the place", poll_s=PLACE_POLL_S)
        running = [
            (each, like, len(each.events))
            for each, like in zip(streams, unbroken, strict=True)
            if each.ended_s is None and each.has_begun
        ]
        done = await FAULTS[name](service, rng)
        await asyncio.gather(*reading)
    finally:
        for each in reading:
            each.cancel()
    return [Cut.of(*each, done.order_s) for each in running], done.gone_s
