"""`python -m loadtest continuity`: streams of `/v1` whose replicas are killed or replaced."""

import argparse
import asyncio
import math
import random
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console

from loadtest.errors import MeasurementError, UserError
from loadtest.options import not_negative, positive
from loadtest.report.pages import write_section
from loadtest.report.results_file import META, RESULTS, provenance, write
from loadtest.report.results_file import read as read_results
from loadtest.servers.systems import START_TIMEOUT_S, chat_only_config, machine_profile
from loadtest.studies.continuity.asks import TOKENS, asks
from loadtest.studies.continuity.faults import (
    FAULTS,
    LEAST_REPLICAS,
    ON_NODES,
    ONE_REPLICA,
    ReplicaNodes,
    Service,
    until,
)
from loadtest.studies.continuity.results import (
    SECTION,
    UNBROKEN_RUNS,
    Cut,
    add,
    keep,
    row_of,
    table,
)
from loadtest.studies.continuity.streams import Ask, Stream, differences, read
from serve_app.config.tier import EngineConfig
from serve_app.core.tiers import Tier
from serve_app.engine.models.model_dir import MICRO_MODEL, ModelNotFoundError, resolve_model
from serve_app.local.cluster import ClusterError, LocalCluster
from serve_app.local.profiles import load_profile

OUT = RESULTS / "continuity.json"
STREAM_LIMIT_S = 300.0
SLOTS_FOR_EACH_STREAM = 2
# Further nodes join the head, at an address of their own.
NODES_ENVIRONMENT = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"}
# Where in what the unbroken streams wrote together the fault comes; later on many have ended.
EARLIEST, LATEST = 0.05, 0.8
# Within this part of the time that unbroken ones take do streams begin.
SPREAD = 0.3
PLACE_POLL_S = 0.002
DESCRIPTION = (
    "Starts the chat tier and lets streams of /v1 run, greedily, of several kinds; "
    "at a random place a replica, its engine or its node's raylet is killed, or replicas are "
    "replaced or taken away. Counts the streams that are cut, compares each with the same one "
    "unbroken, and measures the longest silence. Writes loadtest/results/continuity.json and the "
    "table of the docs."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", default=MICRO_MODEL, help="an embedded model's name, or a model's directory")
    add("--faults", nargs="+", choices=list(FAULTS), default=list(FAULTS), help="what is done")
    add("--replicas", type=positive, nargs="+", default=[1, 2], help="of chat, one after the other")
    add("--streams", type=positive, default=16, help="that run at once")
    add("--tokens", type=positive, default=TOKENS, help="of a stream at most")
    add("--unbroken", type=positive, default=UNBROKEN_RUNS, help="runs to compare with")
    add("--cuts", type=positive, default=100, help="streams whose replica a fault must have taken")
    add("--seed", type=int, default=0, help="of the requests and of the places")
    add(
        "--as-served",
        action="store_true",
        help="start both tiers as `make serve` does, in the model's own number format, not chat "
        "alone in 32 bits",
    )
    add(
        "--add",
        action="store_true",
        help="count on from the results file, where it has rows of the same; else they are "
        "measured anew",
    )
    add("--minutes", type=not_negative, help="after so many no other fault begins")
    add("--out", type=Path, default=OUT, help="results file")


def run(options: argparse.Namespace, argv: list[str], console: Console) -> int:
    """1 where a stream was cut or is not valid; raises MeasurementError where nothing was
    measured."""
    try:
        model = resolve_model(options.model)
    except ModelNotFoundError as error:
        raise UserError(str(error)) from None
    rows = read_results(options.out)["faults"] if options.out.exists() else []
    results = {META: provenance(argv), "faults": rows}
    until_s = time.monotonic() + 60 * (options.minutes or math.inf)
    measured: list[dict[str, Any]] = []
    for replicas in options.replicas:
        wanted = [name for name in options.faults if replicas >= LEAST_REPLICAS.get(name, 1)]
        mine = [(name, _row(options, str(model), replicas, rows, name)) for name in wanted]
        faults = {name: row for name, row in mine if row["met"] < options.cuts}
        measured += faults.values()
        measurement = Measurement(options, str(model), replicas, console, results, until_s)
        try:
            if faults and time.monotonic() < until_s:
                asyncio.run(measurement.run(faults))
        except ClusterError as error:
            raise MeasurementError(f"{error}\n{getattr(error, 'detail', '')}") from None
    if measured and not any(row["faults"] for row in measured):
        raise MeasurementError("the time was over before the first fault: give it more --minutes")
    console.print(table(results), highlight=False, soft_wrap=True)
    if options.out == OUT:
        write_section(SECTION, table(results))
    return int(any(row["cut"] or row["invalid"] for row in measured))


def _row(
    options: argparse.Namespace, model: str, replicas: int, rows: list[dict[str, Any]], fault: str
) -> dict[str, Any]:
    return row_of(
        rows,
        anew=not options.add,
        fault=fault,
        replicas=replicas,
        model=Path(model).name,
        streams_at_once=options.streams,
        tokens=options.tokens,
        as_served=options.as_served,
        unbroken_runs=options.unbroken,
    )


@dataclass(slots=True)
class Measurement:
    """All faults on one start of the tier; `results` are written after each."""

    options: argparse.Namespace
    model: str
    replicas: int
    console: Console
    results: dict[str, Any]
    until_s: float

    async def run(self, faults: Mapping[str, dict[str, Any]]) -> None:
        """Each until its row has enough, or the time is over."""
        options = self.options
        asked = asks(Tier.CHAT, options.streams, options.seed, options.tokens)
        nodes = bool(ON_NODES & faults.keys())
        async with _running(options, self.model, self.replicas, nodes=nodes) as service:
            asked = await self._accepted(service, asked)
            unbroken = await unbroken_runs(service, asked, options.unbroken)
            asked, unbroken = self._valid(asked, unbroken)
            differ = sum(any(differences(each, one) for each in more) for one, *more in unbroken)
            self.console.print(f"{self.replicas} replicas; unbroken: {differ} differ")
            for name, row in faults.items():
                row["control"]["streams"] += len(asked)
                row["control"]["differ"] += differ
                await self._until_enough(service, name, row, asked, unbroken)

    async def _accepted(self, service: Service, asked: Sequence[Ask]) -> Sequence[Ask]:
        """Without the kinds that the model cannot do, as a budget where it does not reason."""
        kinds = {ask.kind: ask for ask in asked}.values()
        streams = [read(service.session, service.base_url, Stream(ask)) for ask in kinds]
        tried = await asyncio.gather(*streams)
        refused = {stream.ask.kind: stream for stream in tried if stream.status == 400}
        for kind, stream in refused.items():
            self.console.print(f"{kind} is left out: {stream.fault[:200]}", markup=False)
        return [ask for ask in asked if ask.kind not in refused]

    def _valid(
        self, asked: Sequence[Ask], unbroken: Sequence[Sequence[Stream]]
    ) -> tuple[Sequence[Ask], Sequence[Sequence[Stream]]]:
        """Without those that break their promise although nothing was done to them. Raises
        MeasurementError where none is left."""
        kept = [(ask, runs) for ask, runs in zip(asked, unbroken, strict=True) if _all_valid(runs)]
        for ask, runs in zip(asked, unbroken, strict=True):
            if not _all_valid(runs):
                text = f"{ask.kind} is not valid unbroken, and left out: {runs[0].text}"
                self.console.print(text[:600], markup=False, highlight=False)
        if not kept:
            raise MeasurementError("no stream is valid unbroken")
        return [ask for ask, _ in kept], [runs for _, runs in kept]

    async def _until_enough(
        self,
        service: Service,
        name: str,
        row: dict[str, Any],
        asked: Sequence[Ask],
        unbroken: Sequence[Sequence[Stream]],
    ) -> None:
        while row["met"] < self.options.cuts and time.monotonic() < self.until_s:
            # Other places than those of the slice before.
            rng = random.Random(f"{self.options.seed} {name} {self.replicas} {row['faults']}")
            cuts, gone_s = await one_fault(service, name, asked, unbroken, rng)
            add(row, cuts, gone_s, self.results[META])
            keep(self.results["faults"], row)
            write(self.options.out, self.results)
            silence_s = max((cut.gap_s for cut in cuts if cut.is_heard and cut.met), default=0.0)
            self.console.print(
                f"{name}: {row['met']} of {row['streams']} streams met, {row['cut']} cut, "
                f"{row['differ']} differ, {row['invalid']} invalid, longest silence now "
                f"{silence_s:.1f} s, gone {gone_s:.1f} s",
                highlight=False,
            )


def study_config(
    options: argparse.Namespace, model: str, replicas: int, *, nodes: bool = False
) -> dict[str, Any]:
    """What is deployed: so many replicas of chat, with `nodes` each on one of its own, and with
    `as_served` one of reasoning."""
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
        (admission,) = (
            app["deployments"][0]["user_config"]["admission"]
            for app in config["applications"]
            if app["name"] == Tier.CHAT
        )
        # On a machine that others use, streams that all begin at once would be refused.
        admission["max_wait_s"] = STREAM_LIMIT_S
    (app,) = (app for app in config["applications"] if app["name"] == Tier.CHAT)
    (deployment,) = app["deployments"]
    deployment["autoscaling_config"] |= {"min_replicas": replicas, "max_replicas": replicas}
    if nodes:
        # A HAProxy for each node would need a machine for each.
        config["proxy_location"] = "HeadOnly"
        deployment["ray_actor_options"]["resources"] = {ONE_REPLICA: 1}
        # The gateway is where clusters of T4 nodes have it.
        _options_of(config, "web").update(_options_of(load_profile("t4"), "web"))
    return config


def _options_of(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    (app,) = (app for app in config["applications"] if app["name"] == name)
    return app["deployments"][0]["ray_actor_options"]


def _all_valid(runs: Sequence[Stream]) -> bool:
    return all(stream.ask.is_valid(stream) for stream in runs)


@asynccontextmanager
async def _running(
    options: argparse.Namespace, model: str, replicas: int, *, nodes: bool
) -> AsyncIterator[Service]:
    config = study_config(options, model, replicas, nodes=nodes)
    timeout = aiohttp.ClientTimeout(total=STREAM_LIMIT_S)
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    environment = {"HF_HUB_OFFLINE": "1", **(NODES_ENVIRONMENT if nodes else {})}
    cluster = LocalCluster(environment=environment)
    replica_nodes = ReplicaNodes(cluster) if nodes else None
    await asyncio.to_thread(cluster.start)
    try:
        if replica_nodes is not None:
            for _ in range(replicas):
                await replica_nodes.add()
        await asyncio.to_thread(cluster.deploy, config, timeout_s=START_TIMEOUT_S)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            service = Service(cluster, session, config, Tier.CHAT, replicas, replica_nodes)
            await service.await_complete(without=set())
            yield service
    finally:
        if replica_nodes is not None:
            await replica_nodes.close()
        await asyncio.to_thread(cluster.stop)


async def unbroken_runs(
    service: Service, asked: Sequence[Ask], runs: int = 1
) -> list[tuple[Stream, ...]]:
    """Of each request its streams in so many runs without a fault."""
    made = [await _unbroken(service, asked) for _ in range(runs)]
    return list(zip(*made, strict=True))


async def _unbroken(service: Service, asked: Sequence[Ask]) -> list[Stream]:
    """All at once. Raises MeasurementError where one is not whole."""
    streams = [Stream(ask) for ask in asked]
    await asyncio.gather(*(read(service.session, service.base_url, each) for each in streams))
    for stream in streams:
        if not stream.whole:
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
    spread_s = SPREAD * max(each[0].took_s for each in unbroken)

    async def begin(stream: Stream, after_s: float) -> None:
        await asyncio.sleep(after_s)
        await read(service.session, service.base_url, stream)

    # Spread, so that the fault finds each of them at another token.
    reading = [asyncio.create_task(begin(each, rng.uniform(0, spread_s))) for each in streams]

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
    return [Cut.of(*each, done) for each in running], done.gone_s
