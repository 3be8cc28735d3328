"""A request at its edge, before it enters the gate: it goes to the replica that has the begin of
its prompt, where `choose_replica` says so and that one takes it; else it runs here."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

from serve_app.api.forwarding import Forwarder, PrefixOffer
from serve_app.api.gate import Gate
from serve_app.api.prefix_reports import PrefixReports
from serve_app.api.request_context import RequestContext
from serve_app.api.request_record import RequestOutcome
from serve_app.api.response import TierResponse
from serve_app.config.tier import TierSettings
from serve_app.core.prefix.prompt_chunks import CHUNK_BYTES, MOST_CHUNKS, Chunk, prompt_chunks
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
# Of a conversation, not more than this is compared.
MOST_BYTES = MOST_CHUNKS * CHUNK_BYTES
RESULTS = (*(reason.value for reason in ChoiceReason), REFUSED)
# Of a body, what the conversation is; and what a chat template writes before it.
CONVERSATION_FIELDS = ("messages", "input", "prompt")
FIELDS_BEFORE = (
    *("system", "instructions", "tools", "functions", "documents"),
    *("chat_template", "chat_template_kwargs", "cache_salt"),
)


@dataclass(frozen=True, slots=True)
class PrefixLook:
    """What a look for a request's prefix has found. `chunks` are those of its prompt, where it was
    looked at and is to run here; `outcome`, where another replica ran it; `returning`: it has been
    counted as an arrival here, which came back after a refusal or did not; None: not counted."""

    chunks: tuple[Chunk, ...] = ()
    outcome: RequestOutcome | None = None
    returning: bool | None = None


NOT_LOOKED_AT = PrefixLook()


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
    ) -> PrefixLook:
        """What became of a request before it entered the gate here. Raises as `Forwarder.forward`.

        (1) What goes by its own way, or is read at once, is not looked at.
        (2) One that another replica has sent, or that would pass others that wait here, is to run
            here; so is any where there is no other replica.
        (3) Choose the replica, and offer it the request.
        """
        settings, room = self.settings().prefixes, self.gate.room
        if not settings.forward or room is None:  # (1)
            return NOT_LOOKED_AT
        if context.resumption is not None or context.borrower is not None:
            return NOT_LOOKED_AT
        if self._is_short(prompt_tokens):
            if not (context.forwarded_here or self.reports.alone):
                self._count(ChoiceReason.SHORT)
            return NOT_LOOKED_AT
        chunks = self._chunks(context)
        stays = PrefixLook(chunks)
        if not chunks or self.reports.alone:  # (2)
            return stays
        if context.forwarded_here or self.gate.queued_requests:
            return stays
        tokens_each = prompt_tokens * CHUNK_BYTES / max(1, len(context.body))  # (3)
        choice = choose_replica(
            Candidate(self.reports.own_state(), self.reports.own.found(chunks) * tokens_each),
            self.reports.peers(chunks, tokens_each),
            prompt_tokens=prompt_tokens,
            least_saved_s=settings.least_saved_ms / 1e3,
            most_load_ratio=settings.most_load_ratio,
        )
        url = None if choice.target is None else self.reports.url_of(choice.target)
        if url is None:
            self._count(choice.reason)
            return stays
        return await self._offered(choice, url, context, response, stays, prompt_tokens)

    def begins_here(self, look: PrefixLook) -> None:
        """The engine here is given the prompt."""
        self.reports.use(look.chunks)

    def order(self, context: RequestContext, urls: Sequence[str]) -> Sequence[str]:
        """For a request that waits: the replica that has most of its prompt is asked first."""
        if not self.settings().prefixes.forward or len(urls) < 2:
            return urls
        chunks = self._chunks(context)
        found = {
            self.reports.url_of(peer.state.name): peer.cached_tokens
            for peer in self.reports.peers(chunks, 1.0)
        }
        return sorted(urls, key=lambda url: -found.get(url, 0.0))

    async def _offered(
        self,
        choice: Choice,
        url: str,
        context: RequestContext,
        response: TierResponse,
        stays: PrefixLook,
        prompt_tokens: float,
    ) -> PrefixLook:
        target = choice.target
        assert target is not None

        def taken() -> None:
            self._count(choice.reason)
            self.metrics.prefix_saved_tokens.inc(choice.saved_tokens)

        # Before it is asked: of a whole answer, what the other one says comes with its end.
        returning = self.gate.arrives(
            context.prepared.sequences,
            key=context.retry_key,
            retried=context.is_retry,
            max_new_tokens=context.prepared.max_new_tokens,
            prompt_tokens=prompt_tokens,
            flow=context.caller.flow,
        )
        silent = partial(self.reports.until_silent, target)
        offer = PrefixOffer(url, choice.most_wait_s, taken, silent)
        async with context.disconnection() as disconnected:
            outcome = await self.forwarder.forward(context, response, disconnected, offer)
        if outcome is None:
            self._count(REFUSED)
            return replace(stays, returning=returning)
        return PrefixLook(outcome=replace(outcome, forwarded_for=choice.reason.value))

    def _is_short(self, prompt_tokens: float) -> bool:
        """Whether it is read in less time than a hop is worth."""
        room, least_s = self.gate.room, self.settings().prefixes.least_saved_ms / 1e3
        return room is None or room.prefill_s(prompt_tokens) < least_s

    def _chunks(self, context: RequestContext) -> tuple[Chunk, ...]:
        """Those of its prompt; none where its engine shares it with no other request."""
        apart = b""
        if self.settings().prefix_cache_isolation:
            if context.client is None:
                return ()
            apart = context.client
        text = _conversation(context.prepared.payload)
        before = _before(context.prepared.payload, context.endpoint.name)
        key = hashlib.sha256(b"prefix chunks\0" + self.reports.key).digest()
        return prompt_chunks(key, apart + b"\0" + before, text)

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
    """What grows with each turn: of one that goes on, what went before is the begin. Not more than
    is compared."""
    for name in CONVERSATION_FIELDS:
        if (value := payload.get(name)) is not None:
            return _begin(value)
    return b""


def _begin(value: object) -> bytes:
    """The begin of the value as JSON, without what would follow another turn."""
    if isinstance(value, str):
        return _json(value[:MOST_BYTES])[:-1][:MOST_BYTES]
    if not isinstance(value, list):
        return _json(value)[:-1][:MOST_BYTES]
    begin = b"["
    for place, item in enumerate(cast("list[object]", value)):
        begin += b", " * (place > 0) + _json(item)
        if len(begin) > MOST_BYTES:
            break
    return begin[:MOST_BYTES]


def _json(value: object) -> bytes:
    # As long as in the body: bytes are what tokens are estimated by. A client may send half a pair
    # of surrogates.
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _before(payload: Mapping[str, Any], endpoint: str) -> bytes:
    present = {name: payload[name] for name in FIELDS_BEFORE if name in payload}
    return json.dumps([endpoint, present], sort_keys=True).encode()
