"""The Pods that KubeRay v1.7.0 makes of a RayService, after its controllers/ray/common/pod.go.

For what cannot see into a RayService: Pod schemas, Pod Security, checkov. One Pod for the head and
one for each group. Feature gates are at their defaults.
"""

import copy
import math
from collections.abc import Mapping
from typing import Any

from tests.k8s.manifests import quantity

Object = dict[str, Any]

# The operator adds five characters to the RayService's name.
CLUSTER_SUFFIX = "-abcde"
_GCS_PORT = "6379"
_HEALTH = {"httpGet": {"path": "/api/healthz", "port": 52365}, "failureThreshold": 10}
_WAIT_FOR_GCS = """
SECONDS=0
while true; do
  if ray health-check --address {address} > /dev/null 2>&1; then break; fi
  echo "$SECONDS seconds elapsed: Waiting for GCS to be ready."
  sleep 5
done
"""


def pods_of(rayservice: Mapping[str, Any]) -> list[Object]:
    """The head's Pod, then one of each worker group."""
    spec = rayservice["spec"]["rayClusterConfig"]
    return [_head(rayservice, spec), *(_worker(rayservice, spec, g) for g in _groups(spec))]


def cluster_name(rayservice: Mapping[str, Any]) -> str:
    """A name as the operator gives to the RayCluster."""
    return rayservice["metadata"]["name"] + CLUSTER_SUFFIX


def _groups(spec: Mapping[str, Any]) -> list[Object]:
    return spec.get("workerGroupSpecs") or []


def _head(rayservice: Mapping[str, Any], spec: Mapping[str, Any]) -> Object:
    group = spec["headGroupSpec"]
    pod = _pod(rayservice, group, "head", "headgroup")
    ray = pod["spec"]["containers"][0]
    if spec.get("enableInTreeAutoscaling"):
        pod["spec"]["containers"].append(_autoscaler(rayservice, spec, ray["image"]))
        pod["spec"]["restartPolicy"] = "Never"
        for container in (ray, pod["spec"]["containers"][-1]):
            _add_empty_dir(pod, container, "ray-logs", "/tmp/ray", {})
        ray["env"].append({"name": "RAY_enable_autoscaler_v2", "value": "true"})
    storage = spec.get("gcsFaultToleranceOptions")
    if storage:
        ray["env"].append({"name": "RAY_external_storage_namespace", "value": "uid"})
        ray["env"].append({"name": "RAY_REDIS_ADDRESS", "value": storage["redisAddress"]})
        ray["env"].append({"name": "REDIS_PASSWORD", **storage["redisPassword"]})
    _authenticate(rayservice, spec, pod["spec"]["containers"])
    params = {"no-monitor": "true"} if spec.get("enableInTreeAutoscaling") else {}
    params |= {"dashboard-host": "0.0.0.0"}
    if storage:
        params |= {"redis-password": "$REDIS_PASSWORD"}
    _finish(rayservice, group, ray, "ray start --head", params, "127.0.0.1")
    _probe(ray, timeout_s=5, readiness=_HEALTH)
    return pod


def _worker(
    rayservice: Mapping[str, Any], spec: Mapping[str, Any], group: Mapping[str, Any]
) -> Object:
    pod = _pod(rayservice, group, "worker", group["groupName"])
    ray = pod["spec"]["containers"][0]
    address = f"{cluster_name(rayservice)}-head-svc.{rayservice['metadata']['namespace']}.svc"
    address += ".cluster.local"
    pod["spec"].setdefault("initContainers", []).append(_wait_for_gcs(ray, address))
    if spec.get("gcsFaultToleranceOptions"):
        ray["env"].append({"name": "RAY_gcs_rpc_server_reconnect_timeout_s", "value": "600"})
    if spec.get("enableInTreeAutoscaling"):
        pod["spec"]["restartPolicy"] = "Never"
    _authenticate(rayservice, spec, [*pod["spec"]["containers"], *pod["spec"]["initContainers"]])
    ray["env"].append({"name": "FQ_RAY_IP", "value": address})
    params = {"address": f"{address}:{_GCS_PORT}"}
    _finish(rayservice, group, ray, "ray start", params, address)
    command = " && ".join(
        f"wget --tries 1 -T {timeout} -q -O- http://localhost:{port}/{path} | grep success"
        for timeout, port, path in ((2, 52365, "api/local_raylet_healthz"), (10, 8000, "-/healthz"))
    )
    check = {"exec": {"command": ["bash", "-c", command]}, "failureThreshold": 1}
    _probe(ray, timeout_s=2, readiness=check)
    return pod


