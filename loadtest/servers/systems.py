"""The servers that are compared: started alike, each a context that ends what it started."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil

from loadtest.errors import MeasurementError
from loadtest.servers.processes import server_processes
from serve_app.config.tier import EngineConfig
from serve_app.core.placement.engine_args import EngineSpec, cores_of_slice, engine_args
from serve_app.core.placement.hardware import Hardware, hardware_for
from serve_app.core.tiers import Tier
from serve_app.engine.vllm.cpu import MALLOC_KEEPS, MALLOC_VARIABLE, computes_on_cpu, this_cpu
from serve_app.engine.vllm.speculation import chosen_speculation
from serve_app.local.cluster import LocalCluster
from serve_app.local.profiles import find_profile, load_profile
from serve_app.local.supervisor import RUN_ID_VARIABLE
from serve_app.nvidia import installed_gpus
from serve_app.serving.engine_start import BY_INSTALLATION, NOT_ARGUMENTS

START_TIMEOUT_S = 600.0
STOP_TIMEOUT_S = 60.0
POLL_S = 0.5
LOG_TAIL_BYTES = 3000
# Both systems know the model by the tier's name.
MODEL_NAME = Tier.CHAT.value
# As the kernel cuts the names.
ENGINE_PROCESS = "VLLM::EngineCor"
WORKER_PROCESS = "VLLM::Worker"
PLUGINS, OWN_PLUGIN = "vllm.general_plugins", "tierserve"
BARE = "bare"
OURS = "ours"
# The same tierserve, asked at the route that finds the tier by the request's model.
OURS_V1 = "ours-v1"
# The bare server, while a tierserve that nobody asks runs on the same machine.
BARE_BESIDE_OURS = "bare-beside-ours"


@dataclass(frozen=True, slots=True)
class System:
    """A running server: where it answers, and the mark that its processes carry. `beside` are the
    marks of other servers that go on without requests while it is measured."""

    name: str
    chat_url: str
    run_id: str
    beside: tuple[str, ...] = ()

    @property
    def awake(self) -> frozenset[str]:
        """The marks of all that runs while it is measured."""
        return frozenset((self.run_id, *self.beside))


@contextlib.contextmanager
def our_chat_tier(
    model_dir: Path, engine: EngineConfig, *, slots: int, on_wait: Callable[[], None]
) -> Iterator[System]:
    """The chat tier alone, deployed as `make serve` deploys it, with room for `slots` streams."""
    environment = {"HF_HUB_OFFLINE": "1"}
    with LocalCluster(environment=environment) as cluster:
        config = chat_only_config(machine_profile(), model_dir, engine, slots)
        cluster.deploy(config, timeout_s=START_TIMEOUT_S, on_poll=lambda _: on_wait())
        url = f"{cluster.base_url}{Tier.CHAT.route_prefix}/v1/chat/completions"
        yield System(OURS, url, cluster.run_id)


def machine_profile() -> dict[str, Any]:
    """The profile of this machine's first GPU, or of its CPU."""
    return load_profile(find_profile(installed_gpus()[:1]))


def at_v1(ours: System) -> System:
    """The same server at `/v1`: its gateway asks the chat tier for the client."""
    url = ours.chat_url.replace(Tier.CHAT.route_prefix, "", 1)
    return replace(ours, name=OURS_V1, chat_url=url)


def chat_only_config(
    profile: Mapping[str, Any], model_dir: Path, engine: EngineConfig, slots: int
) -> dict[str, Any]:
    """The profile without the reasoning tier, whose engine would only take memory."""
    config = deepcopy(dict(profile))
    apps = {app["name"]: app for app in config["applications"]}
    apps["web"]["args"] = {"tiers": [Tier.CHAT.value]}
    chat = apps[Tier.CHAT.value]
    chat["args"] |= {
        "model": str(model_dir),
        "engine": engine.model_dump(mode="json", exclude_defaults=True),
    }
    settings = chat["deployments"][0].setdefault("user_config", {})
    # A client that has its last chunk sends the next request before its slot is free.
    settings["admission"] = {"max_running_sequences": slots, "max_queued_requests": slots}
    config["applications"] = [apps["web"], chat]
    return config


@contextlib.contextmanager
def bare_vllm(
    model_dir: Path,
    engine: EngineConfig,
    *,
    port: int,
    on_wait: Callable[[], None],
    name: str = BARE,
) -> Iterator[System]:
    """vLLM's own server with the command line that the tier's replica gives to its engine."""
    command = baseline_command(model_dir, engine, port)
    with supervised(
        name, command, engine_environment(engine), port=port, on_wait=on_wait
    ) as system:
        if computes_on_cpu():
            bind_engine(system.run_id, engine_cores(engine))
        yield system


