"""What there is to run on: a Ray cluster as its dashboard reports it, or this machine alone.

REST only, so that looking starts no driver in the cluster and needs no Ray in this process.
"""

import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import psutil

from serve_app.core.placement.labels import ACCELERATOR_LABEL
from serve_app.core.placement.nodes import NodeView
from serve_app.local.serve_api import ServeApi, failure_reason, get_json, is_failing
from serve_app.nvidia import MIB, DriverGpu, installed_gpus

# Detached actors of Serve are named so: SERVE_REPLICA::app#deployment#id.
_REPLICA_NAME = "SERVE_REPLICA::"


@dataclass(frozen=True, slots=True)
class ClusterView:
    """`gpus` by node name, as far as drivers report them; `applications` as they are deployed."""

    source: str
    nodes: list[NodeView]
    gpus: Mapping[str, list[DriverGpu]] = field(default_factory=dict)
    applications: list[Mapping[str, Any]] = field(default_factory=list)
    placed: Mapping[str, int] = field(default_factory=dict)
    targets: Mapping[str, int] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_cluster(self) -> bool:
        """Whether Ray runs here."""
        return bool(self.source)


def view_machine() -> ClusterView:
    """This machine, as Ray would see it if it were started here now."""
    found = installed_gpus()
    labels = {ACCELERATOR_LABEL: found[0].accelerator_type} if found else {}
    memory = psutil.virtual_memory()
    cpus = float(os.cpu_count() or 1)
    gpus = float(len(found))
    name = platform.node()
    node = NodeView(name, cpus, cpus, gpus, gpus, memory.total, memory.available, labels)
    return ClusterView("", [node], {name: found})


def view_cluster(api: ServeApi) -> ClusterView:
    """The cluster behind a dashboard. Raises ServeApiError where it does not answer."""
    serve = get_json(api, "/api/serve/applications/")
    nodes = [n for n in _listed(get_json(api, "/api/v0/nodes?detail=1&limit=1000")) if _alive(n)]
    actors = _listed(get_json(api, "/api/v0/actors?detail=1&limit=10000&filter_keys=state"
                                   "&filter_predicates=%3D&filter_values=ALIVE"))  # fmt: skip
    summaries = get_json(api, "/nodes?view=summary")["data"]["summary"]
    usage = _usage(get_json(api, "/api/cluster_status?format=0"))
    names = _names(nodes)
    deployments = list(_deployments(serve))
    return ClusterView(
        source=api.address,
        nodes=[_node_view(node, names, actors, usage) for node in nodes],
        gpus={names[node_id]: gpus for node_id, gpus in _gpus(summaries) if node_id in names},
        applications=[
            app["deployed_app_config"]
            for app in serve.get("applications", {}).values()
            if app.get("deployed_app_config")
        ],
        placed={name: sum(1 for r in d["replicas"] if r.get("node_id")) for name, d in deployments},
        targets={name: d["target_num_replicas"] for name, d in deployments},
        failures=dict(_failures(serve)),
    )


def _listed(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    return answer["data"]["result"]["result"]


def _alive(node: Mapping[str, Any]) -> bool:
    return node["state"] == "ALIVE"


def _names(nodes: list[dict[str, Any]]) -> dict[str, str]:
    """A name for each node id: its address, with the id where several nodes share one."""
    addresses = [node["node_ip"] for node in nodes]
    return {
        node["node_id"]: node["node_ip"]
        if addresses.count(node["node_ip"]) == 1
        else f"{node['node_ip']}/{node['node_id'][:6]}"
        for node in nodes
    }


def _node_view(
    node: Mapping[str, Any],
    names: Mapping[str, str],
    actors: list[dict[str, Any]],
    usage: Mapping[str, Mapping[str, list[float]]],
) -> NodeView:
    total: Mapping[str, float] = node["resources_total"]
    used = usage.get(node["node_id"], {})

    def free(name: str) -> float:
        return total.get(name, 0.0) - used.get(name, [0.0])[0]

    holders: dict[str, float] = {}
    for actor in actors:
        gpus = (actor.get("required_resources") or {}).get("GPU", 0.0)
        if actor["node_id"] == node["node_id"] and gpus:
            who = _holder(actor)
            holders[who] = holders.get(who, 0.0) + gpus
    return NodeView(
        name=names[node["node_id"]],
        cpus=total.get("CPU", 0.0),
        cpus_free=free("CPU"),
        gpus=total.get("GPU", 0.0),
        gpus_free=free("GPU"),
        memory_bytes=total.get("memory", float("inf")),
        memory_free_bytes=free("memory") if "memory" in total else float("inf"),
        labels={n: v for n, v in (node.get("labels") or {}).items() if n != "ray.io/node-id"},
        gpu_holders=holders,
    )


def _holder(actor: Mapping[str, Any]) -> str:
    name = actor.get("name") or ""
    if name.startswith(_REPLICA_NAME):
        return name.removeprefix(_REPLICA_NAME).split("#")[1]
    return f"actor {name or actor['class_name']}"


def _usage(answer: Mapping[str, Any]) -> Mapping[str, Mapping[str, list[float]]]:
    """[used, total] by node id and resource. Empty until Ray's autoscaler has reported once."""
    report = (answer["data"].get("clusterStatus") or {}).get("loadMetricsReport") or {}
    return report.get("usageByNode") or {}


def _gpus(summaries: list[dict[str, Any]]) -> Iterator[tuple[str, list[DriverGpu]]]:
    for summary in summaries:
        found = [
            DriverGpu(
                index=str(gpu.get("index")),
                uuid=gpu.get("uuid") or "",
                name=gpu.get("name") or "",
                memory_bytes=int(gpu["memoryTotal"]) * MIB if gpu.get("memoryTotal") else None,
            )
            for gpu in summary.get("gpus") or []
        ]
        yield (summary.get("raylet") or {}).get("nodeId", ""), found


def _deployments(serve: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for app in serve.get("applications", {}).values():
        for name, deployment in (app.get("deployments") or {}).items():
            yield name, {"replicas": [], "target_num_replicas": 0, **deployment}


def _failures(serve: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, app in serve.get("applications", {}).items():
        messages = [app.get("message") or ""]
        messages += [d.get("message") or "" for d in (app.get("deployments") or {}).values()]
        message = "\n".join(each for each in messages if each)
        if is_failing(app.get("status", ""), message):
            yield name, failure_reason(message)
