"""On which nodes a process is to stand by for the next replica."""

from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Room:
    """A node's free cards as seen last, and whether a process stands by there."""

    gpus: float
    has_standby: bool = False


def next_rooms(
    rooms: Mapping[str, Room], free_gpus: Mapping[str, float], gpus_per_replica: float
) -> tuple[dict[str, Room], list[str]]:
    """What is known of each node with room for a replica, and those that now get a process.

    A node gets one once it had room twice in a row: of a replica that is replaced, the next one
    is on its way to that card already. Where fewer cards are free than before, a replica has
    taken the process.
    """
    after: dict[str, Room] = {}
    due: list[str] = []
    for node, gpus in free_gpus.items():
        if gpus < gpus_per_replica:
            continue
        before = rooms.get(node)
        if before is None or gpus < before.gpus:
            after[node] = Room(gpus)
            continue
        after[node] = replace(before, gpus=gpus, has_standby=True)
        if not before.has_standby:
            due.append(node)
    return after, due
