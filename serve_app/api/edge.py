"""A tier's edge: every request to a replica goes through here before vLLM's own application."""

import asyncio
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.api.answer_cache import AnswerCache, CacheLookup
from serve_app.api.cancellation import ClientSend, Deadlines, StallWatch, Watched, call_engine
from serve_app.api.direct_routes import DirectRoutes, refuse_route
from serve_app.api.field_rules import FieldBounds, SchemaRules
from serve_app.api.forwarding import Forwarder
from serve_app.api.gate import Gate, GateFullError, QueueEntry
from serve_app.api.lending import LendingDesk, no_capacity
from serve_app.api.request_body import BodyReader, PromptEstimate, as_json, parse_object
from serve_app.api.request_context import (
    RequestContext,
    RequestId,
    client_of,
    path_below_root,
    take_request_id,
    with_path,
)
from serve_app.api.request_record import RequestOutcome, RequestRecord
from serve_app.api.response import ResponseForm, TierResponse
from serve_app.api.routes import (
    MESSAGES,
    TIER_ROUTES,
    Endpoint,
    Route,
    generating_endpoint,
    meant_path,
    tier_route,
)
from serve_app.api.rules import RuleBook, prepare
from serve_app.config.tier import TierSettings
from serve_app.core.admission.queue_drain import NEWEST_WEIGHT, relative_work
from serve_app.core.generation import Generation
from serve_app.core.structure.schema_limits import SchemaLimits
from serve_app.core.tiers import Tier
from serve_app.errors import (
    ClientDisconnectedError,
    ClientStalledError,
    RequestError,
    engine_stopped,
    internal_error,
)
from serve_app.telemetry import TierMetrics

WARNING_HEADER = b"x-tierserve-warning"
# A stream whose client has let the edge wait for more of its time says nothing of the engine.
MAX_WAITED_FRACTION = 0.1
_DIRECT = Endpoint("direct", "", (), None)
_DIRECT_ANTHROPIC = Endpoint("direct", "", (), None, anthropic=True)


