"""A pre-started worker process on each node with a free GPU, so that a replica need not wait for
one.

Starting Python and Ray's worker and importing Serve takes seconds, more on busy cores. Ray
prestarts workers only on nodes where a driver runs, and gives an actor only a process that has
run nothing: no task of ours can leave one behind. The raylet's own call can.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from serve_app.core.scaling.prestart import NodeState, next_nodes

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
    from ray._private.state import available_resources_per_node
    from ray._private.worker import global_worker
    from ray.exceptions import RayError

    worker: Any = global_worker
    # A GPU that becomes free on one of them is on its way out.
    try:
        leaving = worker.gcs_client.get_draining_nodes(timeout=GCS_WITHIN_S)
    except RayError:
        return None
    return {
        node: resources.get("GPU", 0.0)
        for node, resources in available_resources_per_node().items()
        if node not in leaving
    }


def _start(node: str) -> None:
    """Ask without waiting: this is the controller's loop."""
    import ray
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated import common_pb2, node_manager_pb2
    from ray.core.generated.node_manager_pb2_grpc import NodeManagerServiceStub

    # Protobuf makes their names at import, where no type checker sees them.
    common: Any = common_pb2
    messages: Any = node_manager_pb2

    found = next((each for each in ray.nodes() if each["NodeID"] == node), None)
    if found is None:
        return
    channel = init_grpc_channel(f"{found['NodeManagerAddress']}:{found['NodeManagerPort']}")
    request = messages.PrestartWorkersRequest(
        language=common.Language.PYTHON,
        job_id=bytes.fromhex(ray.get_runtime_context().get_job_id()),
        keep_alive_duration_secs=KEEP_S,
        num_workers=1,
    )
    asked = NodeManagerServiceStub(channel).PrestartWorkers.future(request, timeout=ANSWER_WITHIN_S)

    def answered(answer: Any) -> None:
        error = answer.exception()
        if error is None:
            log.info("pre-started a worker on node %s", node)
        else:
            log.warning(
                "no pre-started worker on node %s, a replica starts slower: %s", node, error
            )
        channel.close()

    asked.add_done_callback(answered)
