"""The real side of a cell: deploy/mixed.yaml on a local Ray cluster, with the fake engine."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from loadtest.servers.ray_nodes import gpu_node
from loadtest.simulation.profile import GpuProfile
from loadtest.studies.replay_scaling.cells import ReplayCell
from serve_app.core.tiers import Tier
from serve_app.local.cluster import LocalCluster
from serve_app.local.profiles import load_profile, with_http_port

# What a replica's start takes beside its engine's, mostly in a process that stood by, until
# Serve has seen that it is ready.
PROCESS_S = 2.0
ENVIRONMENT = {
    # Further nodes join the head, at an address of their own.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",
}


@contextmanager
def running_cluster(
    cell: ReplayCell,
    profiles: Mapping[str, GpuProfile],
    tiers: tuple[Tier, ...],
    stream_interval: int,
) -> Iterator[LocalCluster]:
    """A Ray head without GPUs, a node for each kind of GPU, and the application, which starts."""
    config = application(cell, profiles, tiers, stream_interval, least=cell.initial)
    head = LocalCluster(environment=ENVIRONMENT, ray_options=("--num-cpus=2", "--num-gpus=0"))
    with head as cluster, ExitStack() as nodes:
        for gpu, count in cell.gpus.items():
            accelerator_type = profiles[gpu].accelerator_type or gpu
            nodes.enter_context(gpu_node(cluster, accelerator_type, count))
        cluster.api.deploy(with_http_port(config, cluster.port))
        yield cluster


def release(
    cluster: LocalCluster,
    cell: ReplayCell,
    profiles: Mapping[str, GpuProfile],
    tiers: tuple[Tier, ...],
    stream_interval: int,
) -> None:
    """Let the scaling policy decide from now on. Until then the counts that the cell begins
    with are kept: replicas that wait for the first request would be scaled down before it came."""
    config = application(cell, profiles, tiers, stream_interval, least={})
    cluster.api.deploy(with_http_port(config, cluster.port))


def application(
    cell: ReplayCell,
    profiles: Mapping[str, GpuProfile],
    tiers: tuple[Tier, ...],
    stream_interval: int,
    *,
    least: Mapping[Tier, int],
) -> dict[str, Any]:
    """deploy/mixed.yaml with the tiers that have requests, on the fake engine: its settings but for
    the bounds of the counts, and for Ray's own policy its setting in place of our policy function.
    `stream_interval`: tokens in an event of a stream; `least` replicas of a tier, 1 if it is not
    named."""
    config = load_profile("mixed")
    # A HAProxy for each node would need a machine for each.
    config |= {"proxy_location": "HeadOnly", "http_options": {"host": "127.0.0.1"}}
    config["applications"] = [
        app
        for app in config["applications"]
        if app["name"] not in list(Tier) or Tier(app["name"]) in tiers
    ]
    for app in config["applications"]:
        if app["name"] in list(Tier):
            app["args"]["engine"] = {"fake": fake_engine(cell, profiles, stream_interval)}
            (deployment,) = app["deployments"]
            _scale(cell, deployment, least.get(Tier(app["name"]), 1))
    return config


def fake_engine(
    cell: ReplayCell, profiles: Mapping[str, GpuProfile], stream_interval: int
) -> dict[str, Any]:
    """`args.engine.fake`: the GPUs of the cell as their profiles have them."""
    gpus = [profiles[gpu] for gpu in cell.gpus]
    start_s = max(gpu.start_total_s for gpu in gpus)
    return {
        "start_s": max(0.0, start_s - PROCESS_S),
        # The answer's length is the request's `min_tokens`.
        "reply_tokens": 1,
        "reply_spread": 0.0,
        "stream_interval": stream_interval,
        "cards": {gpu.accelerator_type: gpu.fake_engine_figures for gpu in gpus},
    }


def autoscaling_config(cell: ReplayCell, tier: Tier) -> dict[str, Any]:
    """As Serve gets it, without a policy function: what the simulation gives Ray's own policy."""
    config = load_profile("mixed")
    (app,) = (app for app in config["applications"] if app["name"] == tier)
    (deployment,) = app["deployments"]
    _scale(cell, deployment, 1)
    return {name: v for name, v in deployment["autoscaling_config"].items() if name != "policy"}


def _scale(cell: ReplayCell, deployment: dict[str, Any], least: int) -> None:
    scaling = deployment["autoscaling_config"]
    scaling |= {"min_replicas": least, "max_replicas": sum(cell.gpus.values())}
    if cell.ray is not None:
        del scaling["policy"]
        scaling |= {
            "target_ongoing_requests": cell.ray.target_ongoing_requests,
            "downscale_delay_s": cell.ray.downscale_delay_s,
            "look_back_period_s": cell.ray.look_back_period_s,
        }
        # Lending is part of our data plane; Serve has none.
        deployment["user_config"] |= {"admission": {"lend_share": 0.0}}
