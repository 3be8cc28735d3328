"""What is done to a tier under its streams, and how the service looks until it is over."""

import asyncio
import contextlib
import csv
import io
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from loadtest.client.server_info import tiers_of
from loadtest.errors import MeasurementError
from loadtest.servers.processes import ENGINE_TITLE, SPAWNED, title_of
from loadtest.servers.ray_nodes import T4, ray_node
from serve_app.core.placement.labels import ACCELERATOR_LABEL
from serve_app.core.tiers import Tier
from serve_app.local.cluster import LocalCluster
from serve_app.local.profiles import with_http_port

POLL_S = 0.1
ADMIN_LIMIT_S = 5.0
OVER_WITHIN_S = 240.0
RAYLET = "raylet"
# What Ray believes of a node of its own: it has a T4, and room for one replica.
ONE_REPLICA = "one_replica"
NOTICE_S = 30
NODE_OPTIONS = (
    "--num-cpus=1",
    f'--resources={{"{ONE_REPLICA}": 1}}',
    f"--labels={ACCELERATOR_LABEL}={T4}",
)


@dataclass(slots=True)
class ReplicaNodes:
    """Ray nodes beside the head with room for one replica each. Ended with `close`."""

    cluster: LocalCluster
    _started: ExitStack = field(default_factory=ExitStack)

    async def drain(self, node: str) -> None:
        """Tell Ray that a node goes away, as a provider's spot notice does. Raises
        MeasurementError."""
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("ray")),
            *("drain-node", f"--address={self.cluster.client_env['RAY_ADDRESS']}"),
            *(f"--node-id={node}", "--reason=DRAIN_NODE_REASON_PREEMPTION"),
            *("--reason-message=spot notice", f"--deadline-remaining-seconds={NOTICE_S}"),
            env=self.cluster.client_env,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        if process.returncode:
            raise MeasurementError(f"ray drain-node: {said.decode()}")

    async def add(self) -> None:
        """One more. Raises ClusterError."""
        node = ray_node(self.cluster, NODE_OPTIONS)
        await asyncio.to_thread(self._started.enter_context, node)

    async def close(self) -> None:
        await asyncio.to_thread(self._started.close)


@dataclass(slots=True)
class Service:
    """The cluster with the config that it runs; faults change that, and change it back. `nodes`:
    where the tier's replicas run, if not on the head's node."""

    cluster: LocalCluster
    session: aiohttp.ClientSession
    config: dict[str, Any]
    tier: Tier
    replicas: int
    nodes: ReplicaNodes | None = None

    @property
    def base_url(self) -> str:
        return self.cluster.base_url

    async def pids(self) -> set[int]:
        """Of the tier's ready replicas; none where nobody answers."""
        return {entry["pid"] for entry in await self._replicas()}

    async def busy(self) -> list[int]:
        """The pids of those that run streams."""
        return sorted(entry["pid"] for entry in await self._replicas() if entry["running"])

    async def node_of(self, pid: int) -> str:
        """The id of the node of a ready replica."""
        (node,) = [entry["node"] for entry in await self._replicas() if entry["pid"] == pid]
        return node

    async def _replicas(self) -> list[Any]:
        tiers = await tiers_of(self.session, self.base_url) or {}
        entries = tiers.get(self.tier.value, {}).get("replicas", ())
        return [entry for entry in entries if entry["ready"]]

    async def deploy(self, change: Callable[[dict[str, Any]], None]) -> None:
        """`change` gets the tier's application."""
        (app,) = (app for app in self.config["applications"] if app["name"] == self.tier)
        change(app)
        config = with_http_port(deepcopy(self.config), self.cluster.port)
        await asyncio.to_thread(self.cluster.api.deploy, config)

    async def await_complete(self, without: set[int]) -> None:
        """As many replicas as there should be are ready, none of them one of `without`, and
        HAProxy, which learns of them last, sends requests to each."""

        async def complete() -> bool:
            found = await self.pids()
            balanced = await asyncio.to_thread(servers_up, self.cluster.run_dir, self.tier)
            return len(found) == balanced == self.replicas and not found & without

        await until(complete, f"{self.replicas} replicas of {self.tier} are ready")


def servers_up(run_dir: Path, tier: Tier) -> int:
    """The replicas of a tier that HAProxy sends requests to, as its admin socket says."""
    for path in run_dir.glob("*/admin.sock"):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as admin:
            admin.settimeout(ADMIN_LIMIT_S)
            admin.connect(str(path))
            admin.sendall(b"show stat\n")
            answer = b"".join(iter(lambda: admin.recv(1 << 16), b""))
            return up_in(answer.decode(), tier)
    return 0


def up_in(statistics: str, tier: Tier) -> int:
    """In HAProxy's CSV; Serve's fallback is a backup server."""
    rows = csv.DictReader(io.StringIO(statistics.removeprefix("# ")))
    return sum(
        row["pxname"] == f"http-{tier}"
        and row["svname"] not in ("BACKEND", "FRONTEND")
        and row["bck"] == "0"
        and row["status"].startswith("UP")
        for row in rows
    )


@dataclass(frozen=True, slots=True)
class Done:
    """`gone_s`: from the order until the last process that had to end had ended."""

    order_s: float
    gone_s: float


Fault = Callable[[Service, random.Random], Awaitable[Done]]


async def kill_replica(service: Service, rng: random.Random) -> Done:
    victim = await _busy(service, rng)
    return await _killed(service, victim, of_replica=victim)


