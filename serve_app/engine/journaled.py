"""The engine's own `generate`, whose results are recorded in a journal, and which goes on where a
journal ends.

What another replica's engine has done for a request is given again, result for result, in the
engine's place; then the engine goes on behind those ids. Whoever stands above (the answer guard,
vLLM's handlers) sees the same results as there. Knows vLLM's objects by their attributes only.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from serve_app.core.replay.journal import EngineStep, Journal, TokenLogprobs
from serve_app.engine.side_by_side import Stream, merged
from serve_app.engine.vllm.resumption import resume_behind

if TYPE_CHECKING:
    from serve_app.engine.vllm.types import (
        CompletionOutput,
        EnginePrompt,
        RequestOutput,
        SamplingParams,
    )

    Outputs = AsyncGenerator[RequestOutput, None]

# How the engine ends what it was asked for when it is ended itself, as by SIGTERM: nobody here asks
# it to. It has not finished then, and another engine goes on.
ABORTED = "abort"
# A long journal is replayed in so many steps at a time, for others to have their turn.
STEPS_AT_A_TIME = 32


class JournalMismatchError(RuntimeError):
    """A journal holds steps that no call of the request can have made."""


class EngineAbortedError(RuntimeError):
    """The engine has given up a request, and lives on."""


class PastResults(Protocol):
    """The results of one call, made anew from what a journal has of them."""

    def result(self, step: EngineStep, *, finished: bool) -> "RequestOutput":
        """The result that has become this step; they come in their order."""
        ...


@dataclass(frozen=True, slots=True)
class EngineCall:
    """What the engine is asked with."""

    prompt: "EnginePrompt"
    params: "SamplingParams"
    request_id: str
    options: dict[str, Any]


@dataclass(frozen=True, slots=True)
class JournaledEngine:
    """`generate` is the engine's own; `past_results` makes its results anew. A sequence ends where
    prompt and output have `max_model_len` tokens. `until_dead` is awaited where the engine is about
    to end, and raises once it has; it returns if it does not."""

    generate: "Callable[..., Outputs]"
    past_results: Callable[[EngineCall], PastResults]
    max_model_len: int
    until_dead: Callable[[], Awaitable[None]]

    def __call__(
        self,
        journal: Journal,
        number: int,
        prompt: "EnginePrompt",
        params: "SamplingParams",
        request_id: str,
        **options: Any,
    ) -> "Outputs":
        """As `generate`, for the request's call of this number. Raises JournalMismatchError, or
        ReplayOrderError, for the journal of another request."""
        call = EngineCall(prompt, params, request_id, options)
        past = list(journal.past_of(number))
        if not past:
            return self._recorded(journal, number, call)
        return _Resumed(self, journal, number, call, past).run()

    async def _recorded(self, journal: Journal, number: int, call: EngineCall) -> "Outputs":
        recorder = _Recorder(journal, number)
        outputs = self.generate(call.prompt, call.params, call.request_id, **call.options)
        async with aclosing(outputs) as results:
            async for result in results:
                await self.refuse_aborted(result)
                await journal.order.turn()
                with journal.order:
                    recorder.record(result)
                    yield result

    async def refuse_aborted(self, result: "RequestOutput") -> None:
        """Raise where the engine has not come to a result's end."""
        if any(output.finish_reason == ABORTED for output in result.outputs):
            await self.until_dead()
            raise EngineAbortedError("the engine has aborted a request that nobody has ended")


@dataclass(slots=True)
class _Recorder:
    journal: Journal
    number: int
    _begun: set[int] = field(default_factory=set[int])

    def record(self, result: "RequestOutput") -> None:
        for output in result.outputs:
            of_prompt = (0, 0)
            if output.index not in self._begun:
                self._begun.add(output.index)
                of_prompt = (result.num_cached_tokens or 0, result.num_cache_creation_tokens or 0)
            self.journal.record(
                EngineStep(
                    self.number,
                    output.index,
                    tuple(output.token_ids),
                    output.finish_reason,
                    output.stop_reason,
                    *of_prompt,
                    _logprobs_of(output),
                )
            )


