"""Compilation inside an engine's start: where its results are kept, and how long it took.

vLLM compiles in the engine's process; a method added to its worker tells the time from there.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_EXTENSION = "--worker-extension-cls"
# The step of ahead-of-time compilation that all others are inside of.
_TORCH_STEP = "fullgraph_capture"


class CompileTime:
    """Mixed into vLLM's worker. It says what is added, so the name must be no one else's."""

    compilation_config: Any

    def tierserve_compile_s(self) -> float:
        """Seconds of compilation: vLLM's figure, or torch's where vLLM keeps none, as on the CPU.
        0.0 when nothing was compiled."""
        from torch._dynamo.utils import compilation_time_metrics

        torch_s = sum(compilation_time_metrics.get(_TORCH_STEP, ()))
        return float(self.compilation_config.compilation_time or torch_s)


def with_compile_time(args: Sequence[str]) -> list[str]:
    """The engine's arguments with our addition to its worker, unless there is another one."""
    if _EXTENSION in args:
        return list(args)
    return [*args, _EXTENSION, f"{CompileTime.__module__}.{CompileTime.__name__}"]


async def compile_s(client: Any, args: Sequence[str]) -> float | None:
    """Seconds that the engine's slowest worker compiled; None where it did not, or cannot tell."""
    if _EXTENSION in args:
        return None
    times_s: list[float] = await client.collective_rpc("tierserve_compile_s")
    return max(times_s) or None


def keep_compiled_in(directory: str | None) -> None:
    """Let vLLM, which is not yet imported, and torch keep compiled code below `directory`.

    Replicas may share it: torch and vLLM write each artifact under a name of its own and rename
    it. vLLM's index of a compiled graph alone, `vllm_compile_cache.py`, is written in place: a
    replica that reads it in that instant fails its start, and Serve starts it again.
    """
    if directory is None:
        return
    root = Path(directory).expanduser()
    os.environ["VLLM_CACHE_ROOT"] = str(root)
    # Where vLLM does not set it itself it is in /tmp, which a container loses.
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(root / "inductor")
