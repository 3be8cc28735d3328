"""Rules for what runs where: GPUs, nodes, sizes, upgrades."""

from collections.abc import Iterator, Mapping
from typing import Any

from serve_app.core.placement.labels import matches
from tests.k8s.manifests import (
    ACCELERATOR,
    GPU,
    Manifests,
    environment,
    group_name,
    pod_spec,
    quantity,
    ray_container,
)

GPUS_ANNOTATION = "tierserve/cards"
# The label of the nodes with each kind of GPU; docs/kubernetes.md has the sources.
NODE_LABELS = {
    ("nvidia.com/gpu.product", "Tesla-T4"): "T4",
    ("nvidia.com/gpu.product", "NVIDIA-GeForce-RTX-4090"): "GeForce-RTX-4090",
    ("cloud.google.com/gke-accelerator", "nvidia-tesla-t4"): "T4",
    ("node.kubernetes.io/instance-type", "g4dn.xlarge"): "T4",
    ("node.kubernetes.io/instance-type", "g4dn.2xlarge"): "T4",
    ("node.kubernetes.io/instance-type", "Standard_NC4as_T4_v3"): "T4",
}
# Of the preference for nodes without a GPU, where GPU Feature Discovery labels them.
_NO_GPU_NODE = str({"key": "nvidia.com/gpu.product", "operator": "DoesNotExist"})


def one_gpu_a_worker(m: Manifests) -> Iterator[str]:
    """One GPU a Pod, in requests and limits."""
    for group in m.gpu_workers:
        resources = ray_container(group)["resources"]
        for part in ("requests", "limits"):
            if str(resources.get(part, {}).get(GPU)) != "1":
                yield f"{group_name(group)}: {part} has not one {GPU}"


def gpu_nodes_are_selected_and_tolerated(m: Manifests) -> Iterator[str]:
    """A group runs on nodes of its GPU only, not on GPUs that are shared out, past the taint."""
    for group in m.gpu_workers:
        spec, name = pod_spec(group), group_name(group)
        wanted = list(_node_labels(spec))
        gpus = {NODE_LABELS.get(label) for label in wanted} - {None}
        if gpus != {group.get("labels", {}).get(ACCELERATOR)}:
            yield f"{name}: nodes of {gpus or 'any kind'}, label {group.get('labels')}"
        by_product = any(key == "nvidia.com/gpu.product" for key, _ in wanted)
        if by_product and ("nvidia.com/gpu.replicas", "1") not in wanted:
            yield f"{name}: takes nodes whose GPUs are shared out (nvidia.com/gpu.replicas)"
        if not any(t.get("key") == GPU for t in spec.get("tolerations", [])):
            yield f"{name}: does not tolerate the taint {GPU}"


def every_deployment_has_a_place(m: Manifests) -> Iterator[str]:
    """Some group can hold each replica, by each of a tier's choices, and the groups' minimum starts
    all tiers. The label must be the group's, or Ray's autoscaler adds no Pod for it."""
    for _, deployment in m.deployments():
        options = deployment.get("ray_actor_options", {})
        first, *others = _selectors(options)
        for selector in [first, *others] if options.get("num_gpus") else [first]:
            if not any(_holds(group, options, selector) for group in m.workers):
                yield f"{deployment['name']}: no group has {options} with {selector}"
    least = sum(
        float(d.get("autoscaling_config", {}).get("min_replicas", 1))
        * float(d.get("ray_actor_options", {}).get("num_gpus", 0))
        for _, d in m.deployments()
    )
    if sum(g["minReplicas"] for g in m.gpu_workers) < least:
        yield f"the groups' minimum has less than the {least:g} GPUs that the tiers begin with"


def gateway_is_beside_no_gpu(m: Manifests) -> Iterator[str]:
    """The streams of /v1 outlive a GPU's Pod only in another one, and Ray takes the fallback of the
    first node that is there: so no choice of `web` is a GPU's Pod. Its own is always there, is none
    of those that the workers' budget counts, and keeps off the GPU nodes (trap 27)."""
    if not m.gpu_workers:
        return
    (options,) = (d["ray_actor_options"] for a, d in m.deployments() if a["name"] == "web")
    for selector in _selectors(options):
        for group in m.gpu_workers:
            if _holds(group, options, selector):
                yield f"web may run in {group_name(group)} by {selector}"
    own = [g for g in m.workers if g not in m.gpu_workers]
    if not any(g["minReplicas"] >= 1 for g in own):
        yield "no Pod without a GPU is always there"
    budget = m.named("PodDisruptionBudget", "tierserve-worker")
    for group in own:
        name, labels = group_name(group), group["template"]["metadata"]["labels"]
        if budget and budget["spec"]["selector"]["matchLabels"].items() <= labels.items():
            yield f"{name}: is the one that the workers' budget keeps"
        if pod_spec(group).get("tolerations") or _NO_GPU_NODE not in str(pod_spec(group)):
            yield f"{name}: may run on a node with a GPU"


def cpus_are_requested_not_limited(m: Manifests) -> Iterator[str]:
    """Ray counts the request; a limit would throttle the engine's loop in the middle of a step."""
    for group in m.groups:
        resources = ray_container(group).get("resources", {})
        if "cpu" in resources.get("limits", {}) or "cpu" not in resources.get("requests", {}):
            yield f"{group_name(group)}: cpu must be requested, and not limited"


