"""The engine's `generate`, ended where a request's time is over: with the finish reason of a limit.

As `reasoning_stop`, below the journal, and of one sequence: what stands above sees a limit that the
engine has reached, and closes JSON as it does at any other. Knows vLLM's objects by their
attributes only.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any

from serve_app.core.generation import SequenceFacts
from serve_app.core.reasoning.deadline import RunningDeadline
from serve_app.engine.reasoning_stop import ended, kept_back, result_by_result
from serve_app.engine.vllm.resumption import resumed_ids

if TYPE_CHECKING:
    from serve_app.engine.vllm.types import EnginePrompt, RequestOutput, SamplingParams

    Outputs = AsyncGenerator[RequestOutput, None]

# As the engine ends an answer at its limit of tokens.
LENGTH = "length"


def ending_in_time(
    generate: "Callable[..., Outputs]",
    time: RunningDeadline,
    decode: Callable[[Sequence[int]], str],
    facts: SequenceFacts,
    prompt: "EnginePrompt",
    params: "SamplingParams",
    request_id: str,
    **options: Any,
) -> "Outputs":
    """As `generate`, until its time is over; `facts` are its sequence's."""
    until = partial(_until_due, time=time, decode=decode, facts=facts)
    return result_by_result(generate, until, prompt, params, request_id, **options)


async def _until_due(
    outputs: "Outputs",
    params: "SamplingParams",
    *,
    time: RunningDeadline,
    decode: Callable[[Sequence[int]], str],
    facts: SequenceFacts,
) -> "Outputs":
    ids = list(resumed_ids(params))
    async with aclosing(outputs) as results:
        async for result in results:
            if not result.outputs:
                yield result
                continue
            (output,) = result.outputs
            ids += output.token_ids
            if output.finish_reason is not None or not time.is_due:
                yield result
                continue
            time.answer_cut = facts.cut_in_time = True
            # The engine goes on until it is ended, and this result may wait for its client.
            await results.aclose()
            yield ended(result, LENGTH, None, kept_back(ids, params, decode))
            return