def _logprobs_of(output: "CompletionOutput") -> tuple[TokenLogprobs, ...]:
    if not output.logprobs:
        return ()
    return tuple(
        tuple((token, each.logprob) for token, each in of_token.items())
        for of_token in output.logprobs
        if of_token is not None
    )


@dataclass(slots=True)
class _Resumed:
    """One call of which another replica has had results."""

    engine: JournaledEngine
    journal: Journal
    number: int
    call: EngineCall
    past: Sequence[tuple[int, EngineStep]]
    ids: list[list[int]] = field(init=False)
    ended: set[int] = field(default_factory=set[int])
    # As they were counted when the prompt was read for the first time.
    cached_tokens: int = 0
    cache_written_tokens: int = 0

    def __post_init__(self) -> None:
        self.ids = [[] for _ in range(self.call.params.n)]

    async def run(self) -> "Outputs":
        self._read_past()
        past_results = self.engine.past_results(self.call)
        open_sequences = [index for index in range(len(self.ids)) if index not in self.ended]
        # The engine reads the prompt and the past while the past is given again.
        streams = [Stream(index, self._go_on(index, past_results)) for index in open_sequences]
        try:
            for part in (self._again(past_results), self._new(streams)):
                async with aclosing(part) as results:
                    async for result in results:
                        yield result
        finally:
            for stream in streams:
                await stream.close()

    def _read_past(self) -> None:
        for _, step in self.past:
            if not 0 <= step.index < len(self.ids) or step.index in self.ended:
                raise JournalMismatchError(f"the journal has a step that cannot be: {step}")
            self.ids[step.index] += step.token_ids
            self.cached_tokens = self.cached_tokens or step.cached_tokens
            self.cache_written_tokens = self.cache_written_tokens or step.cache_written_tokens
            if step.finish_reason is not None:
                self.ended.add(step.index)

    async def _again(self, past_results: PastResults) -> "Outputs":
        ended = 0
        for count, (position, step) in enumerate(self.past, 1):
            ended += step.finish_reason is not None
            await self.journal.order.turn(position)
            with self.journal.order:
                result = past_results.result(step, finished=ended == len(self.ids))
                yield self._counted(result)
            if count % STEPS_AT_A_TIME == 0:
                await asyncio.sleep(0)

    async def _new(self, streams: Sequence[Stream]) -> "Outputs":
        """What the sequences get from now on, as it comes."""
        recorder = _Recorder(self.journal, self.number, set(range(len(self.ids))))
        async for stream, result in merged(streams):
            await self.engine.refuse_aborted(result)
            for output in result.outputs:
                output.index = stream.index
                if output.finish_reason is not None:
                    self.ended.add(stream.index)
            result.finished = len(self.ended) == len(self.ids)
            await self.journal.order.turn()
            with self.journal.order:
                recorder.record(result)
                yield self._counted(result)

    def _counted(self, result: "RequestOutput") -> "RequestOutput":
        result.num_cached_tokens = self.cached_tokens
        result.num_cache_creation_tokens = self.cache_written_tokens
        return result

    def _go_on(self, index: int, past_results: PastResults) -> "Outputs":
        """One sequence, behind what it has."""
        params, ids = self.call.params.clone(), self.ids[index]
        if params.seed is not None:
            # As vLLM seeds the sequences of one request.
            params.seed += index
        params.n = 1
        if ids:
            # The first result of the past has had them.
            params.prompt_logprobs = None
            resume_behind(params, ids)
        limit = self.engine.max_model_len - len(self.call.prompt["prompt_token_ids"])
        assert params.max_tokens is not None
        if ids and len(ids) >= min(params.max_tokens, limit):
            return _at_its_limit(EngineStep(self.number, index, (), "length"), past_results)
        call = self.call
        return self.engine.generate(call.prompt, params, call.request_id, **call.options)


async def _at_its_limit(step: EngineStep, past_results: PastResults) -> "Outputs":
    """A sequence that has all that it may have; vLLM would give it one token more."""
    yield past_results.result(step, finished=True)
