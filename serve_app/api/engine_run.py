"""One generating request on this replica's engine: what the engine is told of it, how it is called,
and what it took."""

import logging
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Send

from serve_app.api.cancellation import ClientSend, StallWatch, Watched, call_engine
from serve_app.api.forwarding import ClusterSecret
from serve_app.api.gate import Gate
from serve_app.api.heartbeats import beating
from serve_app.api.journaled_stream import EngineEvents
from serve_app.api.queue_entry import QueueEntry
from serve_app.api.request_body import PromptEstimate
from serve_app.api.request_context import RequestContext
from serve_app.api.request_record import RequestOutcome
from serve_app.api.response import TierResponse
from serve_app.api.routes import COMPLETIONS
from serve_app.api.spending import Spending, usage_of
from serve_app.config.tier import TierSettings
from serve_app.core.access.lease import Usage
from serve_app.core.generation import Generation
from serve_app.errors import ClientDisconnectedError, engine_stopped
from serve_app.telemetry import TierMetrics

log = logging.getLogger(__name__)


@dataclass(slots=True)
class EngineRun:
    """`app` is vLLM's application; `engine_done` says whether its engine has finished what it was
    asked in a generation."""

    app: ASGIApp
    gate: Gate
    metrics: TierMetrics
    secret: ClusterSecret
    prompts: PromptEstimate
    watch: StallWatch
    engine_done: Callable[[Generation], bool]
    _engine_ids: set[str] = field(default_factory=set)

    def generation(
        self,
        entry: QueueEntry,
        context: RequestContext,
        spending: Spending,
        settings: TierSettings,
    ) -> Generation:
        """What the engine is to know of the request, and to report of it, beside HTTP."""
        prepared, salt = context.prepared, None
        if settings.prefix_cache_isolation:
            salt = self.secret.cache_salt(context.client)

        def on_first_token() -> None:
            own = context.borrower is None and context.resumption is None
            if own and entry.prompt_counted:
                self.prompts.observe(body_bytes=len(context.body), tokens=entry.prompt_tokens)
            self.gate.first_token(entry)

        def on_prompt(tokens: int) -> None:
            # What other replicas have made is read as the prompt is.
            self.gate.prompt_counted(entry, tokens + context.past_tokens)
            # A legacy completion may have more prompts, which are counted one by one.
            if context.endpoint is not COMPLETIONS:
                spending.prompt_counted(tokens, prepared.most_new_tokens)

        return Generation(
            prepared.plan,
            prepared.stop_repetition,
            prepared.structure_field,
            cache_salt=salt,
            request_id=None if context.journal is None else context.request_id,
            journal=context.journal,
            on_prompt=on_prompt,
            on_first_token=on_first_token,
            policy=prepared.policy,
        )

    @contextmanager
    def watched(
        self,
        entry: QueueEntry,
        generation: Generation,
        client: ClientSend,
        stall: Callable[[], None],
        stall_s: float,
    ) -> Iterator[None]:
        """A client that stops reading holds no slot beyond its engine's work, and its connection
        not for ever."""
        watched = Watched(
            client, stall, lambda: self.engine_done(generation), lambda: self.gate.release(entry)
        )
        with self.watch.watching(watched, stall_s):
            yield

    async def run(
        self,
        entry: QueueEntry,
        generation: Generation,
        context: RequestContext,
        response: TierResponse,
        heartbeat_s: float,
    ) -> RequestOutcome:
        """Once its slots are granted. Raises ClientDisconnectedError where the answer was not
        taken to its end, and RequestError 503 where a stream that may go on elsewhere has lost its
        engine."""
        own = context.borrower is None
        response.spending.runs_here(generation, lambda: self._gpu_s(entry))
        if own:
            self.metrics.queue_wait_s.observe(entry.wait_s)
        send: Send | EngineEvents = response.from_engine(
            generation, observed=own, before_whole=lambda: self.gate.release(entry)
        )
        if context.journal is not None:
            send = self._followed(send, entry, generation, context, response)
        if context.trace is not None:
            context.trace.enter("engine")
        with self._engine_id(context.request_id) as engine_id:
            if isinstance(send, EngineEvents) and engine_id != context.request_id:
                send.renamed = engine_id.encode(), context.request_id.encode()
            async with self._kept_open(send, context, response, heartbeat_s) as sent:
                await call_engine(
                    self.app,
                    context.engine_scope(engine_id),
                    body=context.body,
                    receive=context.receive,
                    send=sent,
                    generation=generation,
                )
        if isinstance(send, EngineEvents) and send.lost:
            raise engine_stopped()
        if not response.complete:
            raise ClientDisconnectedError
        if response.status == 200 and context.resumption is None:
            self.gate.observe_service(entry)
        return RequestOutcome(response.status, response.timing, entry.wait_s, generation)

    def _kept_open(
        self, send: Send, context: RequestContext, response: TierResponse, heartbeat_s: float
    ) -> AbstractAsyncContextManager[Send]:
        """A stream of which nothing can be sent until a vote is decided has heartbeats."""
        if context.prepared.can_move or not context.prepared.streaming:
            return nullcontext(send)
        return beating(response, send, heartbeat_s)

    def _followed(
        self,
        send: Send,
        entry: QueueEntry,
        generation: Generation,
        context: RequestContext,
        response: TierResponse,
    ) -> EngineEvents:
        """The `send` of a stream that may go on elsewhere, or does so here. What other replicas
        have made of it is charged there."""
        journal, resumption = context.journal, context.resumption
        assert journal is not None

        def report(why: str) -> None:
            self.metrics.replay_mismatches.inc()
            log.error("a replay differs", extra={"request_id": context.request_id, "why": why})

        events = EngineEvents(send, response, resumption, report)
        if resumption is None:
            return events
        before: Usage | None = None

        def first_step() -> None:
            nonlocal before
            journal.on_step = lambda: None
            before = usage_of(generation, 0.0)
            events.goes_on()

        def made_elsewhere() -> Usage:
            return before or usage_of(generation, 0.0) or Usage()

        journal.on_step = first_step
        response.spending.goes_on_here(generation, lambda: self._gpu_s(entry), made_elsewhere)
        return events

    def _gpu_s(self, entry: QueueEntry) -> float:
        """Of the GPU a request has what it holds of its slots."""
        if entry.started_s is None:
            return 0.0
        until_s = self.gate.clock_s() if entry.released_s is None else entry.released_s
        return (until_s - entry.started_s) * entry.sequences / self.gate.limits.slots

    @contextmanager
    def _engine_id(self, request_id: str) -> Iterator[str]:
        """An id that no other request has in the engine now: clients may choose the same one, and
        what is done to one of them must not be done to the other."""
        engine_id = request_id
        if request_id in self._engine_ids:
            engine_id = f"{request_id[:64]}-{uuid.uuid4().hex[:8]}"
        self._engine_ids.add(engine_id)
        try:
            yield engine_id
        finally:
            self._engine_ids.discard(engine_id)
