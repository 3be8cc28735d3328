"""`tierserve serve`: from checks to a running service in the foreground, and back to nothing."""

import os
import shutil
import signal
import time
import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from serve_app.engine.models.model_dir import EMBEDDED_MODEL, check_hub_model, resolve_model
from serve_app.local import profiles
from serve_app.local.cluster import ClusterError, LocalCluster
from serve_app.local.exposure import AccessChoice, Exposure, count_keys, exposure_of
from serve_app.local.ports import holder_of, is_free
from serve_app.local.progress import StartProgress
from serve_app.local.ray_head import haproxy_wrapper
from serve_app.local.ready_notice import ReadyService, listed_models, ready_lines
from serve_app.local.serve_api import AppStatus
from serve_app.local.worker_logs import LogFeed, WorkerLogs, error_tail
from serve_app.nvidia import installed_gpus

POLL_S = 0.5
GIB = 1024**3
# Measured on the CPU: both tiers with the embedded model, Ray included, take 7.1 GiB.
LEAST_MEMORY_BYTES = 7 * GIB
# Ray's object store and vLLM's queues between its processes.
LEAST_SHARED_MEMORY_BYTES = GIB // 4


class CannotStartError(RuntimeError):
    """Something on this machine stands in the way; the message says what to do."""


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """What is started."""

    profile: str
    config: Mapping[str, Any]
    port: int
    environment: Mapping[str, str]
    models: tuple[str, ...]
    exposure: Exposure