def baseline_command(model_dir: Path, engine: EngineConfig, port: int) -> list[str]:
    # The `vllm` command of the CPU build does not start; this module is the same server.
    server = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    listen = ["--host", "127.0.0.1", "--port", str(port)]
    return [*server, *engine_words(model_dir, engine), *listen]


def engine_words(model_dir: Path, engine: EngineConfig) -> list[str]:
    """The arguments of `vllm serve` that a replica of the tier gives to its engine. Which drafts
    are verified, where there are any, is vLLM's own choice."""
    speculation = chosen_speculation(engine.speculation)
    spec = EngineSpec(
        model=str(model_dir),
        served_names=(MODEL_NAME,),
        speculation=None if speculation is None else speculation.method,
        **engine.model_dump(exclude={*NOT_ARGUMENTS, *BY_INSTALLATION}),
    )
    return engine_args(spec, _hardware())


def _hardware() -> Hardware:
    """As a replica on this machine's first GPU has it, or on the CPU."""
    if computes_on_cpu():
        return this_cpu()
    gpus = installed_gpus()
    return hardware_for(gpus[0].accelerator_type if gpus else None)


def engine_environment(engine: EngineConfig) -> dict[str, str]:
    """What a replica of the tier sets for its engine. Not tierserve's plugin: what it patches is no
    part of another server."""
    plugins = (plugin.name for plugin in entry_points(group=PLUGINS))
    environment = {
        "VLLM_PLUGINS": ",".join(sorted({*plugins} - {OWN_PLUGIN})),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    if not computes_on_cpu():
        return environment
    return environment | {
        "VLLM_CPU_KVCACHE_SPACE": str(engine.cpu_kv_cache_gib),
        "OMP_NUM_THREADS": str(len(engine_cores(engine))),
        MALLOC_VARIABLE: os.environ.get(MALLOC_VARIABLE, MALLOC_KEEPS),
    }


def engine_cores(engine: EngineConfig) -> list[int]:
    """The cores of this machine that the engine computes on."""
    return cores_of_slice(engine.cpu_slice, sorted(os.sched_getaffinity(0)))


def bind_engine(run_id: str, cores: Sequence[int]) -> None:
    """What computes in a server does so on these cores only, as `on_cores` has it in a replica: the
    engine's process, or its worker's where the engine has given that a process of its own."""
    processes = server_processes(run_id)
    computing = _titled(processes, WORKER_PROCESS) or _titled(processes, ENGINE_PROCESS)
    if not computing:
        raise MeasurementError(f"no process is named {ENGINE_PROCESS} or {WORKER_PROCESS}")
    for thread in (thread for process in computing for thread in process.threads()):
        os.sched_setaffinity(thread.id, cores)


def _titled(processes: Iterable[psutil.Process], title: str) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            if process.name().startswith(title):
                found.append(process)
    return found


@contextlib.contextmanager
def supervised(
    name: str,
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    port: int,
    on_wait: Callable[[], None],
) -> Iterator[System]:
    """A server that is one command, from its first answer at `/health` on; ended with its tree."""
    run_id = f"{name}-{uuid4().hex[:12]}"
    with tempfile.NamedTemporaryFile(prefix=f"{name}-", suffix=".log") as log:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "serve_app.local.supervisor", *command],
            env=os.environ | environment | {RUN_ID_VARIABLE: run_id},
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _await_ready(name, supervisor, f"http://127.0.0.1:{port}/health", on_wait)
            yield System(name, f"http://127.0.0.1:{port}/v1/chat/completions", run_id)
        except Exception as error:
            error.add_note(f"The last lines of the server '{name}':\n{_tail(Path(log.name))}")
            raise
        finally:
            supervisor.terminate()
            supervisor.wait(STOP_TIMEOUT_S)


def _await_ready(
    name: str, server: subprocess.Popen[bytes], health_url: str, on_wait: Callable[[], None]
) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while not _answers(health_url):
        if server.poll() is not None:
            raise MeasurementError(f"the server '{name}' ended while it started")
        if time.monotonic() > deadline_s:
            raise MeasurementError(f"the server '{name}' did not answer in {START_TIMEOUT_S:.0f} s")
        on_wait()
        time.sleep(POLL_S)


def _tail(log: Path) -> str:
    return log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:  # noqa: S310 - our own server
            return response.status == 200
    except (urllib.error.URLError, OSError):
        return False
