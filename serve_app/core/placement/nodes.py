"""Nodes as Ray sees them, what deployments request of them, and what a node is short of."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from serve_app.core.placement.labels import ACCELERATOR_LABEL

# Fractions of a GPU: 1 - 0.9 is not 0.1 in floating point.
ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node as Ray sees it: resources in all and free, labels, and who holds its GPUs."""

    name: str
    cpus: float
    cpus_free: float
    gpus: float = 0.0
    gpus_free: float = 0.0
    memory_bytes: float = float("inf")
    memory_free_bytes: float = float("inf")
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    gpu_holders: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def accelerator_type(self) -> str | None:
        return self.labels.get(ACCELERATOR_LABEL)


@dataclass(frozen=True, slots=True)
class DeploymentRequest:
    """What a deployment requests. `selectors` in their order of preference, none meaning any node;
    `refusals`: by accelerator type, why its replica would refuse to start there."""

    name: str
    minimum: int
    target: int
    placed: int = 0
    cpus: float = 1.0
    gpus: float = 0.0
    memory_bytes: float = 0.0
    selectors: tuple[Mapping[str, str], ...] = ()
    refusals: Mapping[str | None, str] = field(default_factory=dict[str | None, str])


def short_of(node: NodeView, request: DeploymentRequest) -> str | None:
    """The first resource that is not free there."""
    if request.gpus > node.gpus_free + ROUNDING:
        return "gpu"
    if request.cpus > node.cpus_free + ROUNDING:
        return "cpu"
    return "memory" if request.memory_bytes > node.memory_free_bytes else None


def emptied(node: NodeView) -> NodeView:
    """The node with nothing on it."""
    return replace(
        node, cpus_free=node.cpus, gpus_free=node.gpus, memory_free_bytes=node.memory_bytes
    )


def with_replica(node: NodeView, request: DeploymentRequest) -> NodeView:
    """The node with one more replica on it."""
    holders = dict(node.gpu_holders)
    if request.gpus:
        holders[request.name] = holders.get(request.name, 0) + request.gpus
    return replace(
        node,
        cpus_free=node.cpus_free - request.cpus,
        gpus_free=node.gpus_free - request.gpus,
        memory_free_bytes=node.memory_free_bytes - request.memory_bytes,
        gpu_holders=holders,
    )
