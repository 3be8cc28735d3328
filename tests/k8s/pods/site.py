"""A T4 overlay on this machine: what is changed so that it runs here, and how it is started."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from loadtest.servers.random_model import make_random_qwen2
from serve_app.core.tiers import Tier
from tests.k8s.manifests import Manifests
from tests.k8s.operator_pods import cluster_name
from tests.k8s.pods.kubelet import Kubelet
from tests.k8s.pods.network import network
from tests.k8s.pods.operator import Operator, operated, serve_config
from tests.k8s.pods.root import Root, of_image, of_this_machine
from tests.k8s.pods.volumes import Stored
from tests.k8s.rules.lifetime import KEYS_VARIABLES

# Set to anything: the folder with all logs and volumes stays, in the folder for temporary files.
KEEP_VARIABLE = "POD_KEEP"
# Streams must outlive the head's absence.
LONG_STREAM_TOKENS = 3500
_WEIGHTS = "huggingface/random-qwen2"


def adapted(manifests: Manifests) -> Manifests:
    """A copy for a machine with no GPU and no hub: models that are at hand, in float32 on the CPU,
    each on a core of its own; no PostgreSQL, so no keys. The GPUs stay, as numbers that only Ray
    believes in."""
    changed = manifests.copy()
    runtime = changed.named("ConfigMap", "tierserve-runtime")
    assert runtime is not None
    for name in KEYS_VARIABLES:
        runtime["data"].pop(name, None)
    config = serve_config(changed)
    for application in config["applications"]:
        name = application["name"]
        if name not in list(Tier):
            continue
        first = name == Tier.CHAT
        application["args"]["model"] = "micro-r1" if first else f"/cache/{_WEIGHTS}"
        application["args"]["engine"] = {"cpu_slice": "0/2" if first else "1/2"}
        if not first:
            settings = application["deployments"][0]["user_config"]
            settings["max_new_tokens"] = LONG_STREAM_TOKENS
    changed.rayservice["spec"]["serveConfigV2"] = yaml.safe_dump(config)
    return changed


@contextmanager
def running(manifests: Manifests, image: Path | None) -> Iterator[Operator]:
    """The overlay's Pods, on a bridge of their own; a Serve config is not handed in yet."""
    folder = Path(tempfile.mkdtemp(prefix="tierserve-pods-"))
    folder.chmod(0o755)
    try:
        with network(folder) as net:
            here = of_this_machine()
            there = of_image(image) if image else here

            def root_of(name: str) -> Root:
                return there if name.startswith("tierserve") else here

            (folder / "logs").mkdir()
            stored = _stored(manifests, folder)
            _put_weights(manifests, stored)
            with operated(manifests, Kubelet(net, stored, root_of, folder / "logs")) as operator:
                yield operator
    finally:
        if KEEP_VARIABLE not in os.environ:
            shutil.rmtree(folder, ignore_errors=True)


def _stored(manifests: Manifests, folder: Path) -> Stored:
    maps = {each["metadata"]["name"]: each.get("data", {}) for each in manifests.all("ConfigMap")}
    # As docs/kubernetes.md makes them; the cluster's token is the operator's.
    secrets = {
        "tierserve-redis": {"password": "0123456789abcdef" * 4},
        cluster_name(manifests.rayservice): {"auth_token": "fedcba9876543210" * 4},
    }
    return Stored(folder, maps, secrets)


def _put_weights(manifests: Manifests, stored: Stored) -> None:
    (claim,) = manifests.all("PersistentVolumeClaim")
    into = stored.folder / "claims" / claim["metadata"]["name"] / _WEIGHTS
    shutil.copytree(make_random_qwen2(), into)
    for file in into.iterdir():
        file.chmod(0o644)
