"""A request with a deadline at its edge: how fast it would be here, what the gate is to know of it,
and what its answer may hold once it has its slots.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from serve_app.api.answer_deadline import DEADLINE_FIELD, deadline_exceeded
from serve_app.api.gate import Gate
from serve_app.api.lending import no_capacity
from serve_app.api.queue_entry import QueueEntry
from serve_app.api.request_body import as_json
from serve_app.api.request_context import RequestContext
from serve_app.api.routes import Endpoint
from serve_app.api.token_budget import GrantedTokens, keep_budget_below
from serve_app.config.answers import LimitsConfig
from serve_app.core.admission.by_deadline import ShortestAnswer
from serve_app.core.generation import Generation
from serve_app.core.reasoning.budget import ThinkingPlan
from serve_app.core.reasoning.crowding import ReasoningLengths, limit_tokens
from serve_app.core.reasoning.deadline import DeadlinePlan, Pace, RunningDeadline, plan_within
from serve_app.core.replay.journal import Journal
from serve_app.errors import invalid


@dataclass(frozen=True, slots=True)
class Speeds:
    """How fast this replica is for one request. `fallback_token_s` counts where nothing is known of
    its engine."""

    gate: Gate
    fallback_token_s: float

    def token_s(self, sequences: int) -> float:
        """Seconds between a stream's tokens in a batch of so many."""
        room = self.gate.room
        if room is None:
            return self.fallback_token_s
        return room.stream_token_s(sequences - room.sequences)

    def idle(self, sequences: int, prompt_tokens: float) -> Pace:
        """Of one that has the engine for itself."""
        room = self.gate.room
        if room is None:
            return Pace(0.0, self.fallback_token_s)
        return Pace(room.prefill_s(prompt_tokens), room.step_s(sequences))

    def full(self, prompt_tokens: float) -> Pace:
        """Of one that starts in a full batch."""
        own_s = 0.0 if self.gate.room is None else self.gate.room.ahead(prompt_tokens, 0.0).own_s
        return Pace(own_s, self.token_s(self.gate.limits.slots))

    def expected_token_s(self, more: int = 0) -> float:
        """Between the tokens of one that runs, beside what runs and waits now, and so many
        sequences `more`."""
        gate = self.gate
        batch = min(gate.limits.slots, gate.running_sequences + gate.queued_requests + more)
        return self.token_s(max(1, batch))

    def expected(self, prompt_tokens: float = 0.0, more: int = 0) -> Pace:
        """Of one that the engine has, or is given more of, beside what runs and waits now and so
        many sequences `more`; `prompt_tokens` are read for it beside those that the engine has."""
        room = self.gate.room
        if room is None:
            return Pace(0.0, self.fallback_token_s)
        ahead = room.ahead(prompt_tokens, 0.0)
        return Pace(ahead.engine_s + ahead.own_s, self.expected_token_s(more))


def shortest_answer(
    context: RequestContext,
    speeds: Speeds,
    limits: LimitsConfig,
    *,
    prompt_tokens: float,
) -> ShortestAnswer:
    """What the gate is to know of a request with a deadline. Raises RequestError 400 where an idle
    tier could not meet it either, and 504 where it could not any more."""
    deadline, prepared = context.deadline, context.prepared
    assert deadline is not None
    shortest = ShortestAnswer(
        deadline.left_s,
        # What has begun is ended, however little is left.
        1 if context.past_tokens else min(limits.least_answer_tokens, prepared.max_new_tokens),
        speeds.idle(prepared.sequences, prompt_tokens),
        speeds.full(prompt_tokens),
        speeds.expected(prompt_tokens, prepared.sequences),
    )
    if context.forwarded_here or context.resumption is not None:
        return shortest
    least_ms = math.ceil(shortest.takes_idle_s * 1e3)
    if least_ms > deadline.deadline_ms:
        raise invalid(
            f"`{DEADLINE_FIELD}` is {deadline.deadline_ms}: the shortest answer of "
            f"{shortest.tokens} tokens takes this tier {least_ms} ms when it is idle.",
            param=DEADLINE_FIELD,
            code="deadline_too_short",
        )
    if shortest.takes_idle_s > shortest.left_s:
        raise deadline_exceeded(deadline, "has passed, but for too little, on the way here")
    return shortest