async def kill_engine(service: Service, rng: random.Random) -> Done:
    """The process that computes; its replica ends by itself, and is replaced."""
    replica = await _busy(service, rng)
    children = psutil.Process(replica).children()
    engines = [each for each in children if title_of(each).startswith((ENGINE_TITLE, SPAWNED))]
    if len(engines) != 1:
        raise MeasurementError(f"replica {replica} has {len(engines)} engines")
    return await _killed(service, engines[0].pid, of_replica=replica)


async def kill_raylet(service: Service, rng: random.Random) -> Done:
    """Of the node of one replica, whose processes Ray ends with it; then another node comes."""
    if service.nodes is None:
        raise MeasurementError("the replicas have no nodes of their own")
    victim = psutil.Process(await _busy(service, rng))
    raylet = victim.parent()
    if raylet is None or raylet.name() != RAYLET:
        raise MeasurementError(f"replica {victim.pid} is no child of a raylet")
    ended = [victim.pid, *(child.pid for child in victim.children(recursive=True))]
    order_s = time.monotonic()
    raylet.kill()
    await until(_ended(ended), f"replica {victim.pid} and its engine have ended")
    gone_s = time.monotonic() - order_s
    await service.nodes.add()
    await service.await_complete(without={victim.pid})
    return Done(order_s, gone_s)


async def drain_node(service: Service, rng: random.Random) -> Done:
    """A spot notice: the node of one replica goes away soon, and another one is there. Counted from
    the notice, so the start of the next replica is in it."""
    if service.nodes is None:
        raise MeasurementError("the replicas have no nodes of their own")
    await service.nodes.add()
    victim = await _busy(service, rng)
    node = await service.node_of(victim)
    order_s = time.monotonic()
    await service.nodes.drain(node)
    await until(_ended([victim]), f"replica {victim} has ended")
    gone_s = time.monotonic() - order_s
    await service.await_complete(without={victim})
    return Done(order_s, gone_s)


async def _busy(service: Service, rng: random.Random) -> int:
    """One that runs streams: what happens to another one harms nobody."""
    found: list[int] = []

    async def reported() -> bool:
        found[:] = await service.busy()
        return bool(found)

    await until(reported, "a replica reports that it runs streams")
    return rng.choice(found)


async def _killed(service: Service, pid: int, *, of_replica: int) -> Done:
    order_s = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    await until(_ended([of_replica]), f"replica {of_replica} has ended")
    gone_s = time.monotonic() - order_s
    await service.await_complete(without={of_replica})
    return Done(order_s, gone_s)


async def redeploy(service: Service, _rng: random.Random) -> Done:
    """Another context length: every replica is replaced."""

    def change(app: dict[str, Any]) -> None:
        engine = app["args"]["engine"]
        engine["max_model_len"] = 2048 + 2047 - engine.get("max_model_len", 2048)

    return await _replaced(service, change)


async def drain(service: Service, _rng: random.Random) -> Done:
    """One replica less, until it has ended; then as many as before."""
    before, order_s = await service.pids(), time.monotonic()
    await service.deploy(lambda app: _scale(app, service.replicas - 1))
    gone: set[int] = set()

    async def one_has_ended() -> bool:
        gone.update(pid for pid in before if not psutil.pid_exists(pid))
        return bool(gone)

    await until(one_has_ended, "a replica has ended")
    gone_s = time.monotonic() - order_s
    await service.deploy(lambda app: _scale(app, service.replicas))
    await service.await_complete(without=gone)
    return Done(order_s, gone_s)


def _scale(app: dict[str, Any], replicas: int) -> None:
    (deployment,) = app["deployments"]
    deployment["autoscaling_config"] |= {
        "min_replicas": replicas,
        "max_replicas": replicas,
        "downscale_delay_s": 0,
    }


async def _replaced(service: Service, change: Callable[[dict[str, Any]], None]) -> Done:
    before, order_s = await service.pids(), time.monotonic()
    await service.deploy(change)
    await until(_ended(before), "all replicas of before have ended")
    gone_s = time.monotonic() - order_s
    await service.await_complete(without=before)
    return Done(order_s, gone_s)


FAULTS: Mapping[str, Fault] = {
    "replica": kill_replica,
    "engine": kill_engine,
    "raylet": kill_raylet,
    "redeploy": redeploy,
    "drain": drain,
    "node": drain_node,
}
NAMES = {
    "replica": "`kill -9` of a replica",
    "engine": "`kill -9` of its engine",
    "raylet": "`kill -9` of its node's raylet",
    "redeploy": "redeploy",
    "drain": "scale-down by one",
    "node": "spot notice of 30 s for its node",
}
# A tier of one replica has no other one to be left with, and its streams end where they are.
LEAST_REPLICAS = {"raylet": 2, "redeploy": 2, "drain": 2, "node": 2}
# Those for which the replicas are on nodes of their own.
ON_NODES = frozenset({"raylet", "node"})


def _ended(pids: Collection[int]) -> Callable[[], Awaitable[bool]]:
    async def ended() -> bool:
        return not any(_runs(pid) for pid in pids)

    return ended


def _runs(pid: int) -> bool:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


async def until(
    condition: Callable[[], Awaitable[bool]], what: str, poll_s: float = POLL_S
) -> None:
    """Raises MeasurementError where it takes minutes."""
    deadline_s = time.monotonic() + OVER_WITHIN_S
    while not await condition():
        if time.monotonic() > deadline_s:
            raise MeasurementError(f"after {OVER_WITHIN_S:.0f} s still not: {what}")
        await asyncio.sleep(poll_s)
