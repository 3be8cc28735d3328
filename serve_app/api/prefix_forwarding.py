"""A request at its edge, before it enters the gate: it goes to the replica that has the begin of
its prompt, where `choose_replica` says so and that one takes it; else it runs here."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from serve_app.api.forwarding import Forwarder, PrefixOffer
from serve_app.api.gate import Gate
from serve_app.api.prefix_reports import PrefixReports
from serve_app.api.request_context import RequestContext
from serve_app.api.request_record import RequestOutcome
from serve_app.api.response import TierResponse
from serve_app.config.tier import TierSettings
from serve_app.core.prefix.prompt_chunks import CHUNK_BYTES, Chunk, prompt_chunks
from serve_app.core.prefix.replica_choice import (
    Candidate,
    Choice,
    ChoiceReason,
    ReplicaState,
    choose_replica,
)
from serve_app.telemetry import TierMetrics

# The other replica did not take it after all.
REFUSED = "refused"
RESULTS = (*(reason.value for reason in ChoiceReason), REFUSED)
# Of a body, what the conversation is; and what a chat template writes before it.
CONVERSATION_FIELDS = ("messages", "input", "prompt")
FIELDS_BEFORE = (
    *("system", "instructions", "tools", "functions", "documents"),
    *("chat_template", "chat_template_kwargs", "cache_salt"),
)


@dataclass(slots=True)
class PrefixForwarding:
    """Of one replica."""

    reports: PrefixReports
    gate: Gate
    forwarder: Forwarder
    metrics: TierMetrics
    settings: Callable[[], TierSettings]

    def __post_init__(self) -> None:
        for result in RESULTS:
            self.metrics.prefix_choices.labels(reason=result)
        self.forwarder.order = self.order

    async def forward(
        self, context: RequestContext, response: TierResponse, prompt_tokens: float
    ) -> RequestOutcome | None:
        """The outcome of a request that another replica ran; None where it is to enter the gate
        here. Raises as `Forwarder.forward`.

        (1) What goes by its own way, or is read at once, is not looked at.
        (2) Of one that another replica has sent, or that would pass others that wait here, it is
            only remembered that its prompt is here.
        (3) Choose the replica, and offer it the request.
        """
        settings, room = self.settings().prefixes, self.gate.room
        least_s = settings.least_saved_ms / 1e3
        if not settings.forward or self.reports.alone or room is None:  # (1)
            return None
        if context.resumption is not None or context.borrower is not None:
            return None
        if room.prefill_s(prompt_tokens) < least_s:
            if not context.forwarded_here:
                self._count(ChoiceReason.SHORT)
            return None
        chunks, size_bytes = self._chunks(context)
        if not chunks:
            return None
        if context.forwarded_here or self.gate.queued_requests:  # (2)
            self.reports.use(chunks)
            return None
        tokens_each = prompt_tokens * CHUNK_BYTES / max(1, size_bytes)  # (3)
        choice = choose_replica(
            Candidate(self.reports.own_state(), self.reports.own.found(chunks) * tokens_each),
            self.reports.peers(chunks, tokens_each),
            prompt_tokens=prompt_tokens,
            least_saved_s=least_s,
            most_load_ratio=settings.most_load_ratio,
        )
        outcome = await self._offered(choice, context, response, prompt_tokens)
        if outcome is None:
            self.reports.use(chunks)
        return outcome

    def order(self, context: RequestContext, urls: Sequence[str]) -> Sequence[str]:
        """For a request that waits: the replica that has most of its prompt is asked first."""
        if not self.settings().prefixes.forward or len(urls) < 2:
            return urls
        chunks, _ = self._chunks(context)
        found = {
            self.reports.url_of(peer.state.name): peer.cached_tokens
            for peer in self.reports.peers(chunks, 1.0)
        }
        return sorted(urls, key=lambda url: -found.get(url, 0.0))

    async def _offered(
        self,
        choice: Choice,
        context: RequestContext,
        response: TierResponse,
        prompt_tokens: float,
    ) -> RequestOutcome | None:
        url = None if choice.target is None else self.reports.url_of(choice.target)
        if url is None:
            self._count(choice.reason)
            return None

        def taken() -> None:
            self._count(choice.reason)
            self.metrics.prefix_saved_tokens.inc(choice.saved_tokens)
            self.gate.runs_elsewhere(
                context.prepared.sequences,
                key=context.retry_key,
                retried=context.is_retry,
                max_new_tokens=context.prepared.max_new_tokens,
                prompt_tokens=prompt_tokens,
                flow=context.caller.flow,
            )

        offer = PrefixOffer(url, choice.most_wait_s, taken)
        async with context.disconnection() as disconnected:
            outcome = await self.forwarder.forward(context, response, disconnected, offer)
        if outcome is None:
            self._count(REFUSED)
            return None
        return replace(outcome, forwarded_for=choice.reason.value)

    def _chunks(self, context: RequestContext) -> tuple[tuple[Chunk, ...], int]:
        """Those of its prompt, and how long the prompt is; none where its engine shares it with no
        other request."""
        apart = b""
        if self.settings().prefix_cache_isolation:
            if context.client is None:
                return (), 0
            apart = context.client
        text = _conversation(context.prepared.payload)
        before = _before(context.prepared.payload, context.endpoint.name)
        key = hashlib.sha256(b"prefix chunks\0" + self.reports.key).digest()
        return prompt_chunks(key, apart + b"\0" + before, text), len(text)

    def _count(self, reason: str) -> None:
        self.metrics.prefix_choices.labels(reason=reason).inc()


def replica_state(
    gate: Gate, draining: Callable[[], bool], has_cache: Callable[[], bool] = lambda: True
) -> Callable[[], ReplicaState]:
    """What a replica reports of its own gate; `PrefixReports` adds what it counts. Without
    `has_cache`, of an engine that looks for no prefixes, there is no room for those of others."""

    def state() -> ReplicaState:
        room = gate.room
        assert room is not None
        return ReplicaState(
            name="",
            sequences=0.0,
            slots=gate.limits.slots,
            wait_s=room.ahead(0.0, 0.0).engine_s,
            prompt_token_s=room.prefill_s(1.0),
            has_room=has_cache() and gate.has_room(1),
            draining=draining(),
        )

    return state


def _conversation(payload: Mapping[str, Any]) -> bytes:
    """What grows with each turn: of one that goes on, what went before is the begin."""
    for name in CONVERSATION_FIELDS:
        if (value := payload.get(name)) is not None:
            return json.dumps(value).encode()[:-1]
    return b""


def _before(payload: Mapping[str, Any], endpoint: str) -> bytes:
    present = {name: payload[name] for name in FIELDS_BEFORE if name in payload}
    return json.dumps([endpoint, present], sort_keys=True).encode()
