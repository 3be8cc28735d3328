"""The service that the parts of a record ask: the chat tier alone, on the whole GPU."""

import contextlib
import json
import urllib.request
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.errors import MeasurementError
from serve_app.core.tiers import Tier
from serve_app.engine.models.model_dir import MICRO_MODEL, resolve_model
from serve_app.local.cluster import ClusterError, LocalCluster
from serve_app.local.profiles import find_profile, load_profile, models_of
from serve_app.nvidia import DriverGpu, installed_gpus

# A first start downloads the model and compiles it.
START_LIMIT_S = 1800.0
TIMEOUT_S = 30.0
# Long enough for the whole budget curve.
MOST_NEW_TOKENS = 2048
# As the profiles of one tier per GPU have it.
UTILIZATION = 0.9


@dataclass(frozen=True, slots=True)
class GpuService:
    """The first GPU of this machine, and what is served on it; `gpu` is None on a CPU."""

    gpu: DriverGpu | None
    model: str
    config: Mapping[str, Any]

    @property
    def name(self) -> str:
        return "CPU" if self.gpu is None else self.gpu.name


def this_gpu_service(model: str | None = None) -> GpuService:
    """What this machine has. Without a GPU, and without a model named, it serves micro-r1."""
    gpus = installed_gpus()[:1]
    profile = find_profile(gpus)
    config = load_profile(profile)
    chosen = model or (models_of(config)[0] if gpus else MICRO_MODEL)
    return GpuService(gpus[0] if gpus else None, chosen, one_tier(config, chosen, whole=bool(gpus)))


def one_tier(config: Mapping[str, Any], model: str, *, whole: bool) -> dict[str, Any]:
    """The profile's chat tier with the reasoning tier's limit; with `whole` it has a whole GPU."""
    changed = deepcopy(dict(config))
    apps = {app["name"]: app for app in changed["applications"]}
    web, chat = apps["web"], apps[Tier.CHAT]
    web["args"] = {"tiers": [Tier.CHAT.value]}
    chat["args"]["model"] = model
    [deployment] = chat["deployments"]
    deployment.setdefault("user_config", {})["max_new_tokens"] = MOST_NEW_TOKENS
    deployment["autoscaling_config"] |= {"min_replicas": 1, "max_replicas": 1}
    if whole:
        deployment["ray_actor_options"]["num_gpus"] = 1
        engine = chat["args"].setdefault("engine", {})
        shared = engine.get("gpu_memory_utilization", UTILIZATION)
        engine["gpu_memory_utilization"] = max(shared, UTILIZATION)
    changed["applications"] = [web, chat]
    return changed


@contextlib.contextmanager
def serving(served: GpuService, port: int | None = None) -> Iterator[str]:
    """Its base URL, at that port where one is given, for as long as the block runs. Raises
    MeasurementError where it does not start."""
    try:
        with LocalCluster(port=port) as cluster:
            cluster.deploy(served.config, timeout_s=START_LIMIT_S)
            yield cluster.base_url
    except ClusterError as error:
        raise MeasurementError(f"{error}\n{getattr(error, 'detail', '')[-1500:]}") from None


def local_model(model: str) -> str:
    """An embedded model's name, or the folder of what the service has downloaded. Raises
    MeasurementError where it has not."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    found = resolve_model(model)
    if isinstance(found, Path):
        return model
    try:
        return snapshot_download(found, local_files_only=True)
    except LocalEntryNotFoundError:
        raise MeasurementError(f"{model} is not downloaded yet: run the part `starts`") from None


def replica_of(base_url: str) -> Mapping[str, Any]:
    """The replica, as `/api/tiers` has it."""
    tiers = json.loads(read(f"{base_url}/api/tiers"))
    [tier] = (entry for entry in tiers["tiers"] if entry["tier"] == Tier.CHAT)
    [replica] = tier["replicas"]
    return replica


def read(url: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=TIMEOUT_S) as answer:
        return answer.read().decode()
