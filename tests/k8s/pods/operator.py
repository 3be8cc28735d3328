"""What KubeRay's operator does with a RayService: Pods made and replaced, the Serve config handed
in, the Services' endpoints. One RayCluster, no upgrade, no autoscaler."""

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import httpx
import yaml

from tests.e2e.site import wait_for as wait_until
from tests.k8s.manifests import Manifests, Object
from tests.k8s.operator_pods import cluster_name, pods_of
from tests.k8s.pods.kubelet import Kubelet, Pod, ended

RECONCILE_S = 0.5
MOST_REPLACED = 6
_REST = "/api/serve/applications/"


@dataclass(slots=True)
class Operator:
    """Pods by what they are for: `head`, and `GROUP-NUMBER`. Use `operated()`."""

    manifests: Manifests
    kubelet: Kubelet
    pods: dict[str, Pod] = field(default_factory=dict)
    replaced: list[str] = field(default_factory=list)
    _made: int = 0
    _stopping: threading.Event = field(default_factory=threading.Event)

    @property
    def head(self) -> Pod:
        return self.pods["head"]

    def delete(self, role: str) -> Pod:
        """As `kubectl delete pod`, or a drain of its node; returns at once."""
        pod = self.pods[role]
        pod.leave()
        return pod

    def endpoints(self) -> list[str]:
        """The serve Service's: ready Pods, but not the head (excludeHeadPodFromServeSvc)."""
        pods = [pod for role, pod in list(self.pods.items()) if role != "head"]
        return [f"http://{pod.address}:8000" for pod in pods if pod.ready]

    def endpoint(self) -> str | None:
        """One of them by chance, as kube-proxy chooses; None where there is none."""
        return random.choice(self.endpoints() or [None])

    def submit(self, serve_config: Object) -> None:
        """PUT serveConfigV2 to the dashboard; raises httpx.HTTPError."""
        self._dashboard("PUT", json=serve_config)

    def applications(self) -> dict[str, Any]:
        """What the dashboard says of them; raises httpx.HTTPError."""
        return self._dashboard("GET").json()["applications"]

    def crashed(self) -> str:
        """What to say where Pods fail again and again; they are not made anew then."""
        return f"Pods fail: {self.replaced[-3:]}" if len(self.replaced) > MOST_REPLACED else ""

    def reconcile(self) -> None:
        """Every Pod that is wanted and not there is made; those that failed are made anew."""
        head, *groups = pods_of(self.manifests.rayservice)
        del head["spec"]["containers"][1:]
        self._keep("head", head, self._head_names(), headless=self._head_is_headless())
        for group, spec in zip(self.manifests.workers, groups, strict=True):
            for number in range(group["minReplicas"]):
                self._keep(f"{group['groupName']}-{number}", spec, ())

    def stop(self) -> None:
        self._stopping.set()

    def run(self) -> None:
        """Until `stop`."""
        while not self._stopping.wait(RECONCILE_S) and not self.crashed():
            self.reconcile()

    def _keep(
        self, role: str, spec: Object, names: tuple[str, ...], *, headless: bool = False
    ) -> None:
        pod = self.pods.get(role)
        if pod is not None and not pod.failed and not pod.leaving:
            return
        if pod is not None and pod.leaving:
            # One that is being deleted does not count any more.
            self.pods[pod.name] = pod
        elif pod is not None:
            self.replaced.append(f"{role}: {pod.failed}: {pod.last_words()}")
            self.kubelet.remove(pod)
        spec = deepcopy(spec)
        self._made += 1
        spec["metadata"]["name"] += f"-{self._made}"
        self.pods[role] = self.kubelet.create(spec, names, headless=headless)

    def _head_is_headless(self) -> bool:
        # BuildServiceForHeadPod in controllers/ray/common/service.go.
        given = self.manifests.head.get("headService")
        return given is None or given.get("spec", {}).get("clusterIP") == "None"

    def _head_names(self) -> tuple[str, ...]:
        service = self.manifests.rayservice["metadata"]
        name = f"{cluster_name(self.manifests.rayservice)}-head-svc"
        return (name, f"{name}.{service['namespace']}.svc.cluster.local")

    def _dashboard(self, method: str, **more: Any) -> httpx.Response:
        token = self.kubelet.stored.secret(cluster_name(self.manifests.rayservice), "auth_token")
        url = f"http://{self.head.address}:8265{_REST}"
        answer = httpx.request(
            method, url, headers={"authorization": f"Bearer {token}"}, timeout=30, **more
        )
        answer.raise_for_status()
        return answer


@contextmanager
def operated(manifests: Manifests, kubelet: Kubelet) -> Iterator[Operator]:
    """The RayService runs while the block does, with its Redis where the overlay has one."""
    operator = Operator(manifests, kubelet)
    others = {pod["metadata"]["name"]: pod for pod in _stateful_pods(manifests)}
    running = {name: kubelet.create(pod, _services(manifests, pod)) for name, pod in others.items()}
    with ended(running, kubelet), ended(operator.pods, kubelet):
        for pod in running.values():
            wait_for(lambda pod=pod: pod.ready, f"{pod.name} is ready", 60)
        operator.reconcile()
        thread = threading.Thread(target=operator.run, name="operator", daemon=True)
        thread.start()
        try:
            yield operator
        finally:
            operator.stop()
            thread.join()


def wait_for(condition: Callable[[], Any], what: str, limit_s: float) -> float:
    """Seconds until it held, and no HTTP fault kept it from being seen; raises AssertionError."""
    return wait_until(lambda: _holds(condition), what, limit_s)


def serve_config(manifests: Manifests) -> Object:
    """serveConfigV2, to be changed."""
    return yaml.safe_load(manifests.rayservice["spec"]["serveConfigV2"])


def _holds(condition: Callable[[], Any]) -> bool:
    try:
        return bool(condition())
    except httpx.HTTPError:
        return False


def _stateful_pods(manifests: Manifests) -> Iterator[Object]:
    for each in manifests.all("StatefulSet"):
        template = deepcopy(each["spec"]["template"])
        name = f"{each['metadata']['name']}-0"
        for claim in each["spec"].get("volumeClaimTemplates", []):
            wanted = {"claimName": f"{claim['metadata']['name']}-{name}"}
            volume = {"name": claim["metadata"]["name"], "persistentVolumeClaim": wanted}
            template["spec"].setdefault("volumes", []).append(volume)
        metadata = template.get("metadata", {}) | {"name": name}
        yield {"kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def _services(manifests: Manifests, pod: Object) -> tuple[str, ...]:
    """The names of Services that choose this Pod; ports are the Pod's own."""
    labels = pod["metadata"].get("labels", {})
    return tuple(
        service["metadata"]["name"]
        for service in manifests.all("Service")
        if service["spec"].get("selector", {}).items() <= labels.items()
    )
