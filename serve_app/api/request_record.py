"""What became of a generating request: its outcome, and the one count and log line of it."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from serve_app.api.access import usage_of
from serve_app.api.request_context import RequestContext
from serve_app.api.response import ResponseTiming
from serve_app.api.response_metadata import cut_by_deadline
from serve_app.api.routes import GENERATING, Endpoint
from serve_app.core.admission.by_deadline import DEADLINE
from serve_app.core.generation import Generation
from serve_app.core.tiers import Tier
from serve_app.errors import RequestError
from serve_app.telemetry import TierMetrics

if TYPE_CHECKING:
    from serve_app.api.request_spans import RequestTrace

log = logging.getLogger(__name__)

# Of whom a client says that it asks for, in the log.
MOST_USER_CHARS = 64
REFUSALS = ("queue_full", "wait_too_long", DEADLINE)
# What became of a request's deadline, where it got no answer.
DEADLINE_RESULTS = ("met", "cut", "missed", "refused")
_DEADLINE_BY_CODE = {
    "deadline_exceeded": "missed",
    "deadline_too_short": "refused",
    DEADLINE: "refused",
}
# Served, refused by the gate, failed, and ended by a replica that stops.
ALERTED_STATUSES = ("200", "429", "500", "503")


def count_from_zero(metrics: TierMetrics) -> None:
    """Show what alerts count before it first happens: Prometheus sees no increase in a series that
    is born with its first event, so the first burst of refusals or errors would go unseen."""
    for endpoint in GENERATING.values():
        for status in ALERTED_STATUSES:
            metrics.requests.labels(endpoint=endpoint.name, status=status)
    for reason in REFUSALS:
        metrics.refused.labels(reason=reason)
    for result in DEADLINE_RESULTS:
        metrics.deadlines.labels(result=result)


@dataclass(frozen=True, slots=True)
class RequestOutcome:
    """A request that was answered. `generation` is what the engine reported of it, if it ran here;
    `forwarded`: another replica ran it, of the tier `lender` where that is another one, and
    `forwarded_for` says why where it did not wait."""

    status: int
    timing: ResponseTiming
    queue_wait_s: float = 0.0
    generation: Generation | None = None
    forwarded: bool = False
    lender: Tier | None = None
    forwarded_for: str | None = None


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """A request that another replica forwarded here counts there, where it came in. One of the
    other tier counts here as lent, and as nothing else."""

    metrics: TierMetrics
    clock_s: Callable[[], float]
    endpoint: Endpoint
    request_id: str
    forwarded_here: bool
    started_s: float
    trace: "RequestTrace | None" = None
    # Of a stream that goes on here: how often it has moved. Its times are those of a part.
    replays: int = 0

    def end(self, status: int, **fields: object) -> None:
        result = _DEADLINE_BY_CODE.get(str(fields.get("reason")))
        if result is not None and not self.forwarded_here:
            self.metrics.deadlines.labels(result=result).inc()
        self._end(status, fields, elsewhere=self.replays > 0 and status in (429, 503))

    def end_early(self, error: RequestError, unlogged: int | None) -> None:
        """Refused as one of many of its flow, without a look at it: one line in the log stands for
        the `unlogged` ones before it, too, and this one has none where that is None."""
        fields: dict[str, object] = {"reason": error.code, "early": True}
        if unlogged:
            fields["also_refused"] = unlogged
        self._end(error.status, fields, elsewhere=False, logged=unlogged is not None)

    def end_elsewhere(self, status: int, reason: str | None) -> None:
        """Its stream goes on at another replica, and counts there."""
        if not self.forwarded_here:
            self.metrics.left_streams.labels(reason=reason).inc()
        self._end(status, {"reason": reason}, elsewhere=True)

    def end_served(
        self, context: RequestContext, outcome: RequestOutcome, *, with_prompt: bool
    ) -> None:
        """The end of a request that an engine, here or elsewhere, has answered."""
        timing = outcome.timing
        if timing.first_chunk_s is not None and not (self.forwarded_here or self.replays):
            self.metrics.ttft_s.observe(timing.first_chunk_s - self.started_s)
        if outcome.forwarded:
            self.metrics.relayed.inc()
        self._count_reasoning(outcome)
        deadline = self._deadline(context, outcome)
        self.end(
            outcome.status,
            outcome="relayed" if outcome.forwarded else "served",
            queue_wait_s=round(outcome.queue_wait_s, 4),
            chunks=timing.chunks,
            **({"forwarded_for": outcome.forwarded_for} if outcome.forwarded_for else {}),
            **deadline,
            **_used(outcome),
            **_asked_by(context),
            **self._between_tiers(context, outcome),
            **({"request": context.prepared.payload} if with_prompt else {}),
        )

    def end_disconnected(self, reason: str) -> None:
        """The client disconnected before the end, or was disconnected."""
        if not self.forwarded_here:
            self.metrics.disconnected.inc()
            self.metrics.stalled.inc(reason == "client_stalled")
        self.end(499, reason=reason)

    def _end(
        self, status: int, fields: Mapping[str, object], *, elsewhere: bool, logged: bool = True
    ) -> None:
        e2e_s = self.clock_s() - self.started_s
        if not (self.forwarded_here or elsewhere):
            if not self.replays:
                self.metrics.e2e_s.observe(e2e_s)
            self.metrics.requests.labels(endpoint=self.endpoint.name, status=str(status)).inc()
        details = {
            "request_id": self.request_id,
            "endpoint": self.endpoint.name,
            "status": status,
            "e2e_s": round(e2e_s, 4),
            **({"replayed": self.replays} if self.replays else {}),
            **fields,
        }
        if self.trace is not None:
            self.trace.end(status, details)
        refused = (self.forwarded_here or self.replays) and status in (429, 503)
        level = logging.DEBUG if refused or not logged else logging.INFO
        if log.isEnabledFor(level):
            log.log(level, "request", extra=details)

    def _count_reasoning(self, outcome: RequestOutcome) -> None:
        """Where the engine ran it, as it has reported beside the answer."""
        generation = outcome.generation
        for sequence in generation.sequences.values() if generation else ():
            self.metrics.repetitions.inc(sequence.repeated)
            if sequence.thought is not None:
                self.metrics.thoughts.labels(end=str(sequence.thought.end)).inc()
                self.metrics.thought_tokens.inc(sequence.thought.tokens)

    def _deadline(self, context: RequestContext, outcome: RequestOutcome) -> dict[str, object]:
        """What became of it; counted where the request came in."""
        deadline, generation = context.deadline, outcome.generation
        if deadline is None:
            return {}
        cuts = [] if generation is None else cut_by_deadline(generation)
        result = "missed" if deadline.left_s < 0 else "cut" if "answer" in cuts else "met"
        if outcome.status == 200 and not self.forwarded_here:
            self.metrics.deadlines.labels(result=result).inc()
        return {"deadline_ms": deadline.deadline_ms, "deadline": result}

    def _between_tiers(self, context: RequestContext, outcome: RequestOutcome) -> dict[str, str]:
        if outcome.lender is not None:
            self.metrics.borrowed.labels(lender=outcome.lender.value).inc()
            return {"lender": outcome.lender.value}
        if context.borrower is not None:
            self.metrics.lent.labels(borrower=context.borrower.value).inc()
            return {"borrower": context.borrower.value}
        return {}


def _used(outcome: RequestOutcome) -> dict[str, int]:
    """The tokens of a request, as its key is charged for them, where this replica ran it; of a
    stream that went on here all of them."""
    usage = None if outcome.generation is None else usage_of(outcome.generation, 0.0)
    if usage is None:
        return {}
    return {
        "prompt_tokens": usage.prompt_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "output_tokens": usage.reasoning_tokens + usage.answer_tokens,
    }


def _asked_by(context: RequestContext) -> dict[str, str]:
    """The name of the key, which is known, and apart from it whom the client says that it asks for,
    which is not: OpenAI's `user`, Anthropic's `metadata.user_id`."""
    key, payload = context.caller.flow.name, context.prepared.payload
    metadata = payload.get("metadata")
    said = payload.get("user") or (metadata.get("user_id") if isinstance(metadata, dict) else None)
    return {
        **({"key": key} if key else {}),
        **({"client_user": said[:MOST_USER_CHARS]} if isinstance(said, str) and said else {}),
    }
