"""More threads for the engine to compile grammars in, so that none waits behind slow ones.

vLLM has one for two cores, and a grammar that it has compiled already waits there behind those that
are new.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from serve_app.engine.vllm.patches.patch import Patch, replace

if TYPE_CHECKING:
    from vllm.v1.structured_output import StructuredOutputManager

# More than the sandbox lets through at once, which are few.
COMPILERS = 8


def compiling_side_by_side(initialize: Callable[..., None]) -> Callable[..., None]:
    """vLLM's StructuredOutputManager, which is initialized so, with these threads."""

    def initialize_with_compilers(
        manager: "StructuredOutputManager", *args: Any, **options: Any
    ) -> None:
        initialize(manager, *args, **options)
        own = getattr(manager, "executor", None)
        if own is not None:
            # It has started no thread yet.
            own.shutdown(wait=False)
            manager.executor = ThreadPoolExecutor(COMPILERS, thread_name_prefix="grammar")

    return initialize_with_compilers


def _install() -> None:
    from vllm.v1.structured_output import StructuredOutputManager

    replace(StructuredOutputManager, "__init__", compiling_side_by_side)


_MANAGER = "vllm.v1.structured_output:StructuredOutputManager"
PATCH = Patch(
    name="grammar_compilers",
    versions=">=0.32,<0.33",
    upstream="vllm/v1/structured_output/__init__.py, StructuredOutputManager.__init__",
    remove_when="a compiled grammar no longer waits for others, or the number of threads is an "
    "argument of the engine",
    apply=_install,
    replaces=(f"{_MANAGER}.__init__",),
    relies_on=(f"{_MANAGER}.executor",),
)
