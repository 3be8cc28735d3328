"""What the engine's worker is asked, and what its answers come to."""

from types import SimpleNamespace
from typing import Any

import pytest

from serve_app.engine.vllm.worker_extension import (
    WorkerExtension,
    compile_s,
    patches_in_engine,
    with_worker_extension,
)


class Client:
    """Its workers answer so."""

    def __init__(self, answers: list[Any]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    async def collective_rpc(self, method: str) -> list[Any]:
        self.asked.append(method)
        return self.answers


def a_client(*answers: Any) -> Any:
    return Client(list(answers))


def test_the_workers_addition_is_named_where_vllm_finds_it() -> None:
    *args, option, name = with_worker_extension(["--seed", "0"])
    assert (args, option) == (["--seed", "0"], "--worker-extension-cls")
    assert name == "serve_app.engine.vllm.worker_extension.WorkerExtension"


async def test_an_addition_of_the_users_own_stays_and_nothing_is_known() -> None:
    args = ["--worker-extension-cls", "theirs.Extension"]
    client = a_client(3.0)
    assert with_worker_extension(args) == args
    assert await compile_s(client, args) is None
    assert await patches_in_engine(client, args) is None
    assert client.asked == []


async def test_the_slowest_worker_counts() -> None:
    assert await compile_s(a_client(2.0, 3.0), []) == 3.0


async def test_nothing_compiled_is_no_phase() -> None:
    assert await compile_s(a_client(0.0), []) is None


async def test_the_methods_that_are_asked_for_exist() -> None:
    client = a_client(1.0)
    await compile_s(client, [])
    client.answers = [{}]
    await patches_in_engine(client, [])
    assert len(client.asked) == 2
    assert all(hasattr(WorkerExtension, method) for method in client.asked)


def test_vllms_own_figure_comes_before_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    utils = pytest.importorskip("torch._dynamo.utils")
    monkeypatch.setattr(
        utils, "compilation_time_metrics", {"fullgraph_capture": [4.0, 1.0], "gc": [9.0]}
    )
    worker = WorkerExtension()
    worker.compilation_config = SimpleNamespace(compilation_time=7.0)
    assert worker.tierserve_compile_s() == 7.0
    worker.compilation_config = SimpleNamespace(compilation_time=0.0)
    assert worker.tierserve_compile_s() == 5.0


async def test_a_patch_is_active_where_every_worker_has_it() -> None:
    client = a_client({"a": True, "b": True, "c": False}, {"a": True, "b": False})
    assert await patches_in_engine(client, []) == {"a": True, "b": False, "c": False}
