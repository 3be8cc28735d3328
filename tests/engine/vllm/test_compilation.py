"""Where compiled code is kept, and who is asked how long it took."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from serve_app.engine.vllm.compilation import (
    CompileTime,
    compile_s,
    keep_compiled_in,
    with_compile_time,
)

VARIABLES = ("VLLM_CACHE_ROOT", "TORCHINDUCTOR_CACHE_DIR")


class Client:
    """Its workers compiled for these times."""

    def __init__(self, *times_s: float) -> None:
        self.times_s = list(times_s)
        self.asked: list[str] = []

    async def collective_rpc(self, method: str) -> list[float]:
        self.asked.append(method)
        return self.times_s


@pytest.fixture(autouse=True)
def no_cache_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        # Set first, so that what a test sets is taken away at its end.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_vllm_and_torch_keep_their_files_below_one_directory(tmp_path: Path) -> None:
    keep_compiled_in(str(tmp_path))
    assert [Path(os.environ[name]) for name in VARIABLES] == [tmp_path, tmp_path / "inductor"]


def test_a_home_directory_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    keep_compiled_in("~/cache")
    assert os.environ["VLLM_CACHE_ROOT"] == str(tmp_path / "cache")


def test_unset_leaves_vllms_own_place() -> None:
    keep_compiled_in(None)
    assert not any(name in os.environ for name in VARIABLES)


def test_the_workers_addition_is_named_where_vllm_finds_it() -> None:
    *args, option, name = with_compile_time(["--seed", "0"])
    assert (args, option) == (["--seed", "0"], "--worker-extension-cls")
    assert name == "serve_app.engine.vllm.compilation.CompileTime"


async def test_an_addition_of_the_users_own_stays_and_compile_time_is_unknown() -> None:
    args = ["--worker-extension-cls", "theirs.Extension"]
    client = Client(3.0)
    assert with_compile_time(args) == args
    assert await compile_s(client, args) is None
    assert client.asked == []


async def test_the_slowest_worker_counts() -> None:
    assert await compile_s(Client(2.0, 3.0), []) == 3.0


async def test_nothing_compiled_is_no_phase() -> None:
    assert await compile_s(Client(0.0), []) is None


async def test_the_method_that_is_asked_for_exists() -> None:
    client = Client(1.0)
    await compile_s(client, [])
    assert all(hasattr(CompileTime, method) for method in client.asked)


def test_vllms_own_figure_comes_before_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    utils = pytest.importorskip("torch._dynamo.utils")
    monkeypatch.setattr(
        utils, "compilation_time_metrics", {"fullgraph_capture": [4.0, 1.0], "gc": [9.0]}
    )
    worker = CompileTime()
    worker.compilation_config = SimpleNamespace(compilation_time=7.0)
    assert worker.tierserve_compile_s() == 7.0
    worker.compilation_config = SimpleNamespace(compilation_time=0.0)
    assert worker.tierserve_compile_s() == 5.0
