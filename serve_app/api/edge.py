"""A tier's edge: every request to a replica goes through here before vLLM's own application."""

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.api.access import ONE_REQUEST, AccessDesk, Spending, need_of, read_flow
from serve_app.api.answer_cache import AnswerCache, CacheLookup
from serve_app.api.answer_deadline import ended_by
from serve_app.api.direct_routes import DirectRoutes, direct_endpoint, refuse_route
from serve_app.api.engine_run import ClientSend, Deadlines, EngineRun, StallWatch
from serve_app.api.forwarding import FLOW_HEADER, INTERNAL_HEADERS, UNMARKED, Forwarder, Marks
from serve_app.api.gate import Gate, GateFullError
from serve_app.api.hand_over import HandOver
from serve_app.api.in_time import Speeds, begin_in_time, shortest_answer
from serve_app.api.journaled_stream import followed_form
from serve_app.api.kept_streams import (
    LAST_EVENT_ID_HEADER,
    RESUMABLE_HEADER,
    KeptStreams,
    resumed_by_get,
)
from serve_app.api.prefix_forwarding import NOT_LOOKED_AT, PrefixForwarding
from serve_app.api.queue_entry import QueueEntry
from serve_app.api.queue_wait import QueueWait
from serve_app.api.refusals import (
    refuse_forwarded,
    refuse_hand_over,
    refuse_waiting_hand_over,
    tier_full,
)
from serve_app.api.request_body import RequestReader
from serve_app.api.request_context import (
    RequestContext,
    has_any_header,
    header,
    path_below_root,
    take_request_id,
    with_path,
)
from serve_app.api.request_record import RequestOutcome, RequestRecord
from serve_app.api.response import ResponseForm, TierResponse
from serve_app.api.routes import (
    STREAMS_PATH,
    TIER_ROUTES,
    Route,
    Work,
    generating_endpoint,
    meant_path,
    tier_route,
)
from serve_app.api.tier_streams import TierStreams
from serve_app.config.replay import ResumableConfig
from serve_app.config.tier import TierSettings
from serve_app.core.access.caller import Caller
from serve_app.core.admission.fair_queue import relative_work
from serve_app.core.admission.queue_drain import NEWEST_WEIGHT
from serve_app.core.generation import Generation
from serve_app.core.tiers import Tier
from serve_app.errors import (
    ClientDisconnectedError,
    ClientStalledError,
    RequestError,
    engine_stopped,
    internal_error,
)
from serve_app.telemetry import TierMetrics

if TYPE_CHECKING:
    from serve_app.api.request_spans import Tracer

