"""vLLM's client of its engine lets the event loop go between the outputs of two steps.

It hands over the outputs of a step without doing so where the next ones are there already. A step
that takes longer to unpack than to compute, as with 20 log probabilities of each of 32 tokens, is
always behind: the loop was blocked for up to 3 s, until the engine had finished.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from serve_app.engine.vllm.patches.patch import Patch, replace

if TYPE_CHECKING:
    from vllm.v1.engine import EngineCoreOutputs
    from vllm.v1.engine.core_client import AsyncMPClient

    GetOutput = Callable[[], Awaitable[EngineCoreOutputs]]


def yielding_between_outputs(engine_core: "AsyncMPClient") -> "GetOutput":
    """The client's `get_output_async`, which gives others a turn where an output is there."""
    get_output = engine_core.get_output_async

    async def get_output_in_turn() -> "EngineCoreOutputs":
        waiting = engine_core.outputs_queue
        if waiting is not None and not waiting.empty():
            await asyncio.sleep(0)
        return await get_output()

    return get_output_in_turn


def _install(engine_core: "AsyncMPClient") -> None:
    replace(engine_core, "get_output_async", lambda _: yielding_between_outputs(engine_core))


_CLIENT = "vllm.v1.engine.core_client:AsyncMPClient"
PATCH = Patch(
    name="output_yield",
    versions=">=0.32,<0.33",
    upstream="vllm/v1/engine/async_llm.py, AsyncLLM._run_output_handler",
    remove_when="output_handler yields to the event loop after the last slice of a step too",
    apply=_install,
    replaces=(f"{_CLIENT}.get_output_async",),
    relies_on=(f"{_CLIENT}.outputs_queue", "vllm.v1.engine.async_llm:AsyncLLM.engine_core"),
)
