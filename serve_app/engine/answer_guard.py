"""Stands between vLLM's handlers and its engine, and sees that every request gets an answer.

It lets no grammar through that the sandbox has not compiled, and chooses how a request is run: as
one call of the engine, as several side by side, or as a vote; each is a `GuardedCall`.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from serve_app.core.generation import GENERATION, Generation, SequenceFacts
from serve_app.core.reasoning.answer_policy import AnswerPolicy
from serve_app.core.reasoning.trace import ThoughtMarks
from serve_app.engine.grammar.checked_start import begin_reply, refuse_start
from serve_app.engine.grammar.structure import (
    EndTokens,
    StructureBinder,
)
from serve_app.engine.guarded_call import GuardedCall
from serve_app.engine.journaled import JournaledEngine
from serve_app.engine.paired import as_stream, directly
from serve_app.engine.sequence_seeds import keep_room_for_indices
from serve_app.engine.side_by_side import side_by_side, single_params
from serve_app.engine.vllm.first_tokens import FirstTokens
from serve_app.engine.voting import side_by_side_vote
from serve_app.errors import RequestError

if TYPE_CHECKING:
    from serve_app.engine.vllm.types import (
        EnginePrompt,
        RepetitionDetectionParams,
        RequestOutput,
        SamplingParams,
    )

    Outputs = AsyncGenerator[RequestOutput, None]


@dataclass(frozen=True, slots=True)
class AnswerGuard:
    """`generate` is the engine's own. `marks` is None for a model that does not think,
    `repetition` what the engine is to look for, `eos` its end of an answer."""

    generate: "Callable[..., Outputs]"
    marks: ThoughtMarks | None
    eos: int | None
    max_model_len: int
    repetition: "RepetitionDetectionParams"
    binder: StructureBinder
    decode: Callable[[Sequence[int]], str]
    # Where somebody follows which prompts are read.
    first_tokens: FirstTokens | None = None
    # `generate` for requests with a journal; None where this engine cannot go on with one.
    journaled: JournaledEngine | None = None
    # The ids with which a trial answer begins.
    trial_opener: tuple[int, ...] = ()

    def __call__(
        self, prompt: "EnginePrompt", params: "SamplingParams", request_id: str, **options: Any
    ) -> "Outputs":
        """As AsyncLLM.generate. What no request of the edge stands behind passes unchanged, but for
        a grammar, which is bound by its checked form."""
        keep_room_for_indices(params)
        generation = GENERATION.get()
        if generation is None:
            return self._bound(prompt, params, request_id, options)
        if generation.stop_repetition and params.repetition_detection is None:
            params.repetition_detection = self.repetition
        policy = generation.policy
        if policy is not None and policy.policy is AnswerPolicy.VOTE and params.n == 1:
            call = partial(self._call, generation, prompt, options=options)
            return side_by_side_vote(
                generation, policy.samples, params, request_id, call, self.decode
            )
        if policy is not None and policy.policy is AnswerPolicy.PAIR and params.n == 1:
            alone, streamed, name = directly(generation), as_stream(params), f"{request_id}-d"
            direct = partial(self._call, alone, prompt, streamed, name, options, first=False)
            return self._call(generation, prompt, params, request_id, options, direct=direct)
        if params.n == 1 or generation.close_reasoning is None:
            return self._call(generation, prompt, params, request_id, options)
        calls = [
            self._call(
                generation, prompt, single, f"{request_id}-{index}", options, first=not index
            )
            for index, single in enumerate(single_params(params))
        ]
        return side_by_side(calls, streamed=params.output_kind.name == "DELTA")

    def _call(
        self,
        generation: Generation,
        prompt: "EnginePrompt",
        params: "SamplingParams",
        request_id: str,
        options: dict[str, Any],
        *,
        first: bool = True,
        facts: dict[int, SequenceFacts] | None = None,
        direct: "Callable[..., Outputs] | None" = None,
    ) -> "Outputs":
        """`first`: none of the request's sequences has had the engine read this prompt; `facts`:
        where its sequences are put if not among the request's; `direct` begins the direct answer
        of a pair."""
        call = GuardedCall(self, generation.plan, prompt, params, request_id, {**options}, first)
        call.direct = direct
        call.enter(generation, generation.sequences if facts is None else facts)
        return call.run()

    async def bind(self, params: "SamplingParams") -> EndTokens:
        """Bind the generation to what was checked of its grammar, and say what it takes to end it.
        Raises RequestError, or ends the request where its reply has not begun."""
        if params.structured_outputs is None:
            await begin_reply()
            return EndTokens()
        generation = GENERATION.get()
        field = None if generation is None else generation.structure_field
        try:
            bound, end_tokens = await self.binder.bind(params.structured_outputs, field)
        except RequestError as error:
            refuse_start(error)
            raise
        params.structured_outputs = bound
        await begin_reply()
        return end_tokens

    async def _bound(
        self,
        prompt: "EnginePrompt",
        params: "SamplingParams",
        request_id: str,
        options: dict[str, Any],
    ) -> "Outputs":
        await self.bind(params)
        async with aclosing(self.generate(prompt, params, request_id, **options)) as results:
            async for result in results:
                yield result
