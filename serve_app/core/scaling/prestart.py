"""On which nodes a worker is to be pre-started for the next replica."""

from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class NodeState:
    """A node's free GPUs as seen last, and whether a pre-started worker is there."""

    gpus: float
    has_prestarted: bool = False


def next_nodes(
    rooms: Mapping[str, NodeState], free_gpus: Mapping[str, float], gpus_per_replica: float
) -> tuple[dict[str, NodeState], list[str]]:
    """What is known of each node that has a GPU for a replica, and those that now get a worker.

    A node gets one once it had room twice in a row: of a replica that is replaced, the next one
    is on its way to that GPU already. Where fewer GPUs are free than before, a replica has
    taken the process.
    """
    after: dict[str, NodeState] = {}
    due: list[str] = []
    for node, gpus in free_gpus.items():
        if gpus < gpus_per_replica:
            continue
        before = rooms.get(node)
        if before is None or gpus < before.gpus:
            after[node] = NodeState(gpus)
            continue
        after[node] = replace(before, gpus=gpus, has_prestarted=True)
        if not before.has_prestarted:
            due.append(node)
    return after, due