def begin_in_time(
    context: RequestContext,
    entry: QueueEntry,
    generation: Generation,
    speeds: Speeds,
    limits: LimitsConfig,
    lengths: ReasoningLengths,
) -> RequestContext:
    """A request with a deadline whose slots are granted: with no more tokens than the time allows,
    and with `generation.time`, by which its engine ends it; `lengths` are those of the tier's
    reasoning. Raises RequestError 504 where even the
    shortest answer would be late."""
    deadline, prepared = context.deadline, context.prepared
    assert deadline is not None
    past_tokens = context.past_tokens_each
    plan = plan_within(
        deadline.left_s,
        speeds.expected(),
        generation.plan,
        max_new_tokens=max(1, prepared.max_new_tokens - past_tokens),
        # What has begun is ended, however little is left.
        least_answer_tokens=1 if past_tokens else limits.least_answer_tokens,
    )
    if not plan.max_new_tokens:
        if context.forwarded_here:
            raise no_capacity(f"A deadline leaves no answer here: {plan.reason}.")
        raise deadline_exceeded(deadline, f"leaves no answer: {plan.reason}")

    def turn_s(tokens: int) -> float:
        return speeds.expected(entry.prompt_tokens + tokens).first_token_s

    def crowded_tokens() -> float | None:
        own = speeds.gate.presence(context.caller.flow)
        return limit_tokens(
            lengths.mean_tokens,
            running=own.sequences - own.queued,
            waiting=own.queued,
            least_share=limits.least_reasoning_share,
        )

    time = RunningDeadline(
        deadline.deadline_ms,
        deadline.due_s,
        deadline.clock_s,
        speeds.expected_token_s,
        turn_s,
        plan,
        crowded_tokens,
    )
    generation.time = time
    generation.close_reasoning = _either(generation.close_reasoning, time.close_reasoning)
    if generation.plan is not None:
        generation.plan = _planned(generation.plan, generation.journal, plan, past_tokens)
    # A stream that goes on is ended by the clock: with a lower limit its JSON could be closed in
    # front of what its client has.
    return context if past_tokens else _with_limit(context, plan)


def _planned(
    thinking: ThinkingPlan, journal: Journal | None, plan: DeadlinePlan, past_tokens: int
) -> ThinkingPlan:
    """The reasoning that the time allows; of a stream that goes on as it was where it began."""
    if past_tokens:
        is_direct = journal is not None and journal.direct
        return replace(thinking, enabled=thinking.enabled and not is_direct)
    if plan.reasoning_cut and plan.reasoning_tokens is None and journal is not None:
        journal.leave_reasoning_out()
    return replace(
        thinking,
        enabled=thinking.enabled and plan.reasoning_tokens is not None,
        most_tokens=plan.reasoning_tokens or 0,
    )


def _either(
    first: Callable[[int, int], str | None] | None, second: Callable[[int, int], str | None]
) -> Callable[[int, int], str | None]:
    if first is None:
        return second
    return lambda index, tokens: first(index, tokens) or second(index, tokens)


def _with_limit(context: RequestContext, plan: DeadlinePlan) -> RequestContext:
    """The request with so many new tokens at most."""
    if not plan.answer_cut:
        return context
    tokens = plan.max_new_tokens
    prepared, endpoint = context.prepared, context.endpoint
    payload = limited(prepared.payload, endpoint, tokens)
    prepared = replace(prepared, payload=payload, max_new_tokens=tokens)
    return replace(context, prepared=prepared, body=as_json(payload))


def limited(payload: Mapping[str, Any], endpoint: Endpoint, tokens: int) -> dict[str, Any]:
    """The body with that limit of new tokens, where its own is not lower; without one its schema's
    default stays. A minimum gives way, as a deadline ends an answer that has not reached it."""
    names = [name for name in endpoint.limit_fields if payload.get(name) is not None]
    lowered = {name: min(payload[name], tokens) for name in names}
    if isinstance(least := payload.get("min_tokens"), int) and least > tokens:
        lowered["min_tokens"] = tokens
    result = {**payload, **lowered}
    keep_budget_below(result, endpoint, GrantedTokens(tokens, "the deadline"))
    return result
