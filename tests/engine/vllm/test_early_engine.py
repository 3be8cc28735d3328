"""Which process becomes the engine's Python that was started early, and what is left of the others.

That a whole engine starts in it is shown by every test with a real one.
"""

import os
import sys
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from types import ModuleType, SimpleNamespace
from typing import Any

import psutil
import pytest

from serve_app.engine.vllm import early_engine
from serve_app.engine.vllm.cpu import variables_of_engine
from serve_app.engine.vllm.early_engine import EarlyEngine
from serve_app.engine.vllm.patches.patch import outcomes_in
from serve_app.prestarted.process import PrestartedProcess
from serve_app.prestarted.python import PrestartedPython

UTILS = "vllm.v1.engine.utils"


@pytest.fixture(autouse=True)
def vllm(monkeypatch: pytest.MonkeyPatch) -> Any:
    """In place of the real one, which takes seconds to import: the module that starts engines."""
    utils: Any = ModuleType(UTILS)
    utils.get_mp_context = lambda: get_context("spawn")
    root: Any = ModuleType("vllm")
    root.__version__ = "0.32.0+cpu"
    for name, module in (
        ("vllm", root),
        ("vllm.v1", ModuleType("vllm.v1")),
        ("vllm.v1.engine", SimpleNamespace(utils=utils)),
        (UTILS, utils),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    return root


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> EarlyEngine:
    """With nothing to import, in an environment that stays as it is."""
    monkeypatch.setattr(early_engine, "PREPARE", "gc:collect")
    monkeypatch.setattr(early_engine, "variables_of_engine", lambda _: {})
    return EarlyEngine.start()


def engines_context() -> Any:
    """What vLLM's engine manager starts its processes with."""
    utils: Any = sys.modules[UTILS]
    return utils.get_mp_context()


def test_the_first_process_of_the_engine_manager_is_the_early_one(started: EarlyEngine) -> None:
    python = started.python
    assert python is not None
    with started.taken():
        contexts: list[Any] = [engines_context() for _ in range(2)]
        first, second = (context.Process(target=print) for context in contexts)
        assert contexts[0].SimpleQueue
    assert isinstance(first, PrestartedProcess)
    assert first.python is python
    assert isinstance(second, BaseProcess)
    assert not isinstance(second, PrestartedProcess)
    assert not isinstance(engines_context(), early_engine._EngineContext)
    # It is the engine's now, and ends with it.
    started.end()
    assert psutil.pid_exists(python.pid)
    python.end()


def test_one_that_no_engine_took_is_ended(started: EarlyEngine) -> None:
    assert started.python is not None
    pid = started.python.pid
    started.end()
    assert not psutil.pid_exists(pid)


def test_the_engine_is_spawned_where_the_early_process_has_ended(
    monkeypatch: pytest.MonkeyPatch, started: EarlyEngine
) -> None:
    started.end()
    monkeypatch.setattr(early_engine, "PREPARE", "not_a_module:prepare")
    early = EarlyEngine.start()
    assert early.python is not None
    os.waitid(os.P_PID, early.python.pid, os.WEXITED | os.WNOWAIT)
    with early.taken():
        context: Any = engines_context()
        assert not isinstance(context.Process(target=print), PrestartedProcess)
    early.end()


def test_on_a_gpu_the_engine_starts_as_vllm_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early_engine, "computes_on_cpu", lambda: False)
    early = EarlyEngine.start()
    assert early.python is None
    with early.taken():
        assert not isinstance(engines_context(), early_engine._EngineContext)
    early.end()


def test_an_engine_starts_without_it_where_no_process_can_be_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(_modules: object) -> PrestartedPython:
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(early_engine, "PrestartedPython", SimpleNamespace(start=refused))
    monkeypatch.setattr(early_engine, "variables_of_engine", lambda _: {})
    assert EarlyEngine.start().python is None


def test_the_engine_is_spawned_where_vllm_cannot_be_patched(started: EarlyEngine) -> None:
    utils: Any = sys.modules[UTILS]
    del utils.get_mp_context
    with started.taken():
        assert not hasattr(utils, "get_mp_context")
    assert outcomes_in(sys.modules["vllm"]) == {"early_engine": False}
    started.end()


def test_openmp_is_preloaded_once() -> None:
    assert variables_of_engine({"LD_PRELOAD": "/libiomp5.so"}).keys() == {
        "TORCHINDUCTOR_COMPILE_THREADS",
        "TORCHINDUCTOR_CPP_DYNAMIC_THREADS",
    }
