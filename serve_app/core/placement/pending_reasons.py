"""Why a replica cannot be placed: how far Ray's search gets, in words, and what to do."""

from collections.abc import Sequence
from typing import NamedTuple

from serve_app.core.placement.labels import ACCELERATOR_LABEL, in_words, matches
from serve_app.core.placement.nodes import ROUNDING, DeploymentRequest, NodeView, emptied, short_of


class Reason(NamedTuple):
    """`code` is stable, for scripts."""

    code: str
    why: str
    remedy: str


def why_unplaced(nodes: Sequence[NodeView], request: DeploymentRequest) -> Reason:
    """What would not fit on empty nodes comes before what is only taken now."""
    anything = "any GPU" if request.gpus else "any node"
    requested = " or else ".join(in_words(selector) for selector in request.selectors) or anything
    labelled = [n for n in nodes if any(matches(n.labels, s) for s in request.selectors or ({},))]
    if request.gpus and not any(node.gpus for node in nodes):
        return Reason(
            "no-gpu",
            f"it requests {requested}, and no node here has a GPU",
            "join a node with a GPU (`ray start --address=...`), check that its `nvidia-smi` "
            "answers, or serve on the CPU with --profile local-cpu",
        )
    if not labelled:
        return _no_label(nodes, request, requested)
    empty = [emptied(node) for node in labelled]
    if all(short_of(node, request) for node in empty):
        labelled = empty
    else:
        labelled = [n for n, e in zip(labelled, empty, strict=True) if not short_of(e, request)]
    with_gpu = [node for node in labelled if short_of(node, request) != "gpu"]
    if not with_gpu:
        return _no_free_gpu(nodes, labelled, request, requested)
    with_cpu = [node for node in with_gpu if short_of(node, request) != "cpu"]
    return _no_memory(with_cpu, request) if with_cpu else _no_cpu(with_gpu, request)


def _no_label(nodes: Sequence[NodeView], request: DeploymentRequest, requested: str) -> Reason:
    unlabelled = [node for node in nodes if node.gpus and node.accelerator_type is None]
    if request.gpus and unlabelled:
        return Reason(
            "label-missing",
            f"it requests {requested}; {_names(unlabelled)} has a GPU but no label "
            f"{ACCELERATOR_LABEL}",
            "Ray sets the label where it finds the GPU's driver; otherwise start that node with "
            f"`ray start --labels {ACCELERATOR_LABEL}=...`",
        )
    if not request.gpus or not any(ACCELERATOR_LABEL in s for s in request.selectors):
        return Reason(
            "label-missing",
            f"it requests {requested}, and no node has that label",
            "start a node with `ray start --labels ...`, or change label_selector",
        )
    return Reason(
        "no-such-gpu",
        f"it requests {requested}, and this cluster has {_gpu_counts(nodes)}",
        "join a node with such a GPU, or add a GPU that is there to label_selector or "
        "fallback_strategy",
    )


def _no_free_gpu(
    nodes: Sequence[NodeView],
    labelled: Sequence[NodeView],
    request: DeploymentRequest,
    requested: str,
) -> Reason:
    if all(node.gpus + ROUNDING < request.gpus for node in labelled):
        most = max(node.gpus for node in labelled)
        return Reason(
            "gpu-too-small",
            f"it requests {request.gpus:g} GPUs on one node of {requested}, and the largest has "
            f"{most:g}",
            "lower num_gpus: a replica uses one GPU",
        )
    holders: dict[str, float] = {}
    for node in labelled:
        for name, gpus in node.gpu_holders.items():
            holders[name] = holders.get(name, 0) + gpus
    by_whom = ", ".join(f"{name} ({gpus:g})" for name, gpus in holders.items()) or "others"
    unlabelled = [node for node in nodes if node.gpus_free and node.accelerator_type is None]
    hint = (
        f"; {_names(unlabelled)} has a free GPU without a label"
        if request.selectors and unlabelled
        else ""
    )
    return Reason(
        "gpu-taken",
        f"each {requested} is taken, by {by_whom}{hint}",
        "add a GPU, lower min_replicas or max_replicas of a tier, or share a GPU "
        "(deploy/single-gpu.yaml)",
    )


def _no_cpu(nodes: Sequence[NodeView], request: DeploymentRequest) -> Reason:
    best = max(nodes, key=lambda node: node.cpus_free)
    have = f"{best.name} has {best.cpus_free:g} of {best.cpus:g} free"
    return Reason(
        "cpu-short",
        f"it requests {request.cpus:g} CPUs, and {have} where it could go",
        "lower num_cpus in ray_actor_options (it counts for placement only), give the node "
        "more with `ray start --num-cpus`, or join another one",
    )


def _no_memory(nodes: Sequence[NodeView], request: DeploymentRequest) -> Reason:
    best = max(nodes, key=lambda node: node.memory_free_bytes)
    return Reason(
        "memory-short",
        f"it requests {_gib(request.memory_bytes)} GiB of memory, and {best.name} has "
        f"{_gib(best.memory_free_bytes)} of {_gib(best.memory_bytes)} free",
        "lower memory in ray_actor_options, or take a node with more",
    )


def _gpu_counts(nodes: Sequence[NodeView]) -> str:
    counts: dict[str, float] = {}
    for node in nodes:
        if node.gpus:
            name = node.accelerator_type or "unlabelled"
            counts[name] = counts.get(name, 0) + node.gpus
    return ", ".join(f"{count:g} {name}" for name, count in counts.items())


def _names(nodes: Sequence[NodeView]) -> str:
    return " and ".join(node.name for node in nodes)


def _gib(amount: float) -> str:
    return f"{amount / 1024**3:.1f}"
