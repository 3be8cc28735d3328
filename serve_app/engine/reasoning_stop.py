"""The engine's `generate`, ended inside a sequence's reasoning when somebody outside decides so.

The decision becomes a result of the engine's own kind, below the journal: it is recorded there, and
a replay has it in its place without asking anybody again. Knows vLLM's objects by their attributes
only.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from serve_app.core.reasoning.trace import ThoughtMarks
from serve_app.engine.vllm.resumption import resumed_ids

if TYPE_CHECKING:
    from serve_app.engine.vllm.types import EnginePrompt, RequestOutput, SamplingParams

    Outputs = AsyncGenerator[RequestOutput, None]

Decide = Callable[[Sequence[int]], str | None]
# The finish reason of a call that was ended so; its stop reason says by whom.
CLOSED = "closed"
# What a tokenizer writes for the bytes of a sign that is not whole.
_PART_OF_SIGN = "\ufffd"


@dataclass(frozen=True, slots=True)
class ReasoningStop:
    """`decide` is asked with the sequence's ids so far, and says why to close the reasoning now, or
    None. It is not asked from `budget_tokens` on, where the engine closes it by itself."""

    decide: Decide
    marks: ThoughtMarks
    budget_tokens: int
    decode: Callable[[Sequence[int]], str]
    # Once the reasoning has ended by itself, and once its call of the engine has, however it did.
    ended: Callable[[], Awaitable[None]] | None = None

    def closes(self, ids: Sequence[int], max_tokens: int) -> str | None:
        """Why a sequence is ended behind these ids; it keeps room for what closes its reasoning and
        one token of an answer."""
        if len(ids) >= self.budget_tokens or max_tokens - len(ids) <= len(self.marks.closing):
            return None
        return self.decide(ids)


async def stopping_reasoning(
    generate: "Callable[..., Outputs]",
    stop: ReasoningStop,
    prompt: "EnginePrompt",
    params: "SamplingParams",
    request_id: str,
    **options: Any,
) -> "Outputs":
    """As `generate`, of one sequence, until `stop` closes its reasoning."""
    until = partial(_until_closed, stop=stop)
    outputs = result_by_result(generate, until, prompt, params, request_id, **options)
    try:
        async with aclosing(outputs) as results:
            async for result in results:
                yield result
    finally:
        if stop.ended is not None:
            await stop.ended()


async def result_by_result(
    generate: "Callable[..., Outputs]",
    until: "Callable[[Outputs, SamplingParams], Outputs]",
    prompt: "EnginePrompt",
    params: "SamplingParams",
    request_id: str,
    **options: Any,
) -> "Outputs":
    """As `generate`, of one sequence, whose results `until` may end. A whole answer is put together
    here: of one that comes in one result nobody could see how far it is."""
    streamed = params.output_kind.name == "DELTA"
    if not streamed:
        params = params.clone()
        params.output_kind = type(params.output_kind)["DELTA"]
    whole: RequestOutput | None = None
    outputs = until(generate(prompt, params, request_id, **options), params)
    async with aclosing(outputs) as results:
        async for result in results:
            if streamed:
                yield result
            elif whole is None:
                whole = result
            else:
                whole.add(result, aggregate=True)
    if whole is not None:
        yield whole


def first_reason(*deciders: Decide) -> Decide:
    """All of them asked as one; the first reason counts."""

    def decide(ids: Sequence[int]) -> str | None:
        reasons = [decider(ids) for decider in deciders]
        return next((reason for reason in reasons if reason is not None), None)

    return decide


async def _until_closed(
    outputs: "Outputs", params: "SamplingParams", *, stop: ReasoningStop
) -> "Outputs":
    ids, limit = list(resumed_ids(params)), params.max_tokens
    assert limit is not None
    is_open = stop.marks.end not in ids
    async with aclosing(outputs) as results:
        async for result in results:
            reason = None
            if is_open and result.outputs:
                (output,) = result.outputs
                ids += output.token_ids
                is_open = stop.marks.end not in output.token_ids
                if not is_open and stop.ended is not None:
                    await stop.ended()
                if is_open and output.finish_reason is None:
                    reason = stop.closes(ids, limit)
            if reason is None:
                yield result
                continue
            # The engine goes on until it is ended, and this result may wait for its client.
            await results.aclose()
            if stop.ended is not None:
                await stop.ended()
            yield ended(result, CLOSED, reason, kept_back(ids, params, stop.decode))
            return


def ended(
    result: "RequestOutput", finish_reason: str, stop_reason: str | None, text: str
) -> "RequestOutput":
    """The result as its sequence's last one, for these reasons, with that text behind its own."""
    output = copy(result.outputs[0])
    output.text += text
    output.finish_reason, output.stop_reason = finish_reason, stop_reason
    result = copy(result)
    result.outputs, result.finished = [output], True
    return result


def kept_back(
    ids: Sequence[int], params: "SamplingParams", decode: Callable[[Sequence[int]], str]
) -> str:
    """The text that vLLM's detokenizer has of these ids and gives only once they have ended: the
    last signs, which may be the beginning of a stop string."""
    if not params.stop or params.include_stop_str_in_output or not params.detokenize:
        return ""
    strings = [params.stop] if isinstance(params.stop, str) else params.stop
    signs = max(map(len, strings)) - 1
    return decode(ids).rstrip(_PART_OF_SIGN)[-signs:] if signs else ""
