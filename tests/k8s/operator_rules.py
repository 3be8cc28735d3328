"""What KubeRay v1.7.0 refuses though the API server takes it, after its utils/validation.go.

Feature gates are at their defaults. A refused RayService stays as it was, and only its events and
the operator's log say so.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

Object = Mapping[str, Any]

# MaxRayServiceNameLength: a Pod's name must still fit after what the operator adds.
LONGEST_NAME = 47
_DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_LABEL_KEY = re.compile(r"([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_UPGRADES = (None, "None", "NewCluster", "NewClusterWithIncrementalUpgrade")
_GATED = ("networkPolicy", "tlsOptions", "historyServerOptions")
_RESOURCE_PARAMS = ("num-cpus", "num-gpus", "memory", "resources")


def refusals(rayservice: Object) -> Iterator[str]:
    """Why the operator refuses it; nothing if it does not."""
    spec = rayservice["spec"]
    cluster = spec["rayClusterConfig"]
    yield from _metadata(rayservice["metadata"])
    yield from _upgrade(spec, cluster)
    for group in (cluster["headGroupSpec"], *(cluster.get("workerGroupSpecs") or [])):
        yield from _group(group, cluster)
    yield from _autoscaling(cluster)
    yield from _storage(rayservice["metadata"].get("annotations", {}), cluster)
    yield from _gates(cluster)
    if cluster["headGroupSpec"].get("headService", {}).get("metadata", {}).get("name"):
        yield "headService must not be named"
    if spec.get("rayClusterDeletionDelaySeconds", 0) < 0:
        yield "rayClusterDeletionDelaySeconds is negative"


def _metadata(metadata: Object) -> Iterator[str]:
    name = metadata["name"]
    if len(name) > LONGEST_NAME or not _DNS_1035.fullmatch(name):
        yield f"name {name!r}: at most {LONGEST_NAME} characters, a DNS-1035 label"
    timeout = metadata.get("annotations", {}).get("ray.io/initializing-timeout", "1m")
    if not re.fullmatch(r"([1-9]\d*(h|m|s)?)+", str(timeout)):
        yield f"ray.io/initializing-timeout {timeout!r} is no positive duration"


def _upgrade(spec: Object, cluster: Object) -> Iterator[str]:
    strategy = spec.get("upgradeStrategy") or {}
    if strategy.get("type") not in _UPGRADES:
        yield f"upgradeStrategy {strategy.get('type')!r} is unknown"
    if strategy.get("type") != "NewClusterWithIncrementalUpgrade":
        return
    options = strategy.get("clusterUpgradeOptions") or {}
    needed = ("stepSizePercent", "intervalSeconds", "gatewayClassName")
    if not cluster.get("enableInTreeAutoscaling") or any(not options.get(key) for key in needed):
        yield "an incremental upgrade needs in-tree autoscaling and all of clusterUpgradeOptions"


def _group(group: Object, cluster: Object) -> Iterator[str]:
    name = group.get("groupName", "head")
    params = group.get("rayStartParams", {})
    if not group["template"]["spec"].get("containers"):
        yield f"{name} has no container"
        return
    if group.get("resources") and any(key in params for key in _RESOURCE_PARAMS):
        yield f"{name}: resources both in rayStartParams and in resources"
    if "labels" in params:
        yield f"{name}: labels belong into the group's labels, not into rayStartParams"
    for key, value in group.get("labels", {}).items():
        if not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(str(value)):
            yield f"{name}: label {key}={value} breaks the syntax of labels"
    least, most = group.get("minReplicas", 0), group.get("maxReplicas", 2**31 - 1)
    if not 0 <= least <= most:
        yield f"{name}: minReplicas {least}, maxReplicas {most}"
    v2 = (cluster.get("autoscalerOptions") or {}).get("version") == "v2"
    if "idleTimeoutSeconds" in group and not v2:
        yield f"{name}: idleTimeoutSeconds needs autoscaler v2"
    if group.get("priority") and (not v2 or _ray_version(cluster) < (2, 56)):
        yield f"{name}: priority needs autoscaler v2 and rayVersion 2.56 or later"
    if group.get("suspend"):
        yield f"{name}: suspend is for RayJobs"


def _autoscaling(cluster: Object) -> Iterator[str]:
    options = cluster.get("autoscalerOptions") or {}
    groups = (cluster["headGroupSpec"], *(cluster.get("workerGroupSpecs") or []))
    names = _variables(cluster["headGroupSpec"])
    if not cluster.get("enableInTreeAutoscaling"):
        if names.get("RAY_enable_autoscaler_v2") in ("1", "true"):
            yield "RAY_enable_autoscaler_v2 without enableInTreeAutoscaling"
        return
    if options.get("version") and "RAY_enable_autoscaler_v2" in names:
        yield "RAY_enable_autoscaler_v2 beside autoscalerOptions.version"
    for group in groups if options.get("version") == "v2" else ():
        if group["template"]["spec"].get("restartPolicy", "Never") != "Never":
            yield f"{group.get('groupName', 'head')}: restartPolicy must be Never or unset"
    if options.get("idleTimeoutSeconds", 0) < 0:
        yield "idleTimeoutSeconds is negative"


def _storage(annotations: Object, cluster: Object) -> Iterator[str]:
    options = cluster.get("gcsFaultToleranceOptions")
    names = _variables(cluster["headGroupSpec"])
    params = cluster["headGroupSpec"].get("rayStartParams", {})
    if "RAY_REDIS_ADDRESS" in names:
        yield "RAY_REDIS_ADDRESS: use gcsFaultToleranceOptions"
    if "REDIS_USERNAME" in names or "redis-username" in params:
        yield "a Redis user name belongs into gcsFaultToleranceOptions"
    if options is None:
        return
    if annotations.get("ray.io/ft-enabled") or "ray.io/external-storage-namespace" in annotations:
        yield "annotations of fault tolerance beside gcsFaultToleranceOptions"
    if "REDIS_PASSWORD" in names or "redis-password" in params:
        yield "a Redis password belongs into gcsFaultToleranceOptions"
    if options.get("backend") == "rocksdb":
        yield "gcsFaultToleranceOptions.backend rocksdb needs a feature gate"
    elif "storage" in options:
        yield "gcsFaultToleranceOptions.storage is for rocksdb"


def _gates(cluster: Object) -> Iterator[str]:
    for key in _GATED:
        if key in cluster:
            yield f"{key} needs a feature gate that is off by default"
    auth = cluster.get("authOptions") or {}
    if auth.get("mode") == "token" and _ray_version(cluster) < (2, 52):
        yield f"authOptions needs rayVersion 2.52 or later, here is {cluster.get('rayVersion')!r}"
    if auth.get("enableK8sTokenAuth"):
        yield "Kubernetes token authentication is not for RayServices"


def _ray_version(cluster: Object) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", cluster.get("rayVersion", ""))[:2])


def _variables(group: Object) -> dict[str, str]:
    containers = group["template"]["spec"].get("containers") or [{}]
    return {each["name"]: each.get("value", "") for each in containers[0].get("env", [])}