def memory_is_limited_as_requested(m: Manifests) -> Iterator[str]:
    """The limit is what Ray and /dev/shm go by; above the request a node may run out of memory."""
    for group in m.groups:
        resources = ray_container(group).get("resources", {})
        request = resources.get("requests", {}).get("memory")
        if request is None or request != resources.get("limits", {}).get("memory"):
            yield f"{group_name(group)}: memory request and limit are not one amount"


def head_takes_no_load(m: Manifests) -> Iterator[str]:
    """The head outlives all load: no replica and no stream on it."""
    if m.head["rayStartParams"].get("num-cpus") != "0":
        yield "the head offers CPUs to replicas"
    if GPU in str(ray_container(m.head).get("resources")):
        yield "the head takes a GPU"
    if m.rayservice["spec"].get("excludeHeadPodFromServeSvc") is not True:
        yield "streams pass through the head (excludeHeadPodFromServeSvc)"


def autoscaling_is_rays_v2(m: Manifests) -> Iterator[str]:
    """Serve asks for replicas, Ray's autoscaler v2 for Pods. HPA and KEDA cannot scale Ray's Pods,
    which have no scale subresource (trap 1)."""
    options = m.cluster.get("autoscalerOptions", {})
    if not m.cluster.get("enableInTreeAutoscaling") or options.get("version") != "v2":
        yield "in-tree autoscaling with version v2 is not on"
    for kind in ("HorizontalPodAutoscaler", "ScaledObject"):
        yield from (f"{kind} {o['metadata']['name']} cannot scale Ray's Pods" for o in m.all(kind))


def upgrade_has_the_gpus_it_needs(m: Manifests) -> Iterator[str]:
    """NewCluster starts the new cluster beside the old one. Without spare GPUs it stays Pending,
    and going back starts a third one (trap 3)."""
    gpus = _gpus_owned(m)
    strategy = m.rayservice["spec"].get("upgradeStrategy", {}).get("type", "NewCluster")
    spare = True
    for kind, owned in gpus.items():
        groups = [g for g in m.gpu_workers if g.get("labels", {}).get(ACCELERATOR) == kind]
        most = sum(g["maxReplicas"] for g in groups)
        if most > owned:
            yield f"{kind}: up to {most} workers, and {owned} GPUs"
        spare &= most + sum(g["minReplicas"] for g in groups) <= owned
    if strategy == "NewCluster" and not (gpus and spare):
        yield "NewCluster without GPUs for a second cluster: use None"
    if strategy == "None" and gpus and spare:
        yield "None ignores changes of the Pods, though there are GPUs for NewCluster"


def cache_reaches_every_node(m: Manifests) -> Iterator[str]:
    """ReadWriteOnce binds all Pods to one node; compiled code is kept by kind of GPU."""
    compiled: dict[str, Any] = {}
    with_engines = m.gpu_workers or m.workers
    for group in with_engines:
        mounts = {each["mountPath"]: each for each in ray_container(group)["volumeMounts"]}
        for volume in pod_spec(group).get("volumes", []):
            claim = m.named("PersistentVolumeClaim", _claim(volume))
            if claim is None:
                continue
            pods = sum(g["maxReplicas"] for g in with_engines)
            if pods > 1 and claim["spec"]["accessModes"] != ["ReadWriteMany"]:
                yield f"{volume['name']}: {claim['spec']['accessModes']} for {pods} Pods"
        where = environment(ray_container(group)).get("TIERSERVE_ENGINE__COMPILE_CACHE_DIR", "")
        mount = mounts.get(where)
        if mount is None:
            yield f"{group_name(group)}: nothing is mounted at the compile cache {where!r}"
        elif mount.get("subPath") in compiled.values():
            yield f"{group_name(group)}: shares its compiled code with another kind of GPU"
        else:
            compiled[group_name(group)] = mount.get("subPath")


def _claim(volume: Mapping[str, Any]) -> str:
    return volume.get("persistentVolumeClaim", {}).get("claimName", "")


def _gpus_owned(m: Manifests) -> dict[str, int]:
    text = m.rayservice["metadata"].get("annotations", {}).get(GPUS_ANNOTATION, "")
    pairs = (entry.split("=") for entry in text.split(",") if entry)
    return {kind: int(count) for kind, count in pairs}


def _node_labels(spec: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield from spec.get("nodeSelector", {}).items()
    required = spec.get("affinity", {}).get("nodeAffinity", {})
    required = required.get("requiredDuringSchedulingIgnoredDuringExecution", {})
    for term in required.get("nodeSelectorTerms", []):
        for expression in term["matchExpressions"]:
            yield from ((expression["key"], value) for value in expression.get("values", []))


def _selectors(options: Mapping[str, Any]) -> list[Mapping[str, str]]:
    first = options.get("label_selector", {})
    return [first, *(each["label_selector"] for each in options.get("fallback_strategy", []))]


def _holds(
    group: Mapping[str, Any], options: Mapping[str, Any], selector: Mapping[str, str]
) -> bool:
    requests = ray_container(group)["resources"]["requests"]
    labels = group.get("labels", {})
    return (
        matches(labels, selector)
        and quantity(requests.get("cpu", 0)) >= options.get("num_cpus", 1)
        and quantity(requests.get(GPU, 0)) >= options.get("num_gpus", 0)
    )
