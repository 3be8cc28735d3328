"""What tests look at in the Pods: processes, applications, what a user meets."""

from collections.abc import Iterator
from typing import Any

import httpx
import psutil

from serve_app.core.tiers import Tier
from tests.e2e.figures import keep_figures
from tests.k8s.pods.kubelet import Pod
from tests.k8s.pods.operator import Operator

PREFIX = "pods: "
ENGINE = "VLLM::EngineCore"


def keep(name: str, **figures: Any) -> None:
    """For docs/kubernetes.md, rounded."""
    rounded = {k: round(v, 1) if isinstance(v, float) else v for k, v in figures.items()}
    keep_figures(f"{PREFIX}{name}", **rounded)


def is_running(site: Operator, *names: str) -> bool:
    """All applications of these names (else all three) are RUNNING."""
    try:
        found = site.applications()
    except httpx.HTTPError:
        return False
    wanted = names or ("web", *Tier)
    return all(name in found and found[name]["status"] == "RUNNING" for name in wanted)


def tier(site: Operator, name: Tier) -> dict[str, Any]:
    """The tier's entry of /api/tiers; raises httpx.HTTPError."""
    tiers = httpx.get(f"{address(site)}/api/tiers", timeout=10).json()["tiers"]
    return next(entry for entry in tiers if entry["tier"] == name)


def address(site: Operator) -> str:
    """Where the Service sends the next connection; of no Pod where none is ready."""
    return site.endpoint() or "http://127.0.0.1:9"


def answers(site: Operator, name: Tier) -> bool:
    """A short request is served."""
    body = {"prompt": "1+1", "max_tokens": 4}
    try:
        return httpx.post(f"{address(site)}/api/{name}", json=body, timeout=10).is_success
    except httpx.HTTPError:
        return False


def engines(site: Operator) -> dict[str, int]:
    """The engine's process in each Pod that has one, by the Pod's name."""
    return {
        pod.name: process.pid for pod in list(site.pods.values()) for process in titled(pod, ENGINE)
    }


def replica_pod(site: Operator, name: str) -> str:
    """The role of the Pod that the replica of a tier, or of `web`, runs in."""
    title = f"ray::ServeReplica:{name}:{name}"
    (role,) = (role for role, pod in list(site.pods.items()) if any(titled(pod, title)))
    return role


def titled(pod: Pod, title: str) -> Iterator[psutil.Process]:
    """Processes of the Pod whose command line begins so."""
    for process in pod.main.processes():
        try:
            command = process.cmdline()
        except psutil.Error:
            continue
        if command and command[0].startswith(title):
            yield process
