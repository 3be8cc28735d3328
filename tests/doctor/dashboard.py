"""Ray's dashboard as the doctor reads it: answers in the form that Ray 2.60 gives."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.http_server import QuietHandler, listening

TOKEN = "a-token"


@dataclass(slots=True)
class Dashboard:
    """Nodes are (id, CPUs, GPUs, accelerator type); replicas (app, state, node id or None)."""

    nodes: Sequence[tuple[str, float, float, str | None]] = ()
    applications: Sequence[Mapping[str, Any]] = ()
    replicas: Sequence[tuple[str, str, str | None]] = ()
    message: str = ""
    status: str = "DEPLOYING"
    gpus: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)

    def answer(self, path: str) -> dict[str, Any]:
        page = path.partition("?")[0]
        if page == "/api/serve/applications/":
            return {
                "applications": {app["name"]: self._application(app) for app in self.applications}
            }
        if page == "/api/v0/nodes":
            return _listed([self._node(*node) for node in self.nodes])
        if page == "/api/v0/actors":
            return _listed([self._actor(*r) for r in self.replicas if r[2]])
        if page == "/nodes":
            rows = [
                {"raylet": {"nodeId": n[0]}, "gpus": self.gpus.get(n[0], [])} for n in self.nodes
            ]
            return {"data": {"summary": rows}}
        usage = {n[0]: self._usage(n) for n in self.nodes}
        return {"data": {"clusterStatus": {"loadMetricsReport": {"usageByNode": usage}}}}

    def _usage(self, node: tuple[str, float, float, str | None]) -> dict[str, list[float]]:
        node_id, cpus, gpus, _ = node
        return {
            "GPU": [self._used(node_id, "num_gpus"), gpus],
            "CPU": [self._used(node_id, "num_cpus"), cpus],
        }

    def _options(self, app_name: str) -> Mapping[str, Any]:
        app = next(app for app in self.applications if app["name"] == app_name)
        return app["deployments"][0]["ray_actor_options"]

    def _used(self, node_id: str, resource: str) -> float:
        return sum(
            self._options(app).get(resource, 0.0) for app, _, n in self.replicas if n == node_id
        )

    def _application(self, app: Mapping[str, Any]) -> dict[str, Any]:
        replicas = [
            {"state": state, "node_id": node} for name, state, node in self.replicas
            if name == app["name"]
        ]  # fmt: skip
        deployment = {"target_num_replicas": len(replicas), "replicas": replicas, "message": ""}
        return {
            "status": self.status,
            "message": self.message if app["name"] == "chat" else "",
            "deployed_app_config": app,
            # Serve knows none of an application that is still being built.
            "deployments": {app["name"]: deployment} if replicas else {},
        }

    def _node(self, node_id: str, cpus: float, gpus: float, gpu: str | None) -> dict[str, Any]:
        return {
            "node_id": node_id,
            "node_ip": "10.0.0.1",
            "state": "ALIVE",
            "resources_total": {"CPU": cpus, "memory": 2.0**35} | ({"GPU": gpus} if gpus else {}),
            "labels": {"ray.io/node-id": node_id}
            | ({"ray.io/accelerator-type": gpu} if gpu else {}),
        }

    def _actor(self, app: str, _state: str, node_id: str | None) -> dict[str, Any]:
        return {
            "name": f"SERVE_REPLICA::{app}#{app}#abc",
            "class_name": f"ServeReplica:{app}:{app}",
            "node_id": node_id,
            "required_resources": {"GPU": self._options(app).get("num_gpus", 0.0)},
        }


@contextmanager
def serving(dashboard: Dashboard) -> Iterator[str]:
    """The address of the dashboard."""

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            allowed = self.headers["Authorization"] == f"Bearer {TOKEN}"
            self.send_response(200 if allowed else 401)
            self.end_headers()
            self.wfile.write(json.dumps(dashboard.answer(self.path)).encode() if allowed else b"no")

    with listening(Handler) as url:
        yield url


def _listed(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"data": {"result": {"result": rows}}}
