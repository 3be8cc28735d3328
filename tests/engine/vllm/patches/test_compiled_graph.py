"""Which kept graph the CPU loads, and when, on a fake of torch."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from serve_app.engine.vllm.patches import compiled_graph
from serve_app.engine.vllm.patches.compiled_graph import METHOD, add_method, keyed_by_cpu
from serve_app.engine.vllm.patches.patch import PatchError


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Its number of threads, and whether it makes the weights a part of a graph."""
    inductor = SimpleNamespace(config=SimpleNamespace(freezing=False))
    fake = SimpleNamespace(_inductor=inductor, get_num_threads=lambda: fake.threads, threads=2)
    monkeypatch.setitem(sys.modules, "torch", fake)
    monkeypatch.setitem(sys.modules, "torch._inductor", inductor)
    return fake


def test_the_key_is_vllms_and_the_cpus(torch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """So another model or another vLLM has another graph, and so has another CPU."""

    def key(*factors: str, instructions: str = "flags : avx2", threads: int = 2) -> str:
        monkeypatch.setattr(compiled_graph, "instruction_set", lambda: instructions)
        torch.threads = threads
        return str(keyed_by_cpu(list)(factors))

    kept = key("0.32.0", "a model")
    assert key("0.32.0", "a model") == kept
    others = {
        key("0.32.1", "a model"),
        key("0.32.0", "another"),
        key("0.32.0", "a model", instructions="flags : avx2 avx512f"),
        key("0.32.0", "a model", threads=1),
    }
    assert len(others | {kept}) == 5


def test_torchs_graph_has_the_method_that_vllm_calls(torch: Any) -> None:
    class Graph:
        """Passes on what it has not itself, as torch's does."""

        def __getattr__(self, name: str) -> Any:
            return getattr(print, name)

    with pytest.raises(AttributeError):
        getattr(Graph(), METHOD)(None)
    add_method(Graph)
    getattr(Graph(), METHOD)(None)
    # vLLM says why, and compiles.
    torch._inductor.config.freezing = True
    with pytest.raises(PatchError):
        getattr(Graph(), METHOD)(None)


def test_a_method_of_torchs_own_stays() -> None:
    class Graph:
        def finalize_loading(self, config: str) -> str:
            return config

    add_method(Graph)
    assert Graph().finalize_loading("its own") == "its own"
