"""What Ray does not promise is used in one file, and is in the Ray that is installed."""

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serve_app.serving import ray_internals

SERVE_APP = Path(ray_internals.__file__).parents[1]
PRIVATE = ("ray._private", "ray._raylet", "ray.serve._private", "ray.experimental", "ray.core")

# Ray 2.60 itself gives pydantic this keyword when its config is imported.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Using extra keyword arguments on `Field`:DeprecationWarning"
)


def private_modules(tree: ast.Module) -> Iterator[tuple[str, str | None]]:
    """Modules that are imported, and the name that is taken of each."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found = [(node.module or "", alias.name) for alias in node.names]
        else:
            continue
        for module, name in found:
            if f"{module}.{name}.".startswith(tuple(f"{each}." for each in PRIVATE)):
                yield module, name


def test_one_file_imports_rays_private_modules() -> None:
    """import-linter knows other packages by their first name only."""
    importing = {
        str(file.relative_to(SERVE_APP))
        for file in SERVE_APP.rglob("*.py")
        if any(private_modules(ast.parse(file.read_text())))
    }
    assert importing == {"serving/ray_internals.py"}


def test_what_it_imports_is_there() -> None:
    tree = ast.parse(Path(ray_internals.__file__).read_text())
    imported = list(private_modules(tree))
    assert len(imported) > 6
    for module, name in imported:
        found = importlib.import_module(module)
        assert name is None or hasattr(found, name) or importlib.import_module(f"{module}.{name}")


def test_what_is_called_of_serves_objects_is_there() -> None:
    from ray.serve._private.controller import ServeController
    from ray.serve._private.replica_result import ActorReplicaResult
    from ray.serve.handle import DeploymentBroadcastResponse

    groups = inspect.signature(ServeController.get_target_groups).parameters
    assert "from_proxy_manager" in groups
    assert hasattr(ServeController, "get_http_config")
    assert inspect.iscoroutinefunction(DeploymentBroadcastResponse._fetch_replica_results_async)
    assert hasattr(ActorReplicaResult, "to_object_ref_async")


def test_the_replicas_port_is_bound_by_a_name_of_its_module() -> None:
    replica = importlib.import_module("ray.serve._private.replica")
    assert callable(replica.add_port_to_grpc_server)
    assert '"[::]:0"' in inspect.getsource(replica)


def test_the_raylet_can_be_asked_for_a_worker() -> None:
    messages: Any = importlib.import_module("ray.core.generated.node_manager_pb2")
    request = messages.PrestartWorkersRequest(keep_alive_duration_secs=1, num_workers=1)
    assert {field.name for field in request.DESCRIPTOR.fields} >= {"language", "job_id"}


@pytest.mark.parametrize(
    ("name", "found"),
    [("SERVE_REPLICA::chat#chat#x7", "x7"), ("SERVE_PROXY_ACTOR-1", None)],
)
def test_a_replica_is_known_by_the_name_of_its_actor(name: str, found: str | None) -> None:
    assert ray_internals.replica_id(name) == found
