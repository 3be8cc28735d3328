"""What is used of Ray that Ray does not promise: the only file that imports its private modules.

Each function says what it relies on; all were checked with Ray 2.60.0, and pyproject.toml keeps Ray
at `~=2.60.0`. In the order in which an upgrade should be looked through:

1. `kv_put`, `kv_get`: the head's key-value store
2. `serve_controller`, `target_groups`, `http_port`, `replica_id`: what Serve's controller knows
3. `replica_references`: an answer of each replica of its own
4. `serve_log_targets`: the buffers of Serve's own log
5. `patch_replica_grpc_port`: the address of a replica's gRPC port
6. `draining_nodes`, `free_resources`, `prestart_worker`: the raylets' side of a standing-by process
7. `is_draining`: the text of a replica's health path

Imports nothing of this package, so that `autoscaling` may use it; and Ray's private modules inside
the functions, since workers that become no replica import this too.
"""

import functools
import importlib
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from logging.handlers import MemoryHandler
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle
    from ray.serve.schema import TargetGroup

# What a replica's gRPC server binds in `Replica._on_initialized`.
_EVERYWHERE = "[::]:0"


def kv_put(key: bytes, value: bytes, *, namespace: bytes, overwrite: bool = True) -> None:
    """Store a value in the head's key-value store. One call, about a millisecond.

    Relies on `ray.experimental.internal_kv`, which Ray uses itself and documents nowhere.
    """
    from ray.experimental.internal_kv import _internal_kv_put

    _internal_kv_put(key, value, overwrite, namespace=namespace)


def kv_get(key: bytes, *, namespace: bytes) -> bytes | None:
    """A value of the head's key-value store; None where there is none. One call to the head.

    Relies on `ray.experimental.internal_kv`; its annotation leaves the None out.
    """
    from ray.experimental.internal_kv import _internal_kv_get

    return _internal_kv_get(key, namespace=namespace)


def serve_controller() -> Any:
    """The handle of Serve's controller, on which its methods are called as `name.remote()`.

    Relies on the controller's name and namespace as an actor, which are constants of Serve's.
    """
    import ray
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    return ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)


async def http_port() -> int:
    """The port on which this cluster's proxies listen.

    Relies on `ServeController.get_http_config`, and its result's `port`.
    """
    config = await serve_controller().get_http_config.remote()
    return int(config.port)


async def target_groups(app_name: str) -> "Sequence[TargetGroup]":
    """Where an application's replicas listen, by protocol; empty without HAProxy.

    Relies on `ServeController.get_target_groups`, whose `from_proxy_manager` names the replicas
    themselves and not HAProxy in front of them.
    """
    return await serve_controller().get_target_groups.remote(app_name, from_proxy_manager=True)


def replica_id(actor_name: str) -> str | None:
    """The unique id of a replica, which is its tag too; None for a target that is no replica.

    Relies on the form of the actor's name, `SERVE_REPLICA::app#deployment#id`.
    """
    _, separator, unique_id = actor_name.rpartition("#")
    return unique_id if separator else None


async def replica_references(
    handle: "DeploymentHandle", method: str
) -> Mapping[str, Awaitable[Any]]:
    """What each running replica is going to answer to a call of one method, by its actor's id.
    Raises RayServeException where the deployment is not there or has no replica.

    Relies on `DeploymentBroadcastResponse._fetch_replica_results_async`: Serve's public call waits
    for all or none, and below it each replica has an answer of its own.
    """
    results = await handle.broadcast(method)._fetch_replica_results_async()
    references: list[Any] = [await result.to_object_ref_async() for result in results]
    return {reference.task_id().actor_id().hex(): reference for reference in references}


def serve_log_targets() -> Sequence[tuple[MemoryHandler, logging.Handler | None]]:
    """The buffering handlers of Serve's own log in this process, with what they write to.

    Relies on the logger `ray.serve`, whose file is behind a MemoryHandler
    (`ray.serve._private.logging_utils`); a controller reads its name from there.
    """
    return [
        (handler, handler.target)
        for handler in logging.getLogger("ray.serve").handlers
        if isinstance(handler, MemoryHandler)
    ]


