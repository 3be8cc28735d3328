"""What vLLM's worker, in the engine's process, reports by a class that vLLM mixes into it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

_EXTENSION = "--worker-extension-cls"
# The step of ahead-of-time compilation that all others are inside of.
_TORCH_STEP = "fullgraph_capture"


class WorkerExtension:
    """vLLM names what is added to its worker, so the names must be no one else's."""

    compilation_config: Any

    def tierserve_compile_s(self) -> float:
        """Seconds of compilation: vLLM's figure, or torch's where vLLM keeps none, as on the CPU.
        0.0 when nothing was compiled."""
        from torch._dynamo.utils import compilation_time_metrics

        torch_s = sum(compilation_time_metrics.get(_TORCH_STEP, ()))
        return float(self.compilation_config.compilation_time or torch_s)

    def tierserve_patches(self) -> Mapping[str, bool]:
        """Of each patch that was tried in this process, whether it is installed."""
        from serve_app.engine.vllm.patches.registry import outcomes

        return outcomes()


def with_worker_extension(args: Sequence[str]) -> list[str]:
    """The engine's arguments with our addition to its worker, unless there is another one."""
    if _EXTENSION in args:
        return list(args)
    return [*args, _EXTENSION, f"{WorkerExtension.__module__}.{WorkerExtension.__name__}"]


async def compile_s(client: "AsyncLLM", args: Sequence[str]) -> float | None:
    """Seconds that the engine's slowest worker compiled; None where it did not, or is not known."""
    if _EXTENSION in args:
        return None
    times_s: list[float] = await client.collective_rpc("tierserve_compile_s")
    return max(times_s) or None


async def patches_in_engine(client: "AsyncLLM", args: Sequence[str]) -> Mapping[str, bool] | None:
    """Of each patch, whether it is installed in the engine's process; None: unknown."""
    if _EXTENSION in args:
        return None
    workers: list[Mapping[str, bool]] = await client.collective_rpc("tierserve_patches")
    return {name: all(worker.get(name, False) for worker in workers) for name in workers[0]}