WARNING_HEADER = b"x-tierserve-warning"
# A stream whose client has let the edge wait for more of its time says nothing of the engine.
MAX_WAITED_FRACTION = 0.1


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
    reader: RequestReader
    cache: AnswerCache
    access: AccessDesk = field(default_factory=AccessDesk)
    clock_s: Callable[[], float] = time.monotonic
    # Whether the engine is dead, and whether it has finished what it was asked in a generation.
    engine_dead: Callable[[], bool] = lambda: False
    engine_done: Callable[[Generation], bool] = lambda _: False
    # Mean seconds a streamed token, of the streams that ended lately; None before the first.
    token_s: float | None = None
    deadlines: Deadlines = field(default_factory=Deadlines)
    hand_over: HandOver = field(default_factory=HandOver)
    resumable: ResumableConfig = field(default_factory=ResumableConfig)
    # None: requests are not traced.
    tracer: "Tracer | None" = None
    # None: no request looks for a replica that has its prefix.
    prefixes: PrefixForwarding | None = None
    streams: TierStreams = field(init=False)
    _direct: DirectRoutes = field(init=False)
    _engine: EngineRun = field(init=False)

    def __post_init__(self) -> None:
        watch, bodies = StallWatch(self.clock_s), self.reader.bodies
        self._direct = DirectRoutes(
            self.engine_app, self.reader.bounds, bodies, self.deadlines, watch
        )
        prefix = f"{self.forwarder.replica}-" if self.forwarder.replica else ""
        kept = KeptStreams(self.resumable, self.metrics.kept_streams, prefix)
        self.streams = TierStreams(
            kept,
            self.forwarder,
            watch,
            bodies,
            lambda: self.engine_dead() or self.hand_over.draining,
            lambda client: self.hand_over.offer_of(client),
        )
        self._engine = EngineRun(
            self.engine_app,
            self.gate,
            self.metrics,
            self.forwarder.secret,
            self.reader.prompts,
            watch,
            lambda generation: self.engine_done(generation),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.engine_app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        request_id = take_request_id(scope)
        scope = with_path(scope, meant_path(path_below_root(scope), TIER_ROUTES))
        path, method = path_below_root(scope), scope["method"]
        if (route := tier_route(method, path)) is None:
            await refuse_route(scope, send, request_id)
            return
        marks = UNMARKED
        if has_any_header(scope, INTERNAL_HEADERS):
            marks = self.forwarder.secret.take_marks(scope, request_id.value, self.clock_s)
        endpoint = generating_endpoint(path) if route.work is Work.ENGINE else None
        form = ResponseForm(
            endpoint or direct_endpoint(scope), request_id, engine_dead=self.engine_dead
        )
        try:
            caller = self._caller(scope, route, marks.forwarded)
            if endpoint is not None and header(scope, LAST_EVENT_ID_HEADER):
                raise resumed_by_get(scope)
        except RequestError as error:
            self.metrics.requests.labels(endpoint=form.endpoint.name, status=error.status).inc()
            await TierResponse(send, form, self.metrics, self.clock_s).fail(error)
            return
        if not marks.forwarded:
            anthropic = form.endpoint.anthropic
            limits = partial(self.access.headers, caller, anthropic=anthropic)
            form = replace(form, limit_headers=limits)
        client = ClientSend(send, self.clock_s)
        await self._answer(scope, receive, client, form, route, caller, marks)

    async def _answer(
        self,
        scope: Scope,
        receive: Receive,
        client: ClientSend,
        form: ResponseForm,
        route: Route,
        caller: Caller,
        marks: Marks,
    ) -> None:
        """What the route is for."""
        stall_s = self.settings.admission.client_stall_s
        response = TierResponse(client, form, self.metrics, self.clock_s)
        generate = partial(self._generate, form=form, caller=caller)
        if route.path == STREAMS_PATH:
            answer = self.streams.answer
            await answer(scope, receive, response, client, caller, marks, stall_s)
        elif route.work is not Work.ENGINE:
            await self._direct.answer(scope, receive, response, client, route, self.settings)
        elif header(scope, RESUMABLE_HEADER) == b"1" and not (marks.forwarded or marks.followed):
            # Those of `/v1` and of another replica's clients are kept there.
            await self.streams.run(generate, scope, receive, response, client, caller, stall_s)
        elif marks.moved is not None:
            take_up, settings = self.streams.take_up, self.settings
            await take_up(generate, scope, receive, response, caller, marks, settings)
        else:
            await generate(scope, receive, client, marks=marks)

    def _caller(self, scope: Scope, route: Route, forwarded_here: bool) -> Caller:
        """Whose request it is. What another replica has forwarded was authenticated there. Raises
        RequestError 401, 403 and 503."""
        if forwarded_here:
            return Caller(flow=read_flow(header(scope, FLOW_HEADER)))
        return self.access.caller_of(scope, route.callers)

    async def _generate(
        self,
        scope: Scope,
        receive: Receive,
        client: ClientSend,
        form: ResponseForm,
        caller: Caller,
        marks: Marks,
    ) -> None:
        """A generating request from its first byte to the record of its outcome.

        (1) Read it. Where its caller floods the tier, it ends here; else apply the tier's rules:
            from then on it is frozen.
        (2) See whether its answer is kept, and hold what it may use of its caller's quota.
        (3) Choose what is done to its response.
        (4) Serve it, until the end of a drain, or until its client has stalled for too long.
        (5) Learn from it, and record what became of it.
        """
        response = TierResponse(client, form, self.metrics, self.clock_s)
        trace = None
        if self.tracer is not None:
            trace = self.tracer.begin(scope, form, self.model, caller.flow.name)
        record = RequestRecord(
            self.metrics,
            self.clock_s,
            form.endpoint,
            form.request_id.value,
            marks.forwarded,
            self.clock_s(),
            trace,
            marks.replays,
        )
        try:
            if self.engine_dead():
                raise engine_stopped()
            receiving = self.reader.receive(scope, receive, caller, marks, self.settings)
            received = await receiving  # (1)
            full = None
            # What other replicas send has been looked at, and an answer may be kept of what the
            # gate would refuse.
            if not self.cache.config.enabled:
                full = self.reader.refused_early(received)
            if full is not None:
                self.access.count_refused(caller)
                error = self._refusal(full)
                await response.fail(error)
                record.end_early(error, self.reader.early.line(caller.flow))
                return
            context = self.reader.read(received, form, trace, record.started_s, self.settings)
            lookup = self._look_up(context)
            need = need_of(context, self.reader.context_tokens)
            if lookup is not None and lookup.kept is not None:
                need = ONE_REQUEST
            followed = "" if context.journal is None else context.request_id
            is_lost = context.resumption is not None and not context.resumption.only_with_room
            reserved = self.access.reserved(caller, need, followed, is_lost=is_lost)
            async with reserved as spending:  # (2)
                response = self._response(client, form, context, lookup, spending)  # (3)
                if lookup is not None and lookup.kept is not None:
                    spending.answered_from_cache()
                    await response.replay(lookup.kept)
                    record.end(200, outcome="cached")
                    return
                offered = nullcontext()
                if context.journal is not None:
                    offered = self.hand_over.followed(response, client)
                async with self.deadlines.until_ended() as deadline:  # (4)
                    with offered:
                        outcome = await self._serve(
                            context, response, client, stall=lambda: self.deadlines.stall(deadline)
                        )
                if not context.prepared.waits_for_verdict:
                    self._learn_speed(outcome, client)  # (5)
                record.end_served(context, outcome, with_prompt=self.settings.log_prompts)
        except RequestError as error:
            goes_on = await response.fail(error)
            end = record.end_elsewhere if goes_on else record.end
            end(error.status, reason=error.code)
        except (ClientDisconnectedError, asyncio.CancelledError) as ended:
            stalled = isinstance(ended, ClientStalledError)
            if response.offered and not stalled:
                record.end_elsewhere(499, "handed_over")
            else:
                record.end_disconnected("client_stalled" if stalled else "client_gone")
            if isinstance(ended, asyncio.CancelledError):
                raise
        except Exception:
            await response.fail(internal_error())
            record.end(500, reason="fault")
            raise

    def _look_up(self, context: RequestContext) -> CacheLookup | None:
        """None for one that is not kept: its answer is another one each time, or `AnswerCache` has
        a reason."""
        if not context.prepared.deterministic:
            return None
        lookup = self.cache.lookup(context)
        if lookup is not None:
            self.metrics.cache.labels(result=lookup.result).inc()
        return lookup

    def _response(
        self,
        client: ClientSend,
        form: ResponseForm,
        context: RequestContext,
        lookup: CacheLookup | None,
        spending: Spending,
    ) -> TierResponse:
        prepared, borrower = context.prepared, context.borrower
        warnings = [(WARNING_HEADER, text.encode()) for text in prepared.warnings]
        form = replace(
            form,
            headers=(*warnings, *(() if lookup is None else lookup.headers)),
            renamed=None if borrower is None else (self.tier.value, borrower.value),
            written_as=prepared.written_as,
            max_new_tokens=prepared.max_new_tokens,
            says_usage=context.forwarded_here,
        )
        if context.journal is not None and (lookup is None or lookup.kept is None):
            form = followed_form(form, context.resumption)
        # What a deadline has shortened is no answer for others.
        recording = None if lookup is None or context.deadline else lookup.recording
        return TierResponse(client, form, self.metrics, self.clock_s, spending, recording)

    async def _serve(
        self,
        context: RequestContext,
        response: TierResponse,
        client: ClientSend,
        stall: Callable[[], None],
    ) -> RequestOutcome:
        """Queue it, run it here or elsewhere, or refuse it.

        (1) One that another replica has forwarded, or hands over, runs at once or goes back to it.
            One whose prompt another one has read may run there.
        (2) Enter the gate, which queues the request until its slots are granted, or is full.
        (3) Wait in the queue, with heartbeats; at its head, look for another replica.
        (4) Run it on this replica's engine.
        (5) Where the gate is full another replica may have capacity; else refuse, with the time to
            retry.
        """
        prompt_tokens = self.reader.prompts.tokens(len(context.body))
        resumption, settings = context.resumption, self.settings
        admission = settings.admission
        if context.forwarded_here:  # (1)
            limit, expected = context.prepared.max_new_tokens, admission.expected_new_tokens
            work = relative_work(limit, expected)
            refuse_forwarded(context, self.gate, prompt_tokens, work)
        if resumption is not None:
            refuse_hand_over(resumption, self.gate, draining=self.hand_over.draining)
        look = NOT_LOOKED_AT
        if self.prefixes is not None:
            look = await self.prefixes.forward(context, response, prompt_tokens)
            if look.outcome is not None:
                return look.outcome
        entering = self._entry(context, prompt_tokens, look.returning)
        try:
            with entering as entry:  # (2)
                if resumption is not None:
                    refuse_waiting_hand_over(resumption, entry)  # (1)
                    self.metrics.resumed_streams.inc()
                generation = self._engine.generation(
                    entry, context, response.spending, self.settings
                )
                watched = self._engine.watched
                with watched(entry, generation, client, stall, admission.client_stall_s):
                    if not entry.granted.done():  # (3)
                        wait = QueueWait(self.gate, self.forwarder, admission)
                        outcome = await wait(entry, context, response)
                        if outcome is not None:
                            return outcome
                    if self.prefixes is not None:
                        self.prefixes.begins_here(look)
                    run = partial(self._engine.run, entry, generation)
                    if context.deadline is None:
                        return await run(context, response, admission.heartbeat_s)  # (4)
                    async with ended_by(context.deadline):
                        speeds, lengths = self._speeds, self._engine.reasoning
                        begun = begin_in_time(
                            context, entry, generation, speeds, settings.limits, lengths
                        )
                        return await run(begun, response, admission.heartbeat_s)
        except GateFullError as full:  # (5)
            async with context.disconnection() as disconnected:
                outcome = await self.forwarder.forward(context, response, disconnected)
            if outcome is None:
                if not (context.forwarded_here or resumption is not None):
                    self.reader.early.observe(
                        full,
                        prompt_tokens=self.reader.prompts.tokens(len(context.received)),
                        sequences=context.prepared.sequences,
                        max_new_tokens=context.prepared.max_new_tokens,
                    )
                raise self._refusal(full) from full
            self.gate.withdraw(full)
            return outcome

    def _entry(
        self, context: RequestContext, prompt_tokens: float, returning: bool | None = None
    ) -> AbstractContextManager[QueueEntry]:
        """Its entry at the gate; `returning` as `Gate.enter` has it. Raises RequestError where its
        deadline cannot be met, and on entering GateFullError."""
        prepared, begun = context.prepared, context.resumption is not None
        past_tokens = context.past_tokens_each if begun else 0
        most_tokens, shortest = prepared.max_new_tokens, None
        if context.deadline is not None:
            limits = self.settings.limits
            shortest = shortest_answer(context, self._speeds, limits, prompt_tokens=prompt_tokens)
            most_tokens = min(most_tokens, shortest.most_tokens)
        return self.gate.enter(
            prepared.sequences,
            key=None if begun else context.retry_key,
            retried=context.is_retry and not begun,
            work=relative_work(most_tokens, self.settings.admission.expected_new_tokens),
            borrowed=context.borrower is not None,
            max_new_tokens=max(1, most_tokens - past_tokens),
            forwarded=context.forwarded_here,
            prompt_tokens=prompt_tokens + past_tokens,
            flow=context.caller.flow,
            resumed=begun,
            shortest=shortest,
            returning=returning,
        )

    @property
    def _speeds(self) -> Speeds:
        return Speeds(self.gate, 1 / self.settings.admission.min_stream_tokens_per_s)

    def _refusal(self, full: GateFullError) -> RequestError:
        self.metrics.refused.labels(reason=full.admission.reason).inc()
        return tier_full(self.tier, full)

    def _learn_speed(self, outcome: RequestOutcome, client: ClientSend) -> None:
        token_s = outcome.timing.token_s
        if client.waited_s > MAX_WAITED_FRACTION * outcome.timing.streamed_s:
            return
        if token_s is not None and not outcome.forwarded:
            previous_s = token_s if self.token_s is None else self.token_s
            self.token_s = previous_s + NEWEST_WEIGHT * (token_s - previous_s)
