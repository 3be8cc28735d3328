"""The server that is soaked: one of its own on this machine, or one that runs already."""

import asyncio
import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import aiohttp
import psutil

from loadtest.client.server_info import TIMEOUT, tiers_of
from loadtest.errors import UserError
from loadtest.servers.processes import server_processes
from loadtest.soak.watch import shared_memory_files
from serve_app.core.tiers import Tier
from serve_app.engine.models.model_dir import MICRO_MODEL, resolve_model
from serve_app.local import launcher
from serve_app.local.cluster import ClusterError, LocalCluster
from serve_app.local.ports import free_ports
from serve_app.local.profiles import with_http_port
from serve_app.local.serve_api import ServeApiError
from serve_app.local.supervisor import processes_of_run
from serve_app.nvidia import installed_gpus

START_LIMIT_S = 1800.0
DEPLOY_TRIES = 3
# Small, so that it is full soon and is no growth that looks like a leak.
CACHE = {"enabled": True, "max_bytes": 4 * 2**20, "max_age_s": 600}

Tiers = Mapping[str, Mapping[str, Any]]


@dataclass(slots=True)
class Server:
    """`cluster` and `config` are None of a server that ran already."""

    base_url: str
    session: aiohttp.ClientSession
    cluster: LocalCluster | None = None
    config: Mapping[str, Any] | None = None

    async def tiers(self) -> Tiers | None:
        return await tiers_of(self.session, self.base_url)

    async def is_ready(self) -> bool:
        try:
            async with self.session.get(f"{self.base_url}/readyz", timeout=TIMEOUT) as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def deploy(self, change: Callable[[dict[str, Any]], None]) -> None:
        """The config that runs, with this change of each tier's `user_config`."""
        assert self.cluster is not None
        assert self.config is not None
        changed = deepcopy(dict(self.config))
        for app in tier_apps(changed):
            change(app["deployments"][0]["user_config"])
        document = with_http_port(changed, self.cluster.port)
        await asyncio.to_thread(self.cluster.api.deploy, document)

    def check_alive(self) -> None:
        """Raises ClusterError when Ray has ended by itself."""
        if self.cluster is not None:
            self.cluster.wait_while_alive(0)


@dataclass(slots=True)
class Own:
    """A cluster of its own, and what its stop left behind."""

    cluster: LocalCluster
    config: Mapping[str, Any]
    profile: str
    models: tuple[str, ...]
    left_behind: Mapping[str, Any] | None = None

    def forget_logs(self) -> None:
        shutil.rmtree(self.cluster.run_dir, ignore_errors=True)


@contextlib.contextmanager
def own_server(model: str | None, say: Callable[[str], None]) -> Iterator[Own]:
    """Start the profile of this machine's GPUs; without one micro-r1 in both tiers. Its logs
    stay where they are. Raises UserError."""
    chosen = model or (None if installed_gpus() else MICRO_MODEL)
    try:
        plan = launcher.make_plan(free_ports(1)[0], None, chosen)
        for name in plan.models:
            resolve_model(name)
    except (launcher.CannotStartError, ValueError) as error:
        raise UserError(str(error)) from None
    config = soaked_config(plan.config)
    shared_before = shared_memory_files()
    cluster = LocalCluster(port=plan.port, environment=plan.environment)
    own = Own(cluster, config, plan.profile, plan.models)
    say(f"starting {', '.join(plan.models)} by the profile {plan.profile}")
    started: list[psutil.Process] = []
    try:
        cluster.start()
        _deploy(cluster, config)
        yield own
        started = server_processes(cluster.run_id)
    except (ClusterError, ServeApiError) as error:
        logs = f"Its logs are in {cluster.log_dir}."
        raise UserError(f"{error}\n{getattr(error, 'detail', '')[-1500:]}\n{logs}") from None
    finally:
        say("stopping the server")
        cluster.stop(keep_logs=True)
        own.left_behind = _left_behind(cluster, started, shared_before)


def _deploy(cluster: LocalCluster, config: Mapping[str, Any]) -> None:
    """A busy machine may not answer in time; the same config again does no harm."""
    for left in range(DEPLOY_TRIES - 1, -1, -1):
        try:
            cluster.deploy(config, timeout_s=START_LIMIT_S)
            return
        except ServeApiError:
            if not left:
                raise


def soaked_config(profile: Mapping[str, Any]) -> dict[str, Any]:
    """The profile with a small answer cache in each tier."""
    config = deepcopy(dict(profile))
    for app in tier_apps(config):
        settings = app["deployments"][0].setdefault("user_config", {})
        settings["answer_cache"] = dict(CACHE)
    return config


def tier_apps(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [app for app in config["applications"] if app["name"] in set(Tier)]


def _left_behind(
    cluster: LocalCluster, started: list[psutil.Process], shared_before: Mapping[str, int]
) -> dict[str, Any]:
    alive: set[str] = set()
    for process in [*started, *processes_of_run(cluster.run_id, cluster.run_dir)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                alive.add(f"{process.pid} {process.name()}")
    return {
        "processes": sorted(alive),
        "shared_memory": {
            name: size
            for name, size in sorted(shared_memory_files().items())
            if name not in shared_before
        },
    }
