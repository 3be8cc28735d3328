"""One call of vLLM's handlers, made until it has an answer.

It gives each thought its budget when prompt and limit are known, follows the token ids, and goes on
where a generation has ended without an answer: inside its thought or right behind it. JSON that its
limit cuts is closed. Knows vLLM's objects by their attributes only.
"""

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from serve_app.core.generation import Generation, SequenceFacts
from serve_app.core.reasoning.answer_policy import AnswerPolicy
from serve_app.core.reasoning.budget import ThinkingPlan, thought_budget
from serve_app.core.reasoning.lean import Lean
from serve_app.core.reasoning.trace import ThoughtMarks, ThoughtTrace
from serve_app.engine.answer_text import (
    answer_at,
    in_step,
    rewrite_end,
    without_blanks,
    without_end,
)
from serve_app.engine.continuation import (
    REPETITION,
    ContinuationReason,
    Written,
    continuation_reason,
    ended_by_eos,
    next_params,
)
from serve_app.engine.grammar.open_tail import OpenTail, one_by_one, result_of
from serve_app.engine.grammar.structure import (
    CALL_BEGIN,
    CALL_END,
    is_closed_at_limit,
    is_optional,
    is_unfinished,
    may_call,
    tokens_before_call,
)
from serve_app.engine.paired import Pair
from serve_app.engine.reasoning_stop import (
    CLOSED,
    Decide,
    ReasoningStop,
    first_reason,
    stopping_reasoning,
)
from serve_app.engine.timely import ending_in_time
from serve_app.engine.trial_answers import TrialAnswers
from serve_app.engine.vllm.lean_params import lean_to_end
from serve_app.engine.vllm.stop_scope import stop_behind, stop_outside_calls

if TYPE_CHECKING:
    from serve_app.engine.answer_guard import AnswerGuard
    from serve_app.engine.vllm.types import (
        EnginePrompt,
        RequestOutput,
        SamplingParams,
    )

    Outputs = AsyncGenerator[RequestOutput, None]

# Enough for a thought that is closed, and an answer of blanks twice.
MOST_TURNS = 3


