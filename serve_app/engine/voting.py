"""Several samples of one answer, side by side: once a vote is decided the client gets one of them.

Their results are kept until then, so that a stream's client has them as the engine gave them.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from serve_app.core.generation import Generation, SequenceFacts
from serve_app.core.reasoning.answer_value import answer_value, exact_value, final_answer
from serve_app.core.reasoning.vote import ABSTENTIONS, Ballot, verdict
from serve_app.engine.answer_text import answer_at
from serve_app.engine.grammar.structure import is_optional
from serve_app.engine.side_by_side import Stream, single_params

if TYPE_CHECKING:
    from serve_app.engine.vllm.types import RequestOutput, SamplingParams

    Outputs = AsyncGenerator[RequestOutput, None]

# The chosen sample's are there at once, and others have their turn behind so many of them.
RESULTS_AT_A_TIME = 32


@dataclass(slots=True)
class Sample:
    """One of them: its facts, and its results until now."""

    facts: SequenceFacts
    results: "list[RequestOutput]" = field(default_factory=list)

    @property
    def in_reasoning(self) -> bool:
        """Whether its reasoning is open, and nothing of it an answer."""
        thought = self.facts.thought
        return thought is not None and thought.is_open

    @property
    def whole(self) -> bool:
        """Whether it has come to its own end."""
        return not (self.facts.cut or self.facts.repeated or self.in_reasoning)

    def answer(self, decode: Callable[[Sequence[int]], str]) -> str:
        """The text behind its reasoning."""
        outputs = [output for result in self.results for output in result.outputs]
        whole: Any = SimpleNamespace(
            token_ids=[token for output in outputs for token in output.token_ids],
            text="".join(output.text for output in outputs),
        )
        return whole.text[answer_at(whole, self.facts.thought, decode) :]


def value_of(sample: Sample, answer: str, *, exact: bool) -> str | None:
    """What it votes for: None if it has no final answer. `exact`: its form is bound, and it is
    compared in whole."""
    if sample.in_reasoning:
        return None
    if exact:
        return None if sample.facts.cut or not answer.strip() else exact_value(answer)
    content = final_answer(answer)
    # An empty box says nothing.
    return None if content is None else answer_value(content) or None


def side_by_side_vote(
    generation: Generation,
    samples: int,
    params: "SamplingParams",
    request_id: str,
    call: "Callable[..., Outputs]",
    decode: Callable[[Sequence[int]], str],
) -> "Outputs":
    """The answer of most of so many samples. `call` begins one, whose facts it puts into `facts`;
    only the `first` counts the prompt. Each is asked for as a stream, so that one that is ended has
    all its tokens counted."""
    exact = params.structured_outputs is not None and not is_optional(params)
    streamed = params.output_kind.name == "DELTA"
    params = params.clone()
    params.n = samples
    params.output_kind = type(params.output_kind)["DELTA"]
    found: dict[int, Sample] = {}
    calls: dict[int, Outputs] = {}
    for at, single in enumerate(single_params(params)):
        facts: dict[int, SequenceFacts] = {}
        name = f"{request_id}-{at}"
        calls[at] = call(params=single, request_id=name, first=not at, facts=facts)
        found[at] = Sample(facts[0])

    def value(sample: Sample) -> str | None:
        return value_of(sample, sample.answer(decode), exact=exact)

    limit = params.max_tokens
    assert limit is not None
    # What has a bound form and no value has failed: it is no answer in words.
    abstentions = None if exact else ABSTENTIONS
    results = voted(generation, calls, found, value, limit, abstentions)
    return results if streamed else _whole(results, generation, decode)


async def voted(
    generation: Generation,
    calls: "Mapping[int, Outputs]",
    samples: Mapping[int, Sample],
    value: Callable[[Sample], str | None],
    max_tokens: int,
    abstentions: int | None = ABSTENTIONS,
) -> "Outputs":
    """The results of the sample that is the answer; the others are ended. `generation` has all of
    them as unseen until it is decided. `abstentions`: as for `verdict`."""
    unseen = generation.unseen
    unseen += [sample.facts for sample in samples.values()]
    streams = [Stream(index, call) for index, call in calls.items()]
    left, ballots = list(streams), list[Ballot]()
    found = None
    try:
        while found is None:
            await asyncio.wait([each.next for each in left], return_when=asyncio.FIRST_COMPLETED)
            for stream in [stream for stream in left if stream.next.done()]:
                sample = samples[stream.index]
                result = stream.take()
                if result is not None:
                    sample.results.append(result)
                    continue
                left.remove(stream)
                ballots.append(Ballot(stream.index, value(sample), sample.whole))
            found = verdict(ballots, len(samples), abstentions=abstentions)
    finally:
        for stream in streams:
            await stream.close()
    chosen = samples[found.sample]
    generation.sequences[0] = chosen.facts
    unseen[:] = [facts for facts in unseen if facts is not chosen.facts]
    ended = {ballot.sample for ballot in ballots}
    generation.verdict = found
    generation.saved_tokens = sum(
        max(0, max_tokens - sample.facts.tokens)
        for index, sample in samples.items()
        if index not in ended
    )
    if generation.time is not None:
        # Of the others that their time has ended the client sees nothing.
        generation.time.answer_cut = chosen.facts.cut_in_time
    for number, result in enumerate(chosen.results, 1):
        yield result
        if number % RESULTS_AT_A_TIME == 0:
            await asyncio.sleep(0)


async def _whole(
    results: "Outputs", generation: Generation, decode: Callable[[Sequence[int]], str]
) -> "Outputs":
    """The chosen one's results as one."""
    whole: RequestOutput | None = None
    async with aclosing(results):
        async for result in results:
            if whole is None:
                whole = result
            else:
                whole.add(result, aggregate=True)
    if whole is None:
        return
    facts, (output,) = generation.sequences[0], whole.outputs
    facts.text = output.text
    facts.answer_at = answer_at(output, facts.thought, decode)
    yield whole
