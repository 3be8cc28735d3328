"""A compiled graph that was kept is loaded on the CPU, too.

vLLM 0.32 loads it and then calls a method that only the graphs of its own compiler have. On the CPU
it has torch's compile the graph, as a whole, and that call fails: vLLM says `'function' object has
no attribute 'finalize_loading'` and compiles again, at each start.

Which graph is loaded stays vLLM's choice, by a key of its version, the configuration and torch's
sources, and by the sources that were traced. Neither that key nor torch's has what the generated
code was made for: one CPU's instructions (`-march=native`) and, where it is one, the number of
threads. So they are added to the key: a folder that several machines share has a graph for each
kind of CPU.
"""

from collections.abc import Callable
from typing import Any

from serve_app.engine.vllm.cpu import instruction_set
from serve_app.engine.vllm.patches.patch import Patch, PatchError, replace

METHOD = "finalize_loading"


def keyed_by_cpu(key_factors: Callable[[Any], list[Any]]) -> Callable[[Any], list[Any]]:
    """What vLLM's key of a kept graph is made of, and what this process computes on."""

    def key_factors_with_cpu(config: Any) -> list[Any]:
        import torch

        return [*key_factors(config), instruction_set(), torch.get_num_threads()]

    return key_factors_with_cpu


def finalize(_graph: Any, _config: Any) -> None:
    """Nothing is left to do: torch's graph is whole when it is loaded. Raises PatchError, upon
    which vLLM compiles, where torch keeps the weights in the graph (`max_autotune`): they are not
    in the key."""
    from torch._inductor import config

    if config.freezing:
        raise PatchError("its weights are a part of it")


def _install() -> None:
    from torch._dynamo.aot_compile_types import BundledAOTAutogradSerializableCallable
    from vllm.compilation import caching

    # First, so that nothing is loaded by a key without it.
    replace(caching, "aot_compile_hash_factors", keyed_by_cpu)
    add_method(BundledAOTAutogradSerializableCallable)


def add_method(graphs: type) -> None:
    """To torch's class, unless it has it: as vLLM would call it then."""
    if not hasattr(graphs, METHOD):
        setattr(graphs, METHOD, finalize)


PATCH = Patch(
    name="compiled_graph",
    versions=">=0.32,<0.33",
    # No report of it was found; this pull request, closed unmerged, asks for the method first, on
    # another path.
    upstream="https://github.com/vllm-project/vllm/pull/47663",
    remove_when="a second compiled start on the CPU logs no load failure without it, and the key "
    "has the CPU's instructions",
    apply=_install,
    replaces=("vllm.compilation.caching:aot_compile_hash_factors",),
    relies_on=("vllm.compilation.decorators:_try_load_aot_compiled_fn",),
)
