"""Rules for beginnings and ends: drains, evictions, restarts of the head, live changes."""

import re
from collections.abc import Iterator
from typing import Any

from serve_app.local.profiles import read_env_file
from tests.k8s.manifests import (
    REPO,
    Manifests,
    duration_s,
    environment,
    group_name,
    pod_spec,
    ray_container,
)

DRAIN = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
RECOVERY = "RAY_SERVE_SLOW_STARTUP_WARNING_S"
# With 300 no replica was stopped while it recovered; with the default of 30 s they were.
RECOVERY_S = 300
# A new node, its image, the weights from the cache.
REPLACEMENT_S = 900
# Of the components for keys.
KEYS_VARIABLES = ("TIERSERVE_ACCESS__DATABASE", "TIERSERVE_ACCESS__SERVICE", "TIERSERVE_KEYS")
# Download of 4 GB and load, on a slow line.
LEAST_INITIALIZING_S = 1800


def longest_stream_s(m: Manifests) -> float:
    """The ceiling that the Serve config gives to every stream."""
    return max(float(d["graceful_shutdown_timeout_s"]) for _, d in m.deployments())


def stopping_workers_let_streams_end(m: Manifests) -> Iterator[str]:
    """Longest stream, and the start of a replacement before it (trap 25) <= Ray's drain < the Pod's
    grace; HAProxy and an upgrade wait for the stream."""
    stream_s = longest_stream_s(m)
    for group in m.workers:
        drain_s = float(environment(ray_container(group)).get(DRAIN, 30))
        grace_s = pod_spec(group).get("terminationGracePeriodSeconds", 30)
        if not stream_s + REPLACEMENT_S <= drain_s < grace_s:
            yield f"{group_name(group)}: stream {stream_s:g} s, drain {drain_s:g}, grace {grace_s}"
    hard_stop_s = float(_runtime(m).get("RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S", 120))
    if hard_stop_s < stream_s:
        yield f"a reload of HAProxy cuts streams after {hard_stop_s:g} s"
    spec = m.rayservice["spec"]
    delay_s = spec.get("rayClusterDeletionDelaySeconds", 60)
    if spec.get("upgradeStrategy", {}).get("type") == "NewCluster" and delay_s < stream_s:
        yield f"an upgrade deletes the old cluster after {delay_s} s"


def head_ends_at_once(m: Manifests) -> Iterator[str]:
    """Serve's controller never leaves the head, so that its drain would last to the limit."""
    if environment(ray_container(m.head)).get(DRAIN) != "0":
        yield f"the head drains ({DRAIN})"


def start_has_time_to_load(m: Manifests) -> Iterator[str]:
    """Past ray.io/initializing-timeout the operator gives the RayService up for good."""
    annotations = m.rayservice["metadata"].get("annotations", {})
    timeout = annotations.get("ray.io/initializing-timeout")
    if timeout is not None and duration_s(timeout) < LEAST_INITIALIZING_S:
        yield f"ray.io/initializing-timeout {timeout} is shorter than a download may take"


def budgets_can_be_kept(m: Manifests) -> Iterator[str]:
    """Integer minAvailable, below the number of Pods: Ray's have no scale subresource, so that
    maxUnavailable and percentages never allow an eviction (trap 1)."""
    for budget in m.all("PodDisruptionBudget"):
        name, spec = budget["metadata"]["name"], budget["spec"]
        labels = spec["selector"]["matchLabels"]
        groups = [g for g in m.groups if labels.items() <= _labels(g).items()]
        if name.endswith(("-head", "-worker")) and not groups:
            yield f"{name} selects no Pod"
        if groups and not isinstance(spec.get("minAvailable"), int):
            yield f"{name}: minAvailable as an integer is the only form that works"
        least = sum(g.get("minReplicas", 1) for g in groups)
        if groups and m.head not in groups and spec.get("minAvailable", 0) not in range(least):
            yield f"{name}: no node with a worker could ever be drained"


