"""The one count and the one log line of each generating request."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from serve_app.api.endpoints import GENERATING, Endpoint
from serve_app.api.exchange import Exchange
from serve_app.api.messages import RequestId
from serve_app.telemetry import TierMetrics

log = logging.getLogger(__name__)

REFUSALS = ("queue_full", "wait_too_long")
# Served, refused by the gate, failed, and cut by a replica that stops.
ALERTED_STATUSES = ("200", "429", "500", "503")


def count_from_zero(metrics: TierMetrics) -> None:
    """Show what alerts count before it first happens: Prometheus sees no increase in a series that
    is born with its first event, so the first burst of refusals or faults would go unseen."""
    for endpoint in GENERATING.values():
        for status in ALERTED_STATUSES:
            metrics.requests.labels(endpoint=endpoint.name, status=status)
    for reason in REFUSALS:
        metrics.refused.labels(reason=reason)


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """A request that another replica relayed here counts there, where it came in. One of the other
    tier counts here as lent, and as nothing else."""

    metrics: TierMetrics
    clock_s: Callable[[], float]
    endpoint: Endpoint
    request_id: RequestId
    relayed_here: bool
    started_s: float

    def end(self, status: int, **fields: object) -> None:
        e2e_s = self.clock_s() - self.started_s
        if not self.relayed_here:
            self.metrics.e2e_s.observe(e2e_s)
            self.metrics.requests.labels(endpoint=self.endpoint.name, status=str(status)).inc()
        details = {
            "request_id": self.request_id.value,
            "endpoint": self.endpoint.name,
            "status": status,
            "e2e_s": round(e2e_s, 4),
            **fields,
        }
        refused_relay = self.relayed_here and status == 429
        log.log(logging.DEBUG if refused_relay else logging.INFO, "request", extra=details)

    def end_left(self, reason: str) -> None:
        """The client went away before the end, or had to go."""
        if not self.relayed_here:
            self.metrics.disconnected.inc()
            self.metrics.stalled.inc(reason == "client_stalled")
        self.end(499, reason=reason)

    def end_answered(self, exchange: Exchange, *, with_prompt: bool) -> None:
        """The end of a request that the engine, here or elsewhere, has answered."""
        answer = exchange.answer
        if answer.timing.first_chunk_s is not None and not self.relayed_here:
            self.metrics.ttft_s.observe(answer.timing.first_chunk_s - self.started_s)
        if answer.relayed:
            self.metrics.relayed.inc()
        self._count_thoughts(exchange)
        self.end(
            answer.status,
            outcome="relayed" if answer.relayed else "served",
            queue_wait_s=round(exchange.queue_wait_s, 4),
            chunks=answer.timing.chunks,
            **self._between_tiers(exchange),
            **({"request": exchange.prepared.payload} if with_prompt else {}),
        )

    def _count_thoughts(self, exchange: Exchange) -> None:
        """Where the engine ran it, as it was told beside the answer."""
        generation = exchange.answer.generation
        for facts in generation.sequences.values() if generation else ():
            self.metrics.repetitions.inc(facts.repeated)
            if facts.thought is not None:
                self.metrics.thoughts.labels(end=str(facts.thought.end)).inc()
                self.metrics.thought_tokens.inc(facts.thought.tokens)

    def _between_tiers(self, exchange: Exchange) -> dict[str, str]:
        if exchange.lender is not None:
            self.metrics.borrowed.labels(lender=exchange.lender.value).inc()
            return {"lender": exchange.lender.value}
        if exchange.borrower is not None:
            self.metrics.lent.labels(borrower=exchange.borrower.value).inc()
            return {"borrower": exchange.borrower.value}
        return {}
