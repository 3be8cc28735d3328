"""Rules for who reaches whom, and for names that lead nowhere."""

from collections.abc import Iterator, Mapping
from typing import Any

from tests.k8s.manifests import Manifests, ray_container, values_of
from tests.k8s.operator_pods import pods_of

SERVE_PORT, METRICS_PORT = 8000, 8080
OPERATOR_PORTS = {8265, 8000, 52365}
_RAY = {"ray.io/is-ray-node": "yes"}
_CLUSTER_KINDS = ("Namespace",)
_WORKLOADS = ("Deployment", "StatefulSet")


def ray_is_closed_to_all_but_its_own(m: Manifests) -> Iterator[str]:
    """Ray's Pods take one another, the operator, Prometheus, and what brings clients; whoever
    reaches other ports runs code."""
    policies = [p["spec"] for p in m.all("NetworkPolicy") if _selects_ray(p)]
    if not any("Ingress" in p["policyTypes"] for p in policies):
        yield "no NetworkPolicy closes Ray's Pods"
    reached: dict[str, set[int]] = {}
    for rule in (rule for p in policies for rule in p.get("ingress", [])):
        ports = {port["port"] for port in rule.get("ports", [])}
        for peer in rule.get("from", [{}]):
            labels = peer.get("podSelector", {}).get("matchLabels", {})
            name = labels.get("app.kubernetes.io/name", "")
            if labels == _RAY and "namespaceSelector" not in peer:
                reached["ray"] = ports
                continue
            allowed = OPERATOR_PORTS if name == "kuberay-operator" else {SERVE_PORT, METRICS_PORT}
            if not peer or not ports or ports - allowed:
                yield f"{peer or 'everyone'} reaches ports {sorted(ports) or 'of all numbers'}"
            reached.setdefault(name, set()).update(ports)
    if reached.get("ray"):
        yield "Ray's Pods do not reach all of one another's ports"
    if reached.get("kuberay-operator") != OPERATOR_PORTS:
        yield f"the operator reaches {reached.get('kuberay-operator')}, not {OPERATOR_PORTS}"
    if METRICS_PORT not in reached.get("prometheus", set()):
        yield "Prometheus does not reach Ray's metrics"


def ray_comes_first(m: Manifests) -> Iterator[str]:
    """The operator takes containers[0] for Ray's and the head's port `serve` for the Service."""
    for group in m.groups:
        if not ray_container(group)["name"].startswith("ray-"):
            yield f"{ray_container(group)['name']} stands before Ray's container"


def images_are_pinned(m: Manifests) -> Iterator[str]:
    """A tag of its own for each release, the same on head and workers; the sidecar takes it too."""
    ours = {ray_container(group)["image"] for group in m.groups}
    if len(ours) != 1:
        yield f"head and workers run different images: {sorted(ours)}"
    for image in values_of("image", m.objects):
        if ":" not in image or image.endswith(":latest"):
            yield f"{image} has no tag"


def everything_is_in_one_namespace(m: Manifests) -> Iterator[str]:
    """What has no namespace is put into the one of whoever applies it."""
    for each in m.objects:
        where = each["metadata"].get("namespace")
        if each["kind"] not in _CLUSTER_KINDS and where != "tierserve":
            yield f"{each['kind']} {each['metadata']['name']} is in {where}"


def names_lead_somewhere(m: Manifests) -> Iterator[str]:
    """ConfigMaps, claims, accounts and Services that are named are there."""
    made = {"tierserve-serve-svc"}
    specs = [pod["spec"] for pod in pods_of(m.rayservice)]
    specs += [w["spec"]["template"]["spec"] for k in _WORKLOADS for w in m.all(k)]
    for spec in specs:
        yield from _missing(m, "ServiceAccount", [spec.get("serviceAccountName")])
        volumes = spec.get("volumes", [])
        claims = [v.get("persistentVolumeClaim", {}).get("claimName") for v in volumes]
        yield from _missing(m, "PersistentVolumeClaim", claims)
        configs = [v.get("configMap", {}).get("name") for v in volumes]
        for container in spec["containers"]:
            configs += [e.get("configMapRef", {}).get("name") for e in container.get("envFrom", [])]
            known = {v["name"] for v in volumes} | _templates(m)
            for mount in container.get("volumeMounts", []):
                if mount["name"] not in known:
                    yield f"{container['name']}: no volume {mount['name']}"
        yield from _missing(m, "ConfigMap", configs)
    yield from _missing(m, "Service", [name for name in _backends(m) if name not in made])


def _backends(m: Manifests) -> list[str]:
    routes = [b["name"] for refs in values_of("backendRefs", m.objects) for b in refs]
    ingresses = values_of("backend", m.all("Ingress"))
    return routes + [backend["service"]["name"] for backend in ingresses]


def _templates(m: Manifests) -> set[str]:
    sets = m.all("StatefulSet")
    return {t["metadata"]["name"] for s in sets for t in s["spec"].get("volumeClaimTemplates", [])}


def _missing(m: Manifests, kind: str, names: list[str | None]) -> Iterator[str]:
    for name in names:
        if name and m.named(kind, name) is None:
            yield f"{kind} {name} is not there"


def _selects_ray(policy: Mapping[str, Any]) -> bool:
    return policy["spec"]["podSelector"].get("matchLabels", {}) == _RAY