def patch_replica_grpc_port(module: Any = None) -> bool:
    """Have the replicas of this process bind Serve's gRPC port on 127.0.0.1 where their node's
    address is that. False where `module`, by default Serve's of the replica, binds it in another
    way now. A second time changes nothing.

    Relies on `ray.serve._private.replica.add_port_to_grpc_server` being called with `[::]:0`,
    whatever the node's address is. To be removed when Serve asks for the node's address there, as
    Ray's own servers do.
    """
    if module is None:
        module = importlib.import_module("ray.serve._private.replica")
    bind = getattr(module, "add_port_to_grpc_server", None)
    if bind is None:
        return False
    if not hasattr(bind, "__wrapped__"):
        module.add_port_to_grpc_server = _near(bind)
    return True


def _near(bind: Callable[[Any, str], int]) -> Callable[[Any, str], int]:
    @functools.wraps(bind)
    def bind_near(server: Any, address: str) -> int:
        import ray

        is_near = address == _EVERYWHERE and ray.util.get_node_ip_address() == "127.0.0.1"
        return bind(server, "127.0.0.1:0" if is_near else address)

    return bind_near


def draining_nodes(timeout_s: float) -> Collection[str]:
    """Ids of the nodes that are on their way out. Raises RayError.

    Relies on the worker's `gcs_client.get_draining_nodes`.
    """
    from ray._private.worker import global_worker

    worker: Any = global_worker
    return worker.gcs_client.get_draining_nodes(timeout=timeout_s)


def free_resources() -> Mapping[str, Mapping[str, float]]:
    """What is free on each node, by the node's id.

    Relies on `ray._private.state.available_resources_per_node`; Ray's public call gives the sum.
    """
    from ray._private.state import available_resources_per_node

    return available_resources_per_node()


@dataclass(frozen=True, slots=True)
class PrestartRequest:
    """A Python worker to be started on a node, idle for `keep_s` seconds at most."""

    node_id: str
    keep_s: int
    timeout_s: float


def prestart_worker(
    request: PrestartRequest, on_answer: Callable[[BaseException | None], None]
) -> None:
    """Ask a node's raylet to start a worker before it is needed, without waiting. `on_answer` gets
    None, or the error, from another thread. Nothing happens where the node is not known.

    Relies on the raylet's own gRPC call `NodeManagerService.PrestartWorkers`, Ray's channel with
    its token (`ray._private.grpc_utils`), and the node's address in `ray.nodes()`.
    """
    import ray
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated import common_pb2, node_manager_pb2
    from ray.core.generated.node_manager_pb2_grpc import NodeManagerServiceStub

    # Protobuf makes their names at import, where no type checker sees them.
    common: Any = common_pb2
    messages: Any = node_manager_pb2
    found = next((each for each in ray.nodes() if each["NodeID"] == request.node_id), None)
    if found is None:
        return
    channel = init_grpc_channel(f"{found['NodeManagerAddress']}:{found['NodeManagerPort']}")
    message = messages.PrestartWorkersRequest(
        language=common.Language.PYTHON,
        job_id=bytes.fromhex(ray.get_runtime_context().get_job_id()),
        keep_alive_duration_secs=request.keep_s,
        num_workers=1,
    )
    asked = NodeManagerServiceStub(channel).PrestartWorkers.future(
        message, timeout=request.timeout_s
    )

    def answered(answer: Any) -> None:
        on_answer(answer.exception())
        channel.close()

    asked.add_done_callback(answered)


def is_draining(status: int, text: str) -> bool:
    """Whether a replica's health path says that Serve has begun to stop it.

    Relies on status and text of `/-/healthz` at the replica's own port, which HAProxy reads: Serve
    tells user code nothing.
    """
    return status == 503 and "DRAINING" in text