def head_is_recoverable_or_protected(m: Manifests) -> Iterator[str]:
    """The head's end restarts every replica unless the GCS keeps its state (trap 4)."""
    protected = m.named("PodDisruptionBudget", "tierserve-head") is not None
    storage = m.cluster.get("gcsFaultToleranceOptions")
    if storage is None:
        if m.gpu_workers and not protected:
            yield "neither fault tolerance nor a disruption budget for the head"
        return
    if protected:
        yield "a head that can be replaced keeps its node from being drained"
    if float(environment(ray_container(m.head)).get(RECOVERY, 30)) < RECOVERY_S:
        yield f"replicas that recover are stopped after 30 s ({RECOVERY} on the head)"
    if "valueFrom" not in storage.get("redisPassword", {}):
        yield "the password of Redis comes from no Secret"
    if "externalStorageNamespace" in storage:
        yield "the clusters of an upgrade would share one storage namespace"
    service = re.sub(r"^redis://|:\d+$", "", storage["redisAddress"])
    if m.named("Service", service) is None:
        yield f"there is no Service {service}"


def workers_find_a_new_head(m: Manifests) -> Iterator[str]:
    """Its Service has an address that stays (trap 24). The operator's own is headless (KubeRay's
    BuildServiceForHeadPod); then gRPC looks the name up again after 30 s at the earliest, and Serve
    takes all replicas out of HAProxy after 10 s of recovery."""
    if m.cluster.get("gcsFaultToleranceOptions") is None:
        return
    service = m.head.get("headService", {}).get("spec")
    if service is None or service.get("clusterIP") == "None":
        yield "the head's name leads to another address after its return"
    elif not service.get("publishNotReadyAddresses"):
        yield "the head that waits for its own readiness has no address"


def runtime_settings_are_those_of_runtime_env(m: Manifests) -> Iterator[str]:
    """Every Ray process on every node reads deploy/runtime.env; only the token mode and where the
    keys are is its own."""
    expected = read_env_file((REPO / "deploy" / "runtime.env").read_text())
    found = _runtime(m)
    for name in sorted((expected.keys() | found.keys()) - {"RAY_AUTH_MODE", *KEYS_VARIABLES}):
        if found.get(name) != expected.get(name):
            yield f"{name}: {found.get(name)!r} here, {expected.get(name)!r} in runtime.env"
    for group in m.groups:
        sources = ray_container(group).get("envFrom", [])
        if {"configMapRef": {"name": "tierserve-runtime"}} not in sources:
            yield f"{group_name(group)}: without the ConfigMap tierserve-runtime"


def settings_are_alike_on_all_nodes(m: Manifests) -> Iterator[str]:
    """The application is built on whatever node Ray chooses, and reads TIERSERVE_ there."""
    ours = [
        {k: v for k, v in environment(ray_container(g)).items() if k.startswith("TIERSERVE_")}
        for g in m.groups
    ]
    if any(each != ours[0] for each in ours):
        yield f"TIERSERVE_ variables differ: {ours}"


def live_changes_make_no_new_cluster(m: Manifests) -> Iterator[str]:
    """A ConfigMap's name in the Pod template must not change with its content, and a mounted one is
    a folder: a file mounted by subPath is never updated (trap 9)."""
    for group in m.groups:
        text = str(group["template"])
        for config in m.all("ConfigMap"):
            name = config["metadata"]["name"]
            if name in text and re.search(r"-[a-z0-9]{10}$", name):
                yield f"{group_name(group)}: ConfigMap {name} has a hash in its name"
        for volume in pod_spec(group).get("volumes", []):
            mounts = ray_container(group).get("volumeMounts", [])
            mounted = [x for x in mounts if x["name"] == volume["name"] and "subPath" in x]
            if "configMap" in volume and mounted:
                yield f"{group_name(group)}: {volume['name']} is mounted by subPath"


def _labels(group: dict[str, Any]) -> dict[str, str]:
    return group["template"]["metadata"]["labels"]


def _runtime(m: Manifests) -> dict[str, str]:
    config = m.named("ConfigMap", "tierserve-runtime")
    return config["data"] if config else {}