@dataclass(slots=True)
class GuardedCall:
    """`guard` has what is the engine's, the others are of one of vLLM's calls: `enter` puts its
    sequences among the request's, `run` gives what its client is sent."""

    guard: "AnswerGuard"
    plan: ThinkingPlan | None
    prompt: "EnginePrompt"
    params: "SamplingParams"
    request_id: str
    options: dict[str, Any]
    # Whether its prompt counts, as it does once where sequences run each for itself.
    counts_prompt: bool = True
    # Of each sequence in all.
    max_tokens: int = 0
    # Of those, what a thought leaves to the JSON behind it.
    reserve_tokens: int = 0
    # So many stand for good, whatever becomes of the JSON at its limit.
    safe_tokens: int = 0
    sequences: list[Written] = field(default_factory=list[Written])
    # Of JSON that is streamed, by sequence.
    tails: list[OpenTail] = field(default_factory=list[OpenTail])
    engine_ids: list[str] = field(default_factory=list[str])
    generation: Generation | None = None
    # Of its first sequence among the request's.
    first_index: int = 0
    # The number of its first call of the engine, in a request with a journal.
    first_number: int = 0
    stop: ReasoningStop | None = None
    direct: "Callable[..., Outputs] | None" = None
    pair: Pair | None = None

    def enter(self, generation: Generation, facts_by_index: dict[int, SequenceFacts]) -> None:
        """Put the sequences among these, in the order of the request's prompts, and its prompt
        among those of its client."""
        self.generation = generation
        self.engine_ids = generation.engine_ids
        if generation.cache_salt is not None:
            salt = generation.cache_salt + (self.prompt.get("cache_salt") or "")
            self.prompt = {**self.prompt, "cache_salt": salt}
        if generation.journal is not None:
            calls = 1 + self.params.n * MOST_TURNS
            self.first_number = generation.journal.number_calls(calls)
        self.first_index = len(facts_by_index)
        for index in range(self.params.n):
            facts = facts_by_index[self.first_index + index] = SequenceFacts()
            self.sequences.append(Written(facts))

    async def _prepare(self) -> None:
        """Bind the answer, plan the thoughts, and keep the end of JSON back."""
        end_tokens = await self.guard.bind(self.params)
        closed_at_limit = is_closed_at_limit(self.params)
        if closed_at_limit:
            self.reserve_tokens = end_tokens.reserve(self._limit_tokens)
        if self.params.stop and may_call(self.params):
            stop_outside_calls(self.params, CALL_BEGIN, CALL_END)
        marks = self.guard.marks
        if marks is not None and self.plan is not None and self._has_room(marks):
            self._plan_thought(marks, self.plan)
        self.max_tokens = self._limit_tokens
        if not closed_at_limit:
            return
        self.safe_tokens = max(0, self.max_tokens - end_tokens.kept_back)
        if self._streamed:
            is_open = partial(is_unfinished, self.params) if is_optional(self.params) else None
            self.tails = [
                OpenTail(one, self.safe_tokens, is_open, self.guard.decode)
                for one in self.sequences
            ]

    @property
    def _limit_tokens(self) -> int:
        # vLLM's handlers resolve it from the request and what the prompt leaves.
        assert self.params.max_tokens is not None
        return self.params.max_tokens

    @property
    def _streamed(self) -> bool:
        return self.params.output_kind.name == "DELTA"

    def _has_room(self, marks: ThoughtMarks) -> bool:
        """Whether the context holds what may be put behind the prompt, and one token more."""
        added = len(marks.opening) + len(marks.none)
        return len(self.prompt["prompt_token_ids"]) + added < self.guard.max_model_len

    def _plan_thought(self, marks: ThoughtMarks, plan: ThinkingPlan) -> None:
        """Open or close the thought in the prompt, and give it its budget."""
        token_ids: list[int] = list(self.prompt["prompt_token_ids"])
        open_tokens = marks.open_tokens(token_ids)
        # An empty thought keeps the model from one; some templates have written it already.
        closed = marks.end in token_ids[-len(marks.none) :]
        if open_tokens is None and plan.forced and (plan.enabled or not closed):
            token_ids += marks.opening
            open_tokens = marks.open_tokens(token_ids)
        budget_tokens = None
        if open_tokens is not None:
            # A thought leaves JSON what its shortest form takes, whatever its share is.
            most_tokens = self._limit_tokens - self.reserve_tokens
            budget = thought_budget(plan, max_tokens=most_tokens, closing_tokens=len(marks.closing))
            budget_tokens = budget.tokens
            if budget_tokens is None:
                token_ids += marks.none
        self.prompt = {**self.prompt, "prompt_token_ids": token_ids}
        room = self.guard.max_model_len - len(token_ids)
        self.params.max_tokens = max(1, min(self._limit_tokens, room))
        # The engine counts what the prompt holds of the thought.
        self.params.thinking_token_budget = (
            None if budget_tokens is None else budget_tokens + (open_tokens or 0)
        )
        if budget_tokens is not None:
            self._lean()
        has_stops = bool(self.params.stop or self.params.stop_token_ids)
        if has_stops and budget_tokens is not None and not plan.stops_in_thought:
            stop_behind(self.params, marks.end)
        # Where the thought is hidden vLLM would bind it to the schema, and there is no answer.
        self.options["reasoning_ended"] = budget_tokens is None
        for sequence in self.sequences:
            sequence.facts.thought = ThoughtTrace(marks, budget_tokens)
        if budget_tokens is not None:
            self._stop_reasoning(marks, budget_tokens)

    def _lean(self) -> None:
        """Have the engine lead the reasoning to its end, where that is the policy."""
        policy = None if self.generation is None else self.generation.policy
        if policy is not None and policy.policy is AnswerPolicy.LEAN:
            lean_to_end(self.params, Lean(policy.lean_most, policy.lean_begins_at))

    def _stop_reasoning(self, marks: ThoughtMarks, budget_tokens: int) -> None:
        """Where somebody may end the reasoning before its budget, have them asked."""
        generation = self.generation
        assert generation is not None
        asked = generation.close_reasoning
        deciders: list[Decide] = []
        if asked is not None:
            deciders.append(lambda ids: asked(self.first_index, len(ids)))
        trials = asking = self._trials(marks, generation)
        if trials is not None and self.direct is not None:
            direct = self.direct
            asking = self.pair = Pair(
                trials, generation, lambda facts: direct(facts=facts), self.guard.decode
            )
        if asking is not None:
            deciders.append(asking.decide)
        if deciders:
            decide, ended = first_reason(*deciders), None if asking is None else asking.close
            self.stop = ReasoningStop(decide, marks, budget_tokens, self.guard.decode, ended)

    def _trials(self, marks: ThoughtMarks, generation: Generation) -> TrialAnswers | None:
        policy = generation.policy
        asking = (AnswerPolicy.EARLY_EXIT, AnswerPolicy.PAIR)
        if policy is None or policy.policy not in asking:
            return None
        return TrialAnswers(
            self.guard.generate,
            generation,
            policy,
            self.prompt,
            self.params,
            self.request_id,
            self.options,
            (*marks.closing, *self.guard.trial_opener),
            self.guard.max_model_len,
        )

    async def run(self) -> "Outputs":
        whole: RequestOutput | None = None
        await self._prepare()
        assert self.generation is not None
        if self.counts_prompt:
            self.generation.prompt_tokens += len(self.prompt["prompt_token_ids"])
        self.engine_ids.append(self.request_id)
        outputs = self._engine_call(0, self.prompt, self.params, self.request_id, self.options)
        async with aclosing(outputs) as results:
            with self._prompt_followed():
                async for result in results:
                    self._follow(result)
                    whole = result
                    for sent in self._to_send(result):
                        yield sent
        for index, sequence in enumerate(self.sequences):
            if sequence.continuation is None:
                continue
            assert whole is not None
            async with aclosing(self._go_on(index, sequence, whole)) as results:
                async for result in results:
                    if not self._streamed:
                        whole.add(result, aggregate=True)
                    for sent in self._to_send(result):
                        yield sent
            if sequence.continuation is ContinuationReason.STRUCTURE:
                for result in await self._close_structure(index, sequence, whole):
                    yield result
        if not self._streamed and whole is not None:
            for output in whole.outputs:
                facts = self.sequences[output.index].facts
                facts.text = output.text
                facts.answer_at = answer_at(output, facts.thought, self.guard.decode)
            yield whole

    def _engine_call(
        self,
        number: int,
        prompt: "EnginePrompt",
        params: "SamplingParams",
        request_id: str,
        options: dict[str, Any],
    ) -> "Outputs":
        """`number` is the call's among those of this prompt."""
        assert self.generation is not None
        journal, journaled = self.generation.journal, self.guard.journaled
        generate, time = self.guard.generate, self.generation.time
        if number and self.pair is not None:
            assert params.max_tokens is not None
            generate = self.pair.take_answer(params.max_tokens) or generate
        if time is not None:
            (one,) = self.sequences
            generate = partial(ending_in_time, generate, time, self.guard.decode, one.facts)
        if self.stop is not None and number == 0:
            generate = partial(stopping_reasoning, generate, self.stop)
        if journal is None or journaled is None or not self._streamed:
            return generate(prompt, params, request_id, **options)
        number += self.first_number
        journaled = replace(journaled, generate=generate)
        return journaled(journal, number, prompt, params, request_id, **options)

    @contextmanager
    def _prompt_followed(self) -> Iterator[None]:
        """While the engine has it, its prompt is looked for among those that are read."""
        first_tokens, generation = self.guard.first_tokens, self.generation
        if first_tokens is None or generation is None or not self.counts_prompt:
            yield
            return
        tokens = len(self.prompt["prompt_token_ids"])
        first_tokens.expect(generation, self.request_id, tokens)
        try:
            yield
        finally:
            first_tokens.forget(generation, self.request_id)

    def _to_send(self, result: "RequestOutput") -> "list[RequestOutput]":
        """What a stream sends of a result that was followed."""
        if not self._streamed or not result.outputs:
            return []
        if not self.tails:
            return [result]
        return [
            sent
            for single in one_by_one(result)
            for sent in self.tails[single.outputs[0].index].take(single)
        ]

    def _follow(self, result: "RequestOutput", *, last_turn: bool = False) -> None:
        """Take the result's ids, and its end away from a sequence that is to be continued."""
        outputs, result.outputs = result.outputs, []
        for following in outputs:
            sequence = self.sequences[following.index]
            if following.finish_reason is None and sequence.goes_on(following.token_ids):
                sequence.take(following.token_ids)
                sequence.continuation = None
                result.outputs.append(following)
                continue
            output = in_step(following, sequence)
            if output is None:
                continue
            result.outputs.append(output)
            ended = ended_by_eos(output, self.guard.eos)
            sequence.take(output.token_ids[:-1] if ended else output.token_ids)
            without_blanks(output, sequence, self.guard.decode)
            sequence.continuation = None
            if output.finish_reason is not None:
                left = 0 if last_turn else self.max_tokens - len(sequence.token_ids)
                sequence.continuation = continuation_reason(
                    sequence, output, self.params, left, decode=self.guard.decode
                )
            if sequence.continuation is not None:
                result.outputs[-1] = without_end(output, ended=ended)
                result.finished = False
                if sequence.continuation is ContinuationReason.STRUCTURE:
                    sequence.facts.repeated |= output.finish_reason == REPETITION
                if output.finish_reason == CLOSED and sequence.facts.thought is not None:
                    sequence.facts.thought.cut_by = str(output.stop_reason)
            elif output.finish_reason is not None:
                # A thought that repeats itself is closed, and only an answer is ended.
                sequence.facts.repeated |= output.finish_reason == REPETITION
                sequence.facts.cut = output.finish_reason == "length"
                sequence.take(output.token_ids[-1:] if ended else ())

    async def _go_on(self, index: int, sequence: Written, whole: "RequestOutput") -> "Outputs":
        for turn in range(1, MOST_TURNS + 1):
            if sequence.continuation is ContinuationReason.STRUCTURE:
                return
            if sequence.continuation is ContinuationReason.THOUGHT_END:
                yield self._with_thought_closed(index, sequence, whole)
            prompt = {name: value for name, value in self.prompt.items() if name != "prompt"}
            prompt["prompt_token_ids"] = [*self.prompt["prompt_token_ids"], *sequence.token_ids]
            left = self.max_tokens - len(sequence.token_ids)
            params = next_params(self.params, left, turn, index, sequence.continuation)
            options = {**self.options, "reasoning_ended": True}
            name = f"{self.request_id}-{index}-{turn}"
            self.engine_ids.append(name)
            number = index * MOST_TURNS + turn
            outputs = self._engine_call(number, prompt, params, name, options)
            async with aclosing(outputs) as results:
                async for result in results:
                    for output in result.outputs:
                        output.index = index
                    self._follow(result, last_turn=turn == MOST_TURNS)
                    result.prompt_token_ids = whole.prompt_token_ids
                    yield result
            if sequence.continuation in (None, ContinuationReason.STRUCTURE):
                return

    def _with_thought_closed(
        self, index: int, sequence: Written, whole: "RequestOutput"
    ) -> "RequestOutput":
        """What the engine would have written when the budget was spent."""
        thought = sequence.facts.thought
        assert thought is not None
        ids = thought.marks.closing
        sequence.token_ids += ids
        sequence.facts.tokens += len(ids)
        thought.cut(ids)
        result = result_of(whole, ids, self.guard.decode(ids))
        result.outputs[0].index = index
        return result

    async def _close_structure(
        self, index: int, sequence: Written, whole: "RequestOutput"
    ) -> "list[RequestOutput]":
        """The end of a stream whose JSON its limit has cut, or nothing: a whole answer is changed
        where it is."""
        answer = list(sequence.answer)
        before = len(sequence.token_ids) - len(answer)
        bound = self.params.structured_outputs
        assert bound is not None
        closed = await self.guard.binder.close(
            bound,
            answer,
            least_kept=max(0, min(len(answer), self.safe_tokens - before)),
            most_tokens=self.max_tokens - before,
        )
        if closed is None:
            kept = tokens_before_call(answer, self.guard.decode)
            # vLLM takes a result without a token for none.
            ids = [] if kept == len(answer) or self.guard.eos is None else [self.guard.eos]
        else:
            kept, ids = closed.kept, closed.ids
        is_whole = closed is not None and closed.whole
        sequence.facts.closed = closed is not None and not is_whole
        finish = "stop" if is_whole else "length"
        text = self.guard.decode([*answer[:kept], *(() if closed is None else ids)])
        if sequence.facts.thought is not None:
            text = text.lstrip("\n")
        results: list[RequestOutput] = []
        if self._streamed:
            results = list(self.tails[index].cut(before + kept, ids, text, whole))
            output, results[-1].finished = results[-1].outputs[0], True
            output.index = index
        else:
            output = next(one for one in whole.outputs if one.index == index)
            at = answer_at(output, sequence.facts.thought, self.guard.decode)
            rewrite_end(output, before + kept, ids, output.text[:at] + text)
            whole.finished = True
        output.finish_reason = finish
        sequence.facts.cut = not is_whole
        sequence.keep(before + kept)
        sequence.take(ids)
        sequence.continuation = None
        return results