@dataclass(slots=True)
class TierEdge:
    """ASGI application: rules, admission, heartbeats, metrics and logs around `engine_app`."""

    engine_app: ASGIApp
    tier: Tier
    model: str
    settings: TierSettings
    gate: Gate
    metrics: TierMetrics
    forwarder: Forwarder
    known_fields: Mapping[str, frozenset[str]]
    desk: LendingDesk
    cache: AnswerCache
    # Of the engine's model: whether it reasons, and whether it is an R1 distill.
    thinks: bool = False
    r1: bool = False
    clock_s: Callable[[], float] = time.monotonic
    # What the engine's context can hold; None: no prompt is too long for it.
    bounds: FieldBounds | None = None
    # What a client's schema may be, before anybody compiles it; None: anything.
    schema_limits: SchemaLimits | None = None
    schema_rules: Mapping[str, SchemaRules] = field(default_factory=dict[str, SchemaRules])
    # The most new tokens that the other tier gives; None where it is not known.
    other_tiers_limit: int | None = None
    # Whether the engine is dead, and whether it has finished what it was asked in a generation.
    engine_dead: Callable[[], bool] = lambda: False
    engine_done: Callable[[Generation], bool] = lambda _: False
    bodies: BodyReader = field(default_factory=BodyReader)
    # Mean seconds a streamed token, of the streams that ended lately; None before the first.
    token_s: float | None = None
    deadlines: Deadlines = field(default_factory=Deadlines)
    prompts: PromptEstimate = field(default_factory=PromptEstimate)
    _direct: DirectRoutes = field(init=False)
    _watch: StallWatch = field(init=False)
    # By whether the request came to the tier's bare prefix.
    _books: dict[bool, RuleBook] = field(default_factory=dict[bool, RuleBook])
    _engine_ids: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._direct = DirectRoutes(self.engine_app, self.bounds, self.bodies)
        self._watch = StallWatch(self.clock_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.engine_app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        request_id = take_request_id(scope)
        scope = with_path(scope, meant_path(path_below_root(scope), TIER_ROUTES))
        path, method = path_below_root(scope), scope["method"]
        forwarded_here = self.forwarder.secret.take_forwarded(scope, request_id.value)
        endpoint = generating_endpoint(path) if method == "POST" else None
        if endpoint is not None:
            form = ResponseForm(endpoint, request_id, engine_dead=self.engine_dead)
            await self._generate(scope, receive, send, form, forwarded_here=forwarded_here)
        elif (route := tier_route(method, path)) is not None:
            await self._answer_directly(scope, receive, send, route, request_id)
        else:
            await refuse_route(scope, send, request_id)

    async def _generate(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        form: ResponseForm,
        *,
        forwarded_here: bool,
    ) -> None:
        """A generating request from its first byte to the record of its outcome.

        (1) Read it and apply the tier's rules: from then on it is frozen.
        (2) Answer it from the cache, if its answer is kept there.
        (3) Choose what is done to its response.
        (4) Serve it, until the end of a drain, or until its client has stalled for too long.
        (5) Learn from it, and record what became of it.
        """
        client = ClientSend(send, self.clock_s)
        response = TierResponse(client, form, self.metrics, self.clock_s)
        record = RequestRecord(
            self.metrics,
            self.clock_s,
            form.endpoint,
            form.request_id.value,
            forwarded_here,
            self.clock_s(),
        )
        try:
            if self.engine_dead():
                raise engine_stopped()
            context = await self._read(scope, receive, form, forwarded_here)  # (1)
            lookup = self._look_up(context)  # (2)
            response = self._response(client, form.request_id, context, lookup)  # (3)
            if lookup is not None and lookup.kept is not None:
                await response.replay(lookup.kept)
                record.end(200, outcome="cached")
                return
            async with self.deadlines.until_ended() as deadline:  # (4)
                outcome = await self._serve(
                    context, response, client, stall=lambda: self.deadlines.stall(deadline)
                )
            self._learn_speed(outcome, client)  # (5)
            record.end_served(context, outcome, with_prompt=self.settings.log_prompts)
        except RequestError as error:
            await response.fail(error)
            record.end(error.status, reason=error.code)
        except (ClientDisconnectedError, asyncio.CancelledError) as ended:
            stalled = isinstance(ended, ClientStalledError)
            record.end_disconnected("client_stalled" if stalled else "client_gone")
            if isinstance(ended, asyncio.CancelledError):
                raise
        except Exception:
            await response.fail(internal_error())
            record.end(500, reason="fault")
            raise

    async def _read(
        self, scope: Scope, receive: Receive, form: ResponseForm, forwarded_here: bool
    ) -> RequestContext:
        """Read the body, and apply the rules of its tier. Raises RequestError."""
        borrower = self.desk.borrower_of(scope) if forwarded_here else None
        received = await self.bodies.read(
            scope,
            receive,
            limit_bytes=self.settings.max_body_bytes,
            timeout_s=self.settings.admission.body_timeout_s,
        )
        payload, endpoint = parse_object(received), form.endpoint
        if borrower is None:
            book = self._book(bare=path_below_root(scope) in ("", "/"))
            prepared = prepare(payload, endpoint, book)
        else:
            most = self.settings.max_new_tokens
            prepared = self.desk.prepare(scope, payload, endpoint, borrower, most)
        return RequestContext(
            scope,
            receive,
            endpoint,
            form.request_id.value,
            client_of(scope),
            received,
            prepared,
            as_json(prepared.payload),
            forwarded_here,
            borrower,
        )

    def _book(self, *, bare: bool) -> RuleBook:
        """The rules as they are now: written anew once settings or limits are others."""
        book = self._books.get(bare)
        if (
            book is None
            or book.settings is not self.settings
            or book.slots != self.gate.limits.slots
            or book.other_tiers_limit != self.other_tiers_limit
        ):
            book = self._books[bare] = RuleBook(
                self.tier,
                self.settings,
                self.gate.limits.slots,
                self.model,
                self.known_fields,
                self.thinks,
                self.r1,
                self.bounds,
                self.schema_limits,
                self.schema_rules,
                self.settings.limits.lowers(bare=bare),
                self.other_tiers_limit,
            )
        return book

    def _look_up(self, context: RequestContext) -> CacheLookup | None:
        """None for one that is not kept: its answer is another one each time, or it is kept where
        it came in."""
        if context.borrower is not None or not context.prepared.deterministic:
            return None
        lookup = self.cache.lookup(context)
        if lookup is not None:
            self.metrics.cache.labels(result=lookup.result).inc()
        return lookup

    def _response(
        self,
        client: ClientSend,
        request_id: RequestId,
        context: RequestContext,
        lookup: CacheLookup | None,
    ) -> TierResponse:
        prepared, borrower = context.prepared, context.borrower
        warnings = [(WARNING_HEADER, text.encode()) for text in prepared.warnings]
        form = ResponseForm(
            context.endpoint,
            request_id,
            (*warnings, *(() if lookup is None else lookup.headers)),
            None if borrower is None else (self.tier.value, borrower.value),
            prepared.written_as,
            prepared.max_new_tokens,
            self.engine_dead,
        )
        recording = None if lookup is None else lookup.recording
        return TierResponse(client, form, self.metrics, self.clock_s, recording)

    async def _serve(
        self,
        context: RequestContext,
        response: TierResponse,
        client: ClientSend,
        stall: Callable[[], None],
    ) -> RequestOutcome:
        """Queue it, run it here or elsewhere, or refuse it.

        (1) One that another replica has forwarded runs at once, or goes back to it.
        (2) Enter the gate, which queues the request until its slots are granted, or is full.
        (3) Wait in the queue, with heartbeats; at its head, look for another replica.
        (4) Run it on this replica's engine.
        (5) Where the gate is full another replica may have capacity; else refuse, with the time to
            retry.
        """
        prepared, prompt_tokens = context.prepared, self.prompts.tokens(len(context.body))
        self._take_forwarded(context, prompt_tokens)  # (1)
        try:
            entering = self.gate.enter(  # (2)
                prepared.sequences,
                key=context.retry_key,
                retried=context.is_retry,
                work=relative_work(
                    prepared.max_new_tokens, self.settings.admission.expected_new_tokens
                ),
                borrowed=context.borrower is not None,
                max_new_tokens=prepared.max_new_tokens,
                forwarded=context.forwarded_here,
                prompt_tokens=prompt_tokens,
            )
            with entering as entry:
                generation = self._generation(entry, context)
                with self._watched(entry, generation, client, stall):
                    if not entry.granted.done():  # (3)
                        outcome = await self._wait(entry, context, response)
                        if outcome is not None:
                            return outcome
                    return await self._run(entry, generation, context, response)  # (4)
        except GateFullError as full:  # (5)
            async with context.disconnection() as disconnected:
                outcome = await self.forwarder.forward(context, response, disconnected)
            if outcome is None:
                raise self._refusal(full) from full
            self.gate.withdraw(full)
            return outcome

    def _take_forwarded(self, context: RequestContext, prompt_tokens: float) -> None:
        """Raises RequestError where one that another replica has forwarded would not run at
        once."""
        sequences = context.prepared.sequences
        if context.borrower is not None:
            lending = self.gate.may_lend(sequences, prompt_tokens)
            if not lending.allowed:
                raise no_capacity(f"Nothing to lend: {lending.reason}.")
        elif context.forwarded_here and not self.gate.has_room(sequences):
            raise no_capacity("No room for a forwarded request.")

    def _generation(self, entry: QueueEntry, context: RequestContext) -> Generation:
        """What the engine is to know of the request, and to report of it, beside HTTP."""
        prepared, salt = context.prepared, None
        if self.settings.prefix_cache_isolation:
            salt = self.forwarder.secret.cache_salt(context.client)

        def on_first_token() -> None:
            if context.borrower is None and entry.prompt_counted:
                self.prompts.observe(body_bytes=len(context.body), tokens=entry.prompt_tokens)
            self.gate.first_token(entry)

        return Generation(
            prepared.plan,
            prepared.stop_repetition,
            prepared.structure_field,
            cache_salt=salt,
            on_prompt=lambda tokens: self.gate.prompt_counted(entry, tokens),
            on_first_token=on_first_token,
        )

    @contextmanager
    def _watched(
        self,
        entry: QueueEntry,
        generation: Generation,
        client: ClientSend,
        stall: Callable[[], None],
    ) -> Iterator[None]:
        """A client that stops reading holds no slot beyond its engine's work, and its connection
        not for ever."""
        watched = Watched(
            client, stall, lambda: self.engine_done(generation), lambda: self.gate.release(entry)
        )
        with self._watch.watching(watched, self.settings.admission.client_stall_s):
            yield

    async def _wait(
        self, entry: QueueEntry, context: RequestContext, response: TierResponse
    ) -> RequestOutcome | None:
        """Until the slots are granted (None), or another replica has answered it.

        (1) Wake up for the grant, a disconnect, or after a while.
        (2) Keep the client's connection alive.
        (3) At the queue's head, offer it to other replicas.
        """
        admission = self.settings.admission
        next_heartbeat_s = self.clock_s() + admission.heartbeat_s
        async with context.disconnection() as disconnected:
            while not entry.granted.done():
                await asyncio.wait(  # (1)
                    {entry.granted, disconnected},
                    timeout=min(admission.relay_after_s, admission.heartbeat_s),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if disconnected.done():
                    raise ClientDisconnectedError
                if entry.granted.done():
                    break
                if context.prepared.streaming and self.clock_s() >= next_heartbeat_s:  # (2)
                    await response.heartbeat(self.gate.ahead_of(entry))
                    next_heartbeat_s += admission.heartbeat_s
                # Each await may have let the gate grant the slots.
                if entry.granted.done() or not self.gate.is_head(entry):
                    continue
                if await self.forwarder.has_somewhere() and not entry.granted.done():  # (3)
                    with self.gate.step_aside(entry):
                        outcome = await self.forwarder.forward(context, response, disconnected)
                    if outcome is not None:
                        return outcome
        return None

    async def _run(
        self,
        entry: QueueEntry,
        generation: Generation,
        context: RequestContext,
        response: TierResponse,
    ) -> RequestOutcome:
        own = context.borrower is None
        if own:
            self.metrics.queue_wait_s.observe(entry.wait_s)
        with self._engine_id(context.request_id) as engine_id:
            await call_engine(
                self.engine_app,
                context.engine_scope(engine_id),
                body=context.body,
                receive=context.receive,
                send=response.from_engine(
                    generation, observed=own, before_whole=lambda: self.gate.release(entry)
                ),
                generation=generation,
            )
        if not response.complete:
            raise ClientDisconnectedError
        if response.status == 200:
            self.gate.observe_service(entry)
        return RequestOutcome(response.status, response.timing, entry.wait_s, generation)

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

    def _refusal(self, full: GateFullError) -> RequestError:
        admission = full.admission
        self.metrics.refused.labels(reason=admission.reason).inc()
        return RequestError(
            429,
            f"The {self.tier} tier is full: {admission.ahead} requests are ahead, about "
            f"{admission.wait_s:.0f} s of work. Come back in {admission.retry_after_s} s.",
            code=admission.reason,
            retry_after_s=admission.retry_after_s,
        )

    def _learn_speed(self, outcome: RequestOutcome, client: ClientSend) -> None:
        token_s = outcome.timing.token_s
        if client.waited_s > MAX_WAITED_FRACTION * outcome.timing.streamed_s:
            return
        if token_s is not None and not outcome.forwarded:
            previous_s = token_s if self.token_s is None else self.token_s
            self.token_s = previous_s + NEWEST_WEIGHT * (token_s - previous_s)

    async def _answer_directly(
        self, scope: Scope, receive: Receive, send: Send, route: Route, request_id: RequestId
    ) -> None:
        """A route that does not generate. It is not counted among the tier's requests."""
        client = ClientSend(send, self.clock_s)
        # Anthropic's clients count tokens below their own route.
        endpoint = _DIRECT_ANTHROPIC if route.path.startswith(MESSAGES.path) else _DIRECT
        form = ResponseForm(endpoint, request_id, engine_dead=self.engine_dead)
        response = TierResponse(client, form, self.metrics, self.clock_s)
        try:
            async with self.deadlines.until_ended() as deadline:
                watched = Watched(client, stall=lambda: self.deadlines.stall(deadline))
                with self._watch.watching(watched, self.settings.admission.client_stall_s):
                    await self._direct(scope, receive, response, route, self.settings)
        except RequestError as error:
            await response.fail(error)
        except ClientDisconnectedError:
            return
