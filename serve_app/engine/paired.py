"""A direct answer beside the reasoning of the same request: once a trial answer of the reasoning
says the same, the reasoning ends, and the direct answer is the one that the client gets.

Nothing is generated behind such an end: the direct answer stands in for the engine there. Where the
two differ, the reasoning goes on to its own end and answer.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from serve_app.core.generation import Generation, SequenceFacts
from serve_app.core.reasoning.pair import is_confirmed
from serve_app.engine.trial_answers import TrialAnswers, end_unneeded
from serve_app.engine.voting import Sample, value_of

if TYPE_CHECKING:
    from serve_app.engine.vllm.types import RequestOutput, SamplingParams

    Outputs = AsyncGenerator[RequestOutput, None]

# Why reasoning ends that agrees with the direct answer.
PAIR = "pair"


def directly(generation: Generation) -> Generation:
    """What a direct answer to the same request is made for: as much of it as concerns one that no
    client sees. What it does is in no journal, and its time is the reasoning's."""
    plan = generation.plan
    return replace(
        generation,
        plan=None if plan is None else replace(plan, enabled=False),
        sequences={},
        journal=None,
        close_reasoning=None,
        time=None,
        policy=None,
    )


@dataclass(slots=True)
class Pair:
    """`direct` begins the direct answer, as a stream, and puts its facts where it is given. It is
    begun at the reasoning's first result, so that the engine has the prompt in its prefix cache; no
    trial is asked for before it is there."""

    trials: TrialAnswers
    generation: Generation
    direct: "Callable[[dict[int, SequenceFacts]], Outputs]"
    decode: Callable[[Sequence[int]], str]
    value: str | None = None
    _sample: Sample | None = None
    _running: "asyncio.Task[None] | None" = None
    _confirmed: bool = False
    _ended: bool = False

    def __post_init__(self) -> None:
        self.trials.enough = lambda values: is_confirmed(self.value, values)
        self.trials.reason = PAIR

    def decide(self, written: Sequence[int]) -> str | None:
        """As TrialAnswers. Raises what the direct answer has raised."""
        if self._running is None:
            self._begin()
            return None
        if not self._running.done():
            return None
        self._running.result()
        if self.value is None:
            return None
        reason = self.trials.decide(written)
        self._confirmed = reason is not None
        return reason

    async def close(self) -> None:
        """The reasoning has ended."""
        if self._running is not None:
            # Before anything is waited for, which may be cancelled.
            self._running.cancel()
        await self.trials.close()
        if self._running is not None and not self._ended:
            self._ended = True
            await end_unneeded(self._running, self.trials.request_id)

    def take_answer(self, left_tokens: int) -> "Callable[..., Outputs] | None":
        """Once: the direct answer in the place of the engine's `generate`, if it is confirmed and
        no longer than what the reasoning has left."""
        sample, confirmed = self._sample, self._confirmed
        self._confirmed = False
        if not confirmed or sample is None or sample.facts.tokens > left_tokens:
            return None
        return self._answer

    def _begin(self) -> None:
        found: dict[int, SequenceFacts] = {}
        results = self.direct(found)
        self._sample = Sample(found[0])
        self.generation.direct = found[0]
        self.generation.unseen.append(found[0])
        self._running = asyncio.ensure_future(self._run(results, self._sample))

    async def _run(self, results: "Outputs", sample: Sample) -> None:
        async with aclosing(results):
            async for result in results:
                sample.results.append(result)
        if sample.whole:
            self.value = value_of(sample, sample.answer(self.decode), exact=False)

    async def _answer(self, *_: Any, **__: Any) -> "Outputs":
        """As one result. Its tokens are the client's from now on."""
        sample, unseen = self._sample, self.generation.unseen
        assert sample is not None
        unseen[:] = [facts for facts in unseen if facts is not sample.facts]
        whole, *others = sample.results
        for result in others:
            whole.add(result, aggregate=True)
        yield whole


def as_stream(params: "SamplingParams") -> "SamplingParams":
    """The same parameters, for results as they come."""
    params = params.clone()
    params.output_kind = type(params.output_kind)["DELTA"]
    return params
