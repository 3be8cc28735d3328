"""The Python of vLLM's engine, started when the replica's start begins.

vLLM starts its engine in a process of its own once the replica has imported vLLM and made up its
configuration, and that process then imports vLLM for as long again. Here it is started first, and
imports while the replica does. In order: `EarlyEngine.start`, `EarlyEngine.taken` around vLLM's own
start of the engine, and `EarlyEngine.end`, whatever has happened.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any

from serve_app.engine.vllm.cpu import computes_on_cpu, variables_of_engine
from serve_app.engine.vllm.patches.patch import Patch, replace
from serve_app.prestarted.process import PrestartedProcess
from serve_app.prestarted.python import PrestartedPython

log = logging.getLogger(__name__)

PREPARE = f"{__name__}:import_ahead"
# What is set between the two starts and no reason to begin again. vLLM and Ray read theirs when
# they need them; `AITER_` is for AMD's GPUs; OpenCV, which only the replica imports, puts its own
# folder into `LD_LIBRARY_PATH`.
READ_LATER = (
    *("VLLM_", "RAY_ADDRESS", "LOCAL_WORLD_SIZE", "NUMEXPR_MAX_THREADS"),
    *("AITER_", "LD_LIBRARY_PATH"),
)


@dataclass(slots=True)
class EarlyEngine:
    """`python` until it is the engine's."""

    python: PrestartedPython | None

    @classmethod
    def start(cls) -> "EarlyEngine":
        """All that the engine takes from its environment must be set; what vLLM adds to it is set
        here. Only where vLLM computes on the CPU: nobody has tried it on a GPU yet."""
        if not computes_on_cpu():
            return cls(None)
        os.environ.update(variables_of_engine(os.environ))
        try:
            return cls(PrestartedPython.start(PREPARE))
        except OSError as error:
            log.warning(
                "the engine's process is started later",
                extra={"phase": "start", "error": str(error)},
            )
            return cls(None)

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """The first process that vLLM's engine manager starts in this block is this one. Where
        that cannot be patched, the engine's process is started as vLLM does."""
        if self.python is None:
            yield
            return
        from vllm.v1.engine import utils

        module: Any = utils
        current = getattr(module, _CONTEXT, None)
        PATCH.install(self)
        try:
            yield
        finally:
            if current is not None:
                setattr(module, _CONTEXT, current)

    def take(self) -> PrestartedPython | None:
        """The Python, once; None where it has ended, and the engine must be spawned."""
        python, self.python = self.python, None
        if python is not None and python.has_ended:
            log.warning("the engine's process has ended early", extra={"phase": "start"})
            python.end()
            return None
        return python

    def end(self) -> None:
        """The engine has started, or never will."""
        if (python := self.take()) is not None:
            python.end()


def import_ahead() -> None:
    """In the early process: what vLLM 0.32 imports in its engine's before it looks at a model, in
    the same order. Our patches, which are a plug-in, come before the scheduler and the workers,
    which take names that are replaced."""
    import vllm.v1.engine.core
    from vllm.plugins import load_general_plugins

    load_general_plugins()
    import vllm.v1.core.sched.scheduler
    import vllm.v1.executor.uniproc_executor
    import vllm.v1.worker.cpu_worker  # noqa: F401


class _EngineContext:
    """`context`, but for its first process. An engine on one GPU has no other."""

    def __init__(self, early: EarlyEngine, context: Any) -> None:
        self._early = early
        self._context = context

    def Process(self, **options: Any) -> BaseProcess:
        python = self._early.take()
        if python is None:
            return self._context.Process(**options)
        return PrestartedProcess(python, READ_LATER, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


def _install(early: EarlyEngine) -> None:
    from vllm.v1.engine import utils

    def make(current: Callable[[], Any]) -> Callable[[], _EngineContext]:
        return lambda: _EngineContext(early, current())

    replace(utils, _CONTEXT, make)


_CONTEXT = "get_mp_context"
PATCH = Patch(
    name="early_engine",
    versions=">=0.32,<0.33",
    upstream="vllm/v1/engine/utils.py, CoreEngineProcManager.__init__",
    remove_when="vLLM starts its engine's process before it imports what that process needs, or "
    "takes a process that is there",
    apply=_install,
    replaces=(f"vllm.v1.engine.utils:{_CONTEXT}",),
)