def serve(
    port: int,
    profile: str | None,
    model: str | None,
    console: Console,
    *,
    access: AccessChoice | None = None,
    logs_requests: bool = False,
) -> int:
    """Start, stay in the foreground, stop all of it at SIGINT or SIGTERM; the exit status. With
    `logs_requests` every line that replicas log is shown, one for each request among them.

    Raises, when all of it is stopped, CannotStartError or ValueError for what is wrong before Ray
    starts, and ClusterError or ServeApiError for what fails later.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    progress = StartProgress(console)
    try:
        plan = make_plan(port, profile, model, access or AccessChoice())
        progress.say(f"profile {plan.profile}, model {', '.join(plan.models)}, port {plan.port}")
        prepare_models(plan.models, progress)
    except KeyboardInterrupt:
        return 0
    finally:
        progress.stop()
    exposure = plan.exposure
    cluster = LocalCluster(
        port=plan.port,
        http_host=exposure.host,
        environment=plan.environment,
        status_address=exposure.status_address,
    )
    failed = True
    try:
        _start(cluster, plan, progress)
        elapsed_s = progress.elapsed_s
        _print_how_to_use(console, cluster, plan, elapsed_s, logs_requests=logs_requests)
        _follow_logs(cluster, console, logs_requests=logs_requests)
    except KeyboardInterrupt:
        failed = False
    except ClusterError as error:
        error.detail = error.detail.strip() or "\n".join(error_tail(cluster.log_dir))
        raise
    finally:
        progress.stop()
        _stop(cluster, console, keep_logs=failed)
    return 0


def make_plan(
    port: int,
    profile: str | None,
    model: str | None,
    access: AccessChoice = AccessChoice(),  # noqa: B008 - frozen
) -> LaunchPlan:
    """Choose profile, model and address, and check what would make the start fail later."""
    name = profile or profiles.find_profile(installed_gpus())
    config = profiles.load_profile(name)
    exposure = exposure_of(access, name, config)
    if exposure.database is not None:
        # What is wrong with it is said before Ray starts.
        count_keys(exposure.database)
    if not is_free(port, exposure.host):
        raise CannotStartError(
            f"Port {port} is taken by {holder_of(port)}: stop it, or choose another with --port "
            "(make serve PORT=...)."
        )
    _check_memory()
    chosen = model or os.environ.get("TIERSERVE_MODEL")
    environment = dict(exposure.environment)
    if chosen:
        # Replicas have a working directory of their own.
        is_path = chosen != EMBEDDED_MODEL and Path(chosen).expanduser().exists()
        chosen = str(Path(chosen).expanduser().resolve()) if is_path else chosen
        environment["TIERSERVE_MODEL"] = chosen
    models = [chosen] if chosen else profiles.models_of(config)
    return LaunchPlan(name, config, port, environment, tuple(models), exposure)


def prepare_models(models: tuple[str, ...], progress: StartProgress) -> None:
    """Convert, check or look up each model before Ray is started for it."""
    for model in models:
        progress.wait_for(f"the model {model} to be checked (converted, the first time)")
        found = resolve_model(model)
        if isinstance(found, str):
            check_hub_model(found)
            progress.say(f"model {model} found; its replicas download what is not there yet")
        else:
            progress.say(f"model {model} is in {found}")


def _check_memory() -> None:
    available = psutil.virtual_memory().available
    if available < LEAST_MEMORY_BYTES:
        raise CannotStartError(
            f"Only {available / GIB:.1f} GiB of memory are free and two replicas of vLLM need "
            f"{LEAST_MEMORY_BYTES / GIB:.0f}: end something else first."
        )
    shared = shutil.disk_usage("/dev/shm").free
    if shared < LEAST_SHARED_MEMORY_BYTES:
        raise CannotStartError(
            f"/dev/shm has only {shared // 2**20} MiB free: give it 1 GiB "
            "(in a container: --shm-size=1g)."
        )


def _start(cluster: LocalCluster, plan: LaunchPlan, progress: StartProgress) -> None:
    if haproxy_wrapper() is None:
        progress.say(
            "HAProxy stays as Ray configures it: tierserve-haproxy is missing, `make setup`"
        )
    progress.wait_for("Ray to start")
    cluster.start()
    progress.say("Ray is up")
    logs = WorkerLogs(cluster.log_dir)

    def show(apps: Mapping[str, AppStatus]) -> None:
        progress.read_logs(logs)
        progress.read_status(apps)

    cluster.deploy(plan.config, on_poll=show)
    progress.stop()


def _print_how_to_use(
    console: Console,
    cluster: LocalCluster,
    plan: LaunchPlan,
    elapsed_s: float,
    *,
    logs_requests: bool,
) -> None:
    exposure = plan.exposure
    service = ReadyService(
        base_url=cluster.base_url,
        exposure=exposure,
        port=plan.port,
        routes=list(profiles.tier_routes(plan.config).values()),
        models=listed_models(cluster.status_url),
        status_url=cluster.status_url,
        has_keys=exposure.database is not None and count_keys(exposure.database) > 0,
        log_dir=cluster.log_dir,
        run_dir=cluster.run_dir,
        logs_requests=logs_requests,
    )
    lines = ready_lines(service, elapsed_s)
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)


def _follow_logs(cluster: LocalCluster, console: Console, *, logs_requests: bool) -> None:
    logs = WorkerLogs(cluster.log_dir)
    logs.new_lines()
    feed = LogFeed(time.monotonic, everything=logs_requests)
    while True:
        cluster.wait_while_alive(POLL_S)
        for line in feed.take(logs.new_lines()):
            console.print(line, highlight=False, markup=False, soft_wrap=True)


def _stop(cluster: LocalCluster, console: Console, *, keep_logs: bool) -> None:
    console.print("stopping (again to stop at once)", highlight=False)

    def hurry(_number: int, _frame: types.FrameType | None) -> None:
        cluster.hurry_or_stop()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, hurry)
    cluster.stop(keep_logs=keep_logs)
    kept = f"; the logs stay in {cluster.log_dir}" if keep_logs and cluster.log_dir.exists() else ""
    console.print(f"stopped: nothing is left running{kept}", highlight=False, soft_wrap=True)


def _interrupt(_number: int, _frame: types.FrameType | None) -> None:
    raise KeyboardInterrupt