def _pod(
    rayservice: Mapping[str, Any], group: Mapping[str, Any], node_type: str, name: str
) -> Object:
    template = copy.deepcopy(group["template"])
    cluster = cluster_name(rayservice)
    labels = {
        "ray.io/is-ray-node": "yes",
        "ray.io/cluster": cluster,
        "ray.io/node-type": node_type,
        "ray.io/group": name,
        "ray.io/identifier": f"{cluster}-{node_type}",
        "app.kubernetes.io/name": "kuberay",
        "app.kubernetes.io/created-by": "kuberay-operator",
        **template.get("metadata", {}).get("labels", {}),
        **group.get("labels", {}),
        "ray.io/serve": "true" if node_type == "worker" else "false",
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            **template.get("metadata", {}),
            "name": f"{cluster}-{name}",
            "namespace": rayservice["metadata"]["namespace"],
            "labels": labels,
        },
        "spec": template["spec"],
    }
    ray = pod["spec"]["containers"][0]
    ray.setdefault("env", [])
    memory = ray.get("resources", {}).get("limits", {}).get("memory")
    _add_empty_dir(pod, ray, "shared-mem", "/dev/shm", {"medium": "Memory", "sizeLimit": memory})
    return pod


def _wait_for_gcs(ray: Mapping[str, Any], address: str) -> Object:
    """Gets `env` and the mounts of the Ray container, but not its `envFrom`."""
    resources = {"cpu": "200m", "memory": "256Mi"}
    waiter = {
        "name": "wait-gcs-ready",
        "image": ray["image"],
        "command": ["/bin/bash", "-c", "--"],
        "args": [_WAIT_FOR_GCS.format(address=f"{address}:{_GCS_PORT}")],
        "env": [*copy.deepcopy(ray["env"]), {"name": "FQ_RAY_IP", "value": address}],
        "volumeMounts": copy.deepcopy(ray.get("volumeMounts", [])),
        "resources": {"limits": resources, "requests": dict(resources)},
    }
    optional = ("imagePullPolicy", "securityContext")
    return waiter | {key: copy.deepcopy(ray[key]) for key in optional if key in ray}


def _autoscaler(rayservice: Mapping[str, Any], spec: Mapping[str, Any], image: str) -> Object:
    options = spec.get("autoscalerOptions", {})
    resources = {"cpu": "500m", "memory": "512Mi"}
    command = "ray kuberay-autoscaler --cluster-name $(RAY_CLUSTER_NAME) "
    command += "--cluster-namespace $(RAY_CLUSTER_NAMESPACE)"
    sidecar = {
        "name": "autoscaler",
        "image": options.get("image", image),
        "imagePullPolicy": options.get("imagePullPolicy", "IfNotPresent"),
        "command": ["/bin/bash", "-c", "--"],
        "args": [command],
        "env": [
            {"name": "RAY_CLUSTER_NAME", "value": cluster_name(rayservice)},
            {"name": "RAY_CLUSTER_NAMESPACE", "value": rayservice["metadata"]["namespace"]},
            {"name": "KUBERAY_CRD_VER", "value": "v1"},
        ],
        "resources": options.get("resources", {"limits": resources, "requests": dict(resources)}),
    }
    # The operator's own variables stand before those of the options.
    _authenticate(rayservice, spec, [sidecar])
    sidecar["env"] += copy.deepcopy(options.get("env", []))
    optional = ("envFrom", "volumeMounts", "securityContext")
    return sidecar | {key: copy.deepcopy(options[key]) for key in optional if key in options}


