"""Rules for who may do what: Pod security, accounts, tokens, secrets."""

from collections.abc import Iterator, Mapping
from typing import Any

from tests.k8s.manifests import (
    Manifests,
    environment,
    group_name,
    pod_spec,
    quantity,
    ray_container,
)
from tests.k8s.operator_pods import pods_of

_WORKLOADS = ("Deployment", "StatefulSet")
# Volume types that the restricted standard allows.
_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim"}
_VOLUMES |= {"projected", "secret"}
_SECRET_NAMES = ("PASSWORD", "TOKEN", "API_KEY", "SECRET")


def pods_meet_the_restricted_standard(m: Manifests) -> Iterator[str]:
    """The namespace enforces it, on the operator's containers too: the autoscaler's sidecar and the
    init container get what the manifests give them."""
    namespace = m.all("Namespace")[0]["metadata"]["labels"]
    if namespace.get("pod-security.kubernetes.io/enforce") != "restricted":
        yield "the namespace does not enforce the restricted standard"
    for name, spec in _pod_specs(m):
        yield from (f"{name}: {fault}" for fault in _unrestricted(spec))


def file_systems_are_read_only_with_room_to_write(m: Manifests) -> Iterator[str]:
    """Read-only roots, and volumes where Ray, vLLM and nginx do write."""
    for name, spec in _pod_specs(m):
        for container in (*spec.get("initContainers", []), *spec["containers"]):
            who = f"{name}/{container['name']}"
            if not container.get("securityContext", {}).get("readOnlyRootFilesystem"):
                yield f"{who}: the root file system can be written to"
            paths = {each["mountPath"] for each in container.get("volumeMounts", [])}
            home = environment(container).get("HOME")
            if "ray" in spec["containers"][0]["name"] and not {"/tmp", home} <= paths:
                yield f"{who}: nothing to write to at /tmp or HOME ({home})"


def only_the_head_talks_to_the_api_server(m: Manifests) -> Iterator[str]:
    """Without a token the autoscaler's sidecar dies and the service is never Ready (trap 2). Nobody
    else needs one."""
    if pod_spec(m.head).get("automountServiceAccountToken") is not True:
        yield "the head has no token for its autoscaler"
    if m.named("ServiceAccount", pod_spec(m.head).get("serviceAccountName", "")) is None:
        yield "the head's account is missing; the operator makes none if it is named"
    for name, spec in _pod_specs(m):
        is_head = spec["containers"][0]["name"] == "ray-head"
        if not is_head and spec.get("automountServiceAccountToken") is not False:
            yield f"{name}: has a token of the API server"


def auth_mode_is_explicit(m: Manifests) -> Iterator[str]:
    """RAY_AUTH_MODE in `env` of every Ray container, since init containers get no `envFrom`, as
    authOptions say it: Ray 2.61 changes the default (trap 8)."""
    mode = m.cluster.get("authOptions", {}).get("mode", "disabled")
    runtime = m.named("ConfigMap", "tierserve-runtime")
    modes = {"ConfigMap": [runtime["data"].get("RAY_AUTH_MODE")] if runtime else [None]}
    for pod in pods_of(m.rayservice):
        for container in (*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]):
            found = [e["value"] for e in container["env"] if e["name"] == "RAY_AUTH_MODE"]
            modes[f"{pod['metadata']['name']}/{container['name']}"] = found
    for where, found in modes.items():
        if found != [mode]:
            yield f"{where}: RAY_AUTH_MODE {found}, authOptions {mode}"


def ray_ports_need_the_token(m: Manifests) -> Iterator[str]:
    """Whoever reaches the dashboard runs code on the GPUs; each overlay asks for the token."""
    if m.cluster.get("authOptions", {}).get("mode") != "token":
        yield "Ray's ports are open to everyone who reaches them"


def no_secret_is_written_down(m: Manifests) -> Iterator[str]:
    """Secrets are made by hand and referred to. serveConfigV2 is logged by the operator."""
    yield from (f"Secret {o['metadata']['name']} in the manifests" for o in m.all("Secret"))
    for name, spec in _pod_specs(m):
        for container in (*spec.get("initContainers", []), *spec["containers"]):
            for variable in environment(container):
                if variable.upper().endswith(_SECRET_NAMES):
                    yield f"{name}: {variable} as a plain value"
    for _, deployment in m.deployments():
        variables = deployment.get("ray_actor_options", {}).get("runtime_env", {})
        for variable in variables.get("env_vars", {}):
            if variable.upper().endswith(_SECRET_NAMES):
                yield f"serveConfigV2: {variable}"


def shared_memory_is_bounded(m: Manifests) -> Iterator[str]:
    """/dev/shm counts into the memory limit, and the operator would make it as large as that."""
    for group in m.groups:
        name, ray = group_name(group), ray_container(group)
        mount = next((x for x in ray["volumeMounts"] if x["mountPath"] == "/dev/shm"), None)
        volumes = {each["name"]: each.get("emptyDir") for each in pod_spec(group)["volumes"]}
        source = volumes.get(mount["name"]) if mount else None
        if source is None or source.get("medium") != "Memory" or "sizeLimit" not in source:
            yield f"{name}: no /dev/shm of its own size"
            continue
        size = quantity(source["sizeLimit"])
        store = float(group["rayStartParams"].get("object-store-memory", "inf"))
        if not store < size <= quantity(ray["resources"]["limits"]["memory"]) / 2:
            yield f"{name}: object store {store:g} < /dev/shm {size:g} <= half of the memory limit"


def _pod_specs(m: Manifests) -> Iterator[tuple[str, dict[str, Any]]]:
    for pod in pods_of(m.rayservice):
        yield pod["metadata"]["name"], pod["spec"]
    for kind in _WORKLOADS:
        for workload in m.all(kind):
            yield workload["metadata"]["name"], workload["spec"]["template"]["spec"]


def _unrestricted(spec: Mapping[str, Any]) -> Iterator[str]:
    """Kubernetes' Pod Security Standards, level restricted, as of 1.37."""
    pod = spec.get("securityContext", {})
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(key):
            yield key
    for volume in spec.get("volumes", []):
        if not _VOLUMES & volume.keys():
            yield f"volume {volume['name']} is of a kind that is not allowed"
    for container in (*spec.get("initContainers", []), *spec["containers"]):
        name, own = container["name"], {**pod, **container.get("securityContext", {})}
        if own.get("runAsNonRoot") is not True or own.get("runAsUser") == 0:
            yield f"{name} may run as root"
        if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
            yield f"{name} may gain privileges"
        capabilities = own.get("capabilities", {})
        added = set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}
        if "ALL" not in capabilities.get("drop", []) or added:
            yield f"{name} keeps capabilities"
        if own.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
            yield f"{name} has no seccomp profile"
        if any("hostPort" in port for port in container.get("ports", [])):
            yield f"{name} takes a port of the node"
