"""Runs one Pod as a kubelet does: init containers in order, containers, probes."""

import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.k8s.manifests import Object
from tests.k8s.pods.container import Container
from tests.k8s.pods.network import Network
from tests.k8s.pods.root import Root
from tests.k8s.pods.volumes import Stored, environment_of, mounts_of

INIT_LIMIT_S = 180.0


@dataclass(slots=True)
class Counted:
    """How often a probe was made, and failed."""

    made: int = 0
    failed: int = 0


@dataclass(slots=True)
class Pod:
    """`ready` and `failed` are what a Service and an operator look at."""

    name: str
    spec: Object
    address: str
    inits: list[Container]
    containers: list[Container]
    ready: bool = False
    failed: str = ""
    leaving: bool = False
    probes: dict[str, Counted] = field(default_factory=dict)
    since_s: float = field(default_factory=time.monotonic)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    @property
    def main(self) -> Container:
        return self.containers[0]

    def last_words(self) -> str:
        """The last line that any of its containers wrote."""
        logs = [each.log for each in (*self.inits, *self.containers) if each.log.exists()]
        lines = [line for log in logs for line in log.read_text(errors="replace").splitlines()]
        return lines[-1] if lines else ""

    def start(self) -> None:
        """Returns at once."""
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._thread.start()

    def kill(self) -> None:
        """At once, as a node's end or `kubectl delete --force` does."""
        self._stopping.set()
        self.ready = False
        for each in (*self.inits, *self.containers):
            each.kill()
        # Only now: who looks at it takes the network away next, and the dead say goodbye first.
        self.failed = self.failed or "deleted"

    def leave(self) -> None:
        """As `kubectl delete` does: it ends by itself within its grace, or is killed. Returns at
        once; `failed` says later how it ended."""
        self.leaving = True
        self._stopping.set()
        self.ready = False
        grace_s = self.spec["spec"].get("terminationGracePeriodSeconds", 30)
        threading.Thread(target=self._terminate, args=(grace_s,), daemon=True).start()

    def _terminate(self, grace_s: float) -> None:
        in_time = all([each.terminate(grace_s) for each in self.containers])
        self.failed = self.failed or ("ended by itself" if in_time else "killed after its grace")

    def _run(self) -> None:
        for each in self.inits:
            each.start()
            if (code := each.wait(INIT_LIMIT_S)) != 0:
                self._fail(f"{each.name} ended with {code}")
                return
        if self._stopping.is_set():
            return
        for each in self.containers:
            each.start()
        liveness, readiness = (self._probe(kind) for kind in ("liveness", "readiness"))
        while not self._stopping.wait(0.2):
            for each in self.containers:
                if (code := each.exit_code()) is not None:
                    self._fail(f"{each.name} ended with {code}")
                    return
            if next(liveness) is False:
                self._fail("the liveness probe failed")
                self.main.kill()
                return
            state = next(readiness)
            if not self._stopping.is_set():
                self.ready = bool(state)

    def _fail(self, reason: str) -> None:
        self.ready = False
        self.failed = self.failed or reason

    def _probe(self, kind: str) -> Iterator[bool | None]:
        """The probe's verdict, whenever asked: None before the first one counts."""
        spec = self.main.spec.get(f"{kind}Probe")
        if spec is None:
            while True:
                yield True
        count = self.probes.setdefault(kind, Counted())
        due_s = time.monotonic() + spec.get("initialDelaySeconds", 0)
        verdict, failures = None, 0
        while True:
            if time.monotonic() >= due_s:
                due_s = time.monotonic() + spec.get("periodSeconds", 10)
                passed = self._passes(spec)
                count.made += 1
                count.failed += not passed
                failures = 0 if passed else failures + 1
                if passed:
                    verdict = True
                elif failures >= spec.get("failureThreshold", 3):
                    verdict = False
            yield verdict

    def _passes(self, spec: Mapping[str, Any]) -> bool:
        timeout_s = spec.get("timeoutSeconds", 1)
        if "exec" in spec:
            return self.main.execute(spec["exec"]["command"], timeout_s)
        get = spec["httpGet"]
        return answers(f"http://{self.address}:{get['port']}{get['path']}", timeout_s)


@dataclass(frozen=True, slots=True)
class Kubelet:
    """Makes Pods of what they are said to be. `root_of` finds the root of an image's name."""

    network: Network
    stored: Stored
    root_of: Callable[[str], Root]
    logs: Path

    def create(self, spec: Object, names: tuple[str, ...] = (), *, headless: bool = False) -> Pod:
        """A started Pod, which Services of these `names` lead to: each with an address of its own
        that stays, or, if headless, as another name of the Pod."""
        name = spec["metadata"]["name"]
        namespace, address = self.network.add_pod(name)
        for each in names:
            if headless:
                self.network.name(each, address)
            else:
                self.network.serve(each, name)
        person = spec["spec"].get("securityContext", {})

        def made(container: Object) -> Container:
            root = self.root_of(container["image"])
            return Container(
                name=container["name"],
                spec=container,
                security={**person, **container.get("securityContext", {})},
                root=root,
                env={**root.env, "HOSTNAME": name, **environment_of(container, self.stored)},
                mounts=list(mounts_of(spec, container, self.stored)),
                namespace=namespace,
                host_name=name,
                hosts=self.network.hosts,
                log=self.logs / f"{name}-{container['name']}.log",
            )

        inits = [made(each) for each in spec["spec"].get("initContainers", [])]
        pod = Pod(name, spec, address, inits, [made(each) for each in spec["spec"]["containers"]])
        pod.start()
        return pod

    def remove(self, pod: Pod) -> None:
        """What is left of a Pod that has ended."""
        pod.kill()
        self.network.remove_pod(pod.name)


def answers(url: str, timeout_s: float) -> bool:
    """Whether it answers with 200 in time."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as answer:
            return answer.status == 200
    except OSError:
        return False


@contextmanager
def ended(pods: dict[str, Pod], kubelet: Kubelet) -> Iterator[None]:
    """All Pods are gone after the block."""
    try:
        yield
    finally:
        for pod in pods.values():
            kubelet.remove(pod)
        pods.clear()