def _authenticate(
    rayservice: Mapping[str, Any], spec: Mapping[str, Any], containers: list[Object]
) -> None:
    options = spec.get("authOptions") or {}
    if options.get("mode") != "token":
        return
    secret = options.get("secretName", cluster_name(rayservice))
    token = {"secretKeyRef": {"name": secret, "key": "auth_token"}}
    for container in containers:
        names = [each["name"] for each in container["env"]]
        if "RAY_AUTH_MODE" not in names:
            container["env"].append({"name": "RAY_AUTH_MODE", "value": "token"})
        if "RAY_AUTH_TOKEN" not in names:
            container["env"].append({"name": "RAY_AUTH_TOKEN", "valueFrom": token})


def _finish(
    rayservice: Mapping[str, Any],
    group: Mapping[str, Any],
    ray: Object,
    command: str,
    params: dict[str, str],
    address: str,
) -> None:
    """The command of the Ray container, its ports and variables."""
    resources = ray.get("resources", {})
    limits, requests = resources.get("limits", {}), resources.get("requests", {})
    params |= {"metrics-export-port": "8080", "dashboard-agent-listen-port": "52365"}
    params |= {"num-cpus": _whole(limits.get("cpu", requests.get("cpu")))}
    params |= {"memory": _whole(limits.get("memory"))}
    params |= {"num-gpus": str(limits.get("nvidia.com/gpu", ""))}
    params |= {"labels": ",".join(f"{k}={v}" for k, v in sorted(group.get("labels", {}).items()))}
    params |= group.get("rayStartParams", {}) | {"block": "true"}
    flags = [_flag(name, value) for name, value in sorted(params.items()) if value]
    ray["command"] = ["/bin/bash", "-c", "--"]
    ray["args"] = [
        f"ulimit -n ${{RAY_START_ULIMIT_OPEN_FILES:-65536}}; {command} {' '.join(flags)}"
    ]
    ray["env"] += [
        {"name": "RAY_CLUSTER_NAME", "value": cluster_name(rayservice)},
        {"name": "RAY_ADDRESS", "value": f"{address}:{_GCS_PORT}"},
        {"name": "RAY_SERVE_KV_TIMEOUT_S", "value": "5"},
        {"name": "RAY_USAGE_STATS_KUBERAY_IN_USE", "value": "1"},
    ]


def _whole(amount: str | int | None) -> str:
    """Rounded up, as Quantity.Value() does."""
    return "" if amount is None else str(math.ceil(quantity(amount)))


def _flag(name: str, value: str) -> str:
    return f"--{name}" if value == "true" else f"--{name}={value}"


def _probe(ray: Object, *, timeout_s: int, readiness: Object) -> None:
    times = {"timeoutSeconds": timeout_s, "periodSeconds": 5}
    liveness = {**_HEALTH, **times, "initialDelaySeconds": 30, "failureThreshold": 120}
    ray.setdefault("livenessProbe", liveness)
    ray.setdefault("readinessProbe", {**times, "initialDelaySeconds": 10, **readiness})


def _add_empty_dir(pod: Object, container: Object, name: str, path: str, source: Object) -> None:
    mounts = container.setdefault("volumeMounts", [])
    if any(mount["mountPath"] == path for mount in mounts):
        return
    volumes = pod["spec"].setdefault("volumes", [])
    if not any(volume["name"] == name for volume in volumes):
        volumes.append({"name": name, "emptyDir": {k: v for k, v in source.items() if v}})
    mounts.append({"name": name, "mountPath": path})
