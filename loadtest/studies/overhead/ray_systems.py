"""Ray Serve's own two ways to stream an LLM's answers, each in a Ray cluster of its own.

Both get Ray's defaults where tierserve sets its own (deploy/runtime.env): Serve's Python proxy, and
user code in a thread of its own. Two things are as for all systems: processes have the priority of
the client (Ray's default of nice 15 would make them wait for it), and the engine has its cores.
"""

import contextlib
import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from loadtest.errors import MeasurementError
from loadtest.report.results_file import REPOSITORY
from loadtest.servers.systems import (
    MODEL_NAME,
    START_TIMEOUT_S,
    System,
    bind_engine,
    engine_cores,
    engine_environment,
    engine_words,
)
from serve_app.config.tier import EngineConfig
from serve_app.local.cluster import LocalCluster
from serve_app.local.profiles import DEPLOY_DIR, read_env_file

RAY_SERVE_LLM = "ray-serve-llm"
SERVE_PROXY_HANDLE = "serve-proxy-handle"
# What `ray.serve.llm` imports beyond the lock of the servers: the extra `bench`.
RAY_LLM_PACKAGES = ("jsonref", "pyarrow")
# Logical ones: an engine, its bundle, and an ingress are more than two cores.
LOGICAL_CPUS = 4
# Set by `LLMConfig` from other fields of it, and refused among its engine's arguments.
_NOT_ENGINE_KWARGS = frozenset({"model", "served_model_name", "distributed_executor_backend"})


def check_ray_llm() -> None:
    """Raise MeasurementError where `ray.serve.llm` cannot be imported."""
    missing = [name for name in RAY_LLM_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise MeasurementError(
            f"{RAY_SERVE_LLM} needs {' and '.join(missing)}: run `make setup`, or leave it out "
            f"with `--systems bare ours {SERVE_PROXY_HANDLE}`."
        )


@contextlib.contextmanager
def ray_serve_llm(
    model_dir: Path, engine: EngineConfig, *, on_wait: Callable[[], None]
) -> Iterator[System]:
    """`ray.serve.llm` as its documentation starts it: `build_openai_app` with one `LLMConfig`."""
    app = {
        "import_path": "ray.serve.llm:build_openai_app",
        "args": {"llm_configs": [llm_config(model_dir, engine)]},
    }
    with _serving(RAY_SERVE_LLM, app, engine, ready_path="/v1/models", on_wait=on_wait) as system:
        yield system


def llm_config(model_dir: Path, engine: EngineConfig) -> dict[str, Any]:
    """An `LLMConfig` for a machine without a GPU, which bundles without one tell it."""
    return {
        "model_loading_config": {"model_id": MODEL_NAME, "model_source": str(model_dir)},
        "engine_kwargs": engine_kwargs(engine_words(model_dir, engine)),
        "placement_group_config": {"bundles": [{"CPU": 1}]},
    }


def engine_kwargs(words: Sequence[str]) -> dict[str, Any]:
    """Words of the command line of `vllm serve` as keyword arguments of vLLM's engine and front
    end, without those that `LLMConfig` sets by itself."""
    kwargs: dict[str, Any] = {}
    for word, following in zip(words, [*words[1:], "--"], strict=True):
        if not word.startswith("--"):
            continue
        name = word.removeprefix("--").replace("-", "_")
        if name.startswith("no_"):
            kwargs[name.removeprefix("no_")] = False
        else:
            kwargs[name] = True if following.startswith("--") else yaml.safe_load(following)
    return {name: value for name, value in kwargs.items() if name not in _NOT_ENGINE_KWARGS}


@contextlib.contextmanager
def serve_proxy_handle(
    model_dir: Path, engine: EngineConfig, *, slots: int, on_wait: Callable[[], None]
) -> Iterator[System]:
    """`serve_proxy_app` with room for `slots` streams and their successors."""
    app = {
        "import_path": "loadtest.studies.overhead.serve_proxy_app:build_app",
        "args": {
            "engine_args": engine_words(model_dir, engine),
            "max_ongoing_requests": 2 * slots,
        },
    }
    with _serving(SERVE_PROXY_HANDLE, app, engine, ready_path="/health", on_wait=on_wait) as system:
        yield system


@contextlib.contextmanager
def _serving(
    name: str,
    app: Mapping[str, Any],
    engine: EngineConfig,
    *,
    ready_path: str,
    on_wait: Callable[[], None],
) -> Iterator[System]:
    config = {
        "http_options": {"host": "127.0.0.1"},
        "applications": [{"name": name, "route_prefix": "/", **app}],
    }
    with plain_cluster(engine) as cluster:
        cluster.deploy(
            config,
            ready_path=ready_path,
            timeout_s=START_TIMEOUT_S,
            on_poll=lambda _: on_wait(),
        )
        bind_engine(cluster.run_id, engine_cores(engine))
        yield System(name, f"{cluster.base_url}/v1/chat/completions", cluster.run_id)


def plain_cluster(engine: EngineConfig) -> LocalCluster:
    """A cluster with Serve's defaults in place of deploy/runtime.env's settings of Serve."""
    path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    cluster = LocalCluster(
        environment=engine_environment(engine) | {"PYTHONPATH": path},
        haproxy=False,
        ray_options=(f"--num-cpus={LOGICAL_CPUS}",),
        interrupts=True,
    )
    for setting in read_env_file((DEPLOY_DIR / "runtime.env").read_text()):
        if setting.startswith("RAY_SERVE_"):
            del cluster.env[setting]
    return cluster
