"""A pre-started worker on each node with a free GPU, so that a replica need not wait for one.

Starting Python and Ray's worker and importing Serve takes seconds, more on busy cores. Ray
prestarts workers only on nodes where a driver runs, and gives an actor only a process that has
run nothing: no task of ours can leave one behind. The raylet's own call can.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from serve_app.core.scaling.prestart import NodeState, next_nodes
from serve_app.serving.ray_internals import (
    PrestartRequest,
    draining_nodes,
    free_resources,
    prestart_worker,
)

log = logging.getLogger("ray.serve")

LOOK_EVERY_S = 2.0
ANSWER_WITHIN_S = 10.0
# The controller's loop waits for it.
GCS_WITHIN_S = 1.0
# A week. Ray may end an idle process after that time, if the node has more than CPUs.
KEEP_S = 7 * 24 * 3600


@dataclass(slots=True)
class Prestarter:
    """`free_gpus`: of each node that takes work, by id; None where it is unknown just now.
    `start`: a process on one of them."""

    free_gpus: Callable[[], Mapping[str, float] | None] = lambda: _free_gpus()
    start: Callable[[str], None] = lambda node: _start(node)
    _rooms: dict[str, NodeState] = field(default_factory=dict)
    _looked_s: float = float("-inf")

    def look(self, gpus_per_replica: float, now_s: float) -> None:
        """Start what is missing, at most every `LOOK_EVERY_S`."""
        if now_s - self._looked_s < LOOK_EVERY_S:
            return
        self._looked_s = now_s
        if (free_gpus := self.free_gpus()) is None:
            return
        self._rooms, due = next_nodes(self._rooms, free_gpus, gpus_per_replica)
        for node in due:
            self.start(node)


def _free_gpus() -> Mapping[str, float] | None:
    from ray.exceptions import RayError

    # A GPU that becomes free on one of them is on its way out.
    try:
        leaving = draining_nodes(GCS_WITHIN_S)
    except RayError:
        return None
    return {
        node: resources.get("GPU", 0.0)
        for node, resources in free_resources().items()
        if node not in leaving
    }


def _start(node: str) -> None:
    """Ask without waiting: this is the controller's loop."""

    def answered(error: BaseException | None) -> None:
        if error is None:
            log.info("pre-started a worker on node %s", node)
        else:
            log.warning(
                "no pre-started worker on node %s, a replica starts slower: %s", node, error
            )

    prestart_worker(PrestartRequest(node, keep_s=KEEP_S, timeout_s=ANSWER_WITHIN_S), answered)
