"""Why a replica finds no place: the farthest that Ray's search comes, in words, and what to do."""

from collections.abc import Sequence
from typing import NamedTuple

from serve_app.core.placement.labels import ACCELERATOR_LABEL, in_words, matches
from serve_app.core.placement.nodes import ROUNDING, NodeView, TierWish, emptied, short_of


class Reason(NamedTuple):
    """`code` is stable, for scripts."""

    code: str
    why: str
    remedy: str


def why_unplaced(nodes: Sequence[NodeView], wish: TierWish) -> Reason:
    """What would not fit on empty nodes is told before what is only taken now."""
    anything = "any GPU" if wish.gpus else "any node"
    wanted = " or else ".join(in_words(selector) for selector in wish.selectors) or anything
    labelled = [n for n in nodes if any(matches(n.labels, s) for s in wish.selectors or ({},))]
    if wish.gpus and not any(node.gpus for node in nodes):
        return Reason(
            "no-gpu",
            f"it asks for {wanted}, and no node here has a GPU",
            "join a node with a GPU (`ray start --address=...`), check that its `nvidia-smi` "
            "answers, or serve on the CPU with PROFILE=local-cpu",
        )
    if not labelled:
        return _no_label(nodes, wish, wanted)
    empty = [emptied(node) for node in labelled]
    if all(short_of(node, wish) for node in empty):
        labelled = empty
    else:
        labelled = [n for n, e in zip(labelled, empty, strict=True) if not short_of(e, wish)]
    with_gpu = [node for node in labelled if short_of(node, wish) != "gpu"]
    if not with_gpu:
        return _no_free_gpu(nodes, labelled, wish, wanted)
    with_cpu = [node for node in with_gpu if short_of(node, wish) != "cpu"]
    return _no_memory(with_cpu, wish) if with_cpu else _no_cpu(with_gpu, wish)


def _no_label(nodes: Sequence[NodeView], wish: TierWish, wanted: str) -> Reason:
    bare = [node for node in nodes if node.gpus and node.accelerator_type is None]
    if wish.gpus and bare:
        return Reason(
            "label-missing",
            f"it asks for {wanted}; {_names(bare)} has a GPU but no label {ACCELERATOR_LABEL}",
            "Ray sets the label where it finds the card's driver; otherwise start that node with "
            f"`ray start --labels {ACCELERATOR_LABEL}=...`",
        )
    if not wish.gpus or not any(ACCELERATOR_LABEL in s for s in wish.selectors):
        return Reason(
            "label-missing",
            f"it asks for {wanted}, and no node carries that label",
            "start a node with `ray start --labels ...`, or change label_selector",
        )
    return Reason(
        "no-such-gpu",
        f"it asks for {wanted}, and this cluster has {_gpus_in_words(nodes)}",
        "join a node with such a card, or add a card that is there to label_selector or "
        "fallback_strategy",
    )


def _no_free_gpu(
    nodes: Sequence[NodeView], labelled: Sequence[NodeView], wish: TierWish, wanted: str
) -> Reason:
    if all(node.gpus + ROUNDING < wish.gpus for node in labelled):
        most = max(node.gpus for node in labelled)
        return Reason(
            "gpu-too-small",
            f"it asks for {wish.gpus:g} GPUs on one node of {wanted}, and the largest has {most:g}",
            "lower num_gpus: a replica uses one GPU",
        )
    holders: dict[str, float] = {}
    for node in labelled:
        for name, gpus in node.gpu_holders.items():
            holders[name] = holders.get(name, 0) + gpus
    by_whom = ", ".join(f"{name} ({gpus:g})" for name, gpus in holders.items()) or "others"
    bare = [node for node in nodes if node.gpus_free and node.accelerator_type is None]
    hint = f"; {_names(bare)} has a free GPU without a label" if wish.selectors and bare else ""
    return Reason(
        "gpu-taken",
        f"each {wanted} is taken, by {by_whom}{hint}",
        "add a card, lower min_replicas or max_replicas of a tier, or share a card "
        "(deploy/single-gpu.yaml)",
    )


def _no_cpu(nodes: Sequence[NodeView], wish: TierWish) -> Reason:
    best = max(nodes, key=lambda node: node.cpus_free)
    have = f"{best.name} has {best.cpus_free:g} of {best.cpus:g} free"
    return Reason(
        "cpu-short",
        f"it asks for {wish.cpus:g} CPUs, and {have} where it could go",
        "lower num_cpus in ray_actor_options (it is a share for placement only), or give the node "
        "more with `ray start --num-cpus`",
    )


def _no_memory(nodes: Sequence[NodeView], wish: TierWish) -> Reason:
    best = max(nodes, key=lambda node: node.memory_free_bytes)
    return Reason(
        "memory-short",
        f"it asks for {_gib(wish.memory_bytes)} GiB of memory, and {best.name} has "
        f"{_gib(best.memory_free_bytes)} of {_gib(best.memory_bytes)} free",
        "lower memory in ray_actor_options, or take a node with more",
    )


def _gpus_in_words(nodes: Sequence[NodeView]) -> str:
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
