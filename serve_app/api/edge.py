"""A tier's edge: every request to a replica goes through here before vLLM's own application."""

import asyncio
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.api.answer import Answer
from serve_app.api.answer_cache import AnswerCache
from serve_app.api.answering import AnsweringRoutes
from serve_app.api.body_reader import BodyReader
from serve_app.api.client_identity import client_of
from serve_app.api.deadlines import Deadlines
from serve_app.api.endpoints import MESSAGES, Endpoint, generating_endpoint
from serve_app.api.engine_call import call_engine
from serve_app.api.exchange import Arrival, Exchange
from serve_app.api.field_bounds import FieldBounds
from serve_app.api.field_rules import SchemaRules
from serve_app.api.gate import Gate
from serve_app.api.lending import LendingDesk, no_room
from serve_app.api.messages import (
    ClientGone,
    ClientStalled,
    RequestId,
    path_below_root,
    send_error,
    shown,
    speaks_anthropic,
    take_request_id,
    with_path,
)
from serve_app.api.payload import as_json, parse_object
from serve_app.api.place import Place, Refused
from serve_app.api.prompt_estimate import PromptEstimate
from serve_app.api.recall import answered_from
from serve_app.api.relay import Relay
from serve_app.api.request_record import RequestRecord
from serve_app.api.routes import TIER_ROUTES, Route, meant_path, tier_methods, tier_route
from serve_app.api.rules import PreparedRequest, RuleBook, prepare
from serve_app.api.stall_watch import ClientSend, StallWatch, Watched
from serve_app.api.structure_field import structure_field
from serve_app.api.unserved import no_route
from serve_app.config.tier import TierSettings
from serve_app.core.admission.queue_drain import NEWEST_WEIGHT, relative_work
from serve_app.core.generation import Generation
from serve_app.core.structure.schema_limits import SchemaLimits
from serve_app.core.tiers import Tier
from serve_app.errors import FAULT, RequestError, engine_stopped
from serve_app.telemetry import TierMetrics


@dataclass(slots=True)
class TierEdge:
    """ASGI application: rules, admission, heartbeats, metrics and logs around `engine_app`."""

    engine_app: ASGIApp
    tier: Tier
    model: str
    settings: TierSettings
    gate: Gate
    metrics: TierMetrics
    relay: Relay
    known_fields: Mapping[str, frozenset[str]]
    desk: LendingDesk
    cache: AnswerCache
    # Of the engine's model: whether it thinks, and whether it is an R1 distill.
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
    _answering: AnsweringRoutes = field(init=False)
    _watch: StallWatch = field(init=False)
    _engine_ids: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._answering = AnsweringRoutes(self.engine_app, self.bounds, self.bodies)
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
        relayed_here = self.relay.secret.take_relayed(scope, request_id.value)
        endpoint, route = generating_endpoint(path), tier_route(method, path)
        if endpoint is not None and method == "POST":
            arrival = Arrival(scope, receive, request_id, relayed_here)
            await self._generate(arrival, send, endpoint)
        elif route is not None:
            await self._answer_directly(scope, receive, send, route, request_id)
        else:
            await _refuse_route(scope, send, request_id)

    def _answer(self, send: Send, request_id: RequestId, endpoint: Endpoint) -> Answer:
        return Answer(
            send,
            request_id=request_id,
            endpoint=endpoint,
            metrics=self.metrics,
            clock_s=self.clock_s,
            engine_dead=self.engine_dead,
        )

    async def _answer_directly(
        self, scope: Scope, receive: Receive, send: Send, route: Route, request_id: RequestId
    ) -> None:
        """A route that does not generate. It is not counted among the tier's requests."""
        client = ClientSend(send, self.clock_s)
        # Anthropic's clients count tokens below their own route.
        form = _ANSWERING_ANTHROPIC if route.path.startswith(MESSAGES.path) else _ANSWERING
        answer = self._answer(client, request_id, form)
        try:
            async with self.deadlines.until_ended() as deadline:
                watched = Watched(client, stall=lambda: self.deadlines.stall(deadline))
                with self._watch.watching(watched, self.settings.admission.client_stall_s):
                    await self._answering(scope, receive, answer, route, self.settings)
        except RequestError as error:
            await answer.fail(error)
        except ClientGone:
            return

    async def _generate(self, arrival: Arrival, send: Send, endpoint: Endpoint) -> None:
        request_id = arrival.request_id
        client = ClientSend(send, self.clock_s)
        answer = self._answer(client, request_id, endpoint)
        record = RequestRecord(
            self.metrics, self.clock_s, endpoint, request_id, arrival.relayed_here, self.clock_s()
        )
        try:
            if self.engine_dead():
                raise engine_stopped()
            exchange = await self._prepare(arrival, answer, endpoint)
            if await answered_from(self.cache, exchange, request_id.value, self.metrics.cache):
                record.end(200, outcome="cached")
                return
            async with self.deadlines.until_ended() as deadline:
                await self._serve(exchange, client, stall=lambda: self.deadlines.stall(deadline))
            self._learn_speed(answer, client)
            record.end_answered(exchange, with_prompt=self.settings.log_prompts)
        except RequestError as error:
            await answer.fail(error)
            record.end(error.status, reason=error.code)
        except (ClientGone, asyncio.CancelledError) as gone:
            record.end_left("client_stalled" if isinstance(gone, ClientStalled) else "client_gone")
            if isinstance(gone, asyncio.CancelledError):
                raise
        except Exception:
            await answer.fail(RequestError(500, FAULT, code="internal_error"))
            record.end(500, reason="fault")
            raise

    async def _prepare(self, arrival: Arrival, answer: Answer, endpoint: Endpoint) -> Exchange:
        scope, receive = arrival.scope, arrival.receive
        borrower = self.desk.borrower_of(scope)
        asked = await self.bodies.read(
            scope,
            receive,
            limit_bytes=self.settings.max_body_bytes,
            timeout_s=self.settings.admission.body_timeout_s,
        )
        payload = parse_object(asked)
        if borrower is None:
            book = RuleBook(
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
                self.settings.limits.lowers(bare=path_below_root(scope) in ("", "/")),
                self.other_tiers_limit,
            )
            prepared = prepare(payload, endpoint, book)
        else:
            most = self.settings.max_new_tokens
            prepared = self.desk.prepare(scope, payload, endpoint, borrower, most)
            answer.measured_here, answer.renamed = False, (self.tier.value, borrower.value)
        answer.written_as = prepared.written_as
        answer.max_new_tokens = prepared.max_new_tokens
        body = as_json(prepared.payload)
        answer.headers += [(WARNING_HEADER, text.encode()) for text in prepared.warnings]
        return Exchange(
            scope,
            receive,
            answer,
            endpoint,
            prepared,
            asked,
            body,
            request_id=arrival.request_id.value,
            relayed_here=arrival.relayed_here,
            borrower=borrower,
        )

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

    async def _serve(
        self, exchange: Exchange, client: ClientSend, stall: Callable[[], None]
    ) -> None:
        """Admit, wait, run; or pass to a replica that has room; or refuse."""
        self._take_relayed(exchange)
        try:
            entering = self.gate.enter(
                exchange.prepared.sequences,
                key=exchange.key,
                retried=exchange.says_it_retries,
                work=self._work(exchange.prepared),
                borrowed=exchange.borrower is not None,
                max_new_tokens=exchange.prepared.max_new_tokens,
                relayed=exchange.relayed_here,
                prompt_tokens=self.prompts.tokens(len(exchange.body)),
            )
            with entering as place, self._watched(place, exchange, client, stall):
                if place.granted.done() or not await self._wait(place, exchange):
                    await self._run(place, exchange)
        except Refused as refused:
            async with exchange.disconnection() as gone:
                if not await self.relay.passed_on(exchange, gone):
                    raise self._refusal(refused) from refused
            self.gate.withdraw(refused)

    def _take_relayed(self, exchange: Exchange) -> None:
        """Raises RequestError where one that another replica passes on would not run at once."""
        sequences = exchange.prepared.sequences
        if exchange.borrower is not None:
            prompt_tokens = self.prompts.tokens(len(exchange.body))
            lending = self.gate.may_lend(sequences, prompt_tokens)
            if not lending.allowed:
                raise no_room(f"Nothing to lend: {lending.reason}.")
        elif exchange.relayed_here and not self.gate.has_room(sequences):
            raise no_room("No room for a relayed request.")

    async def _wait(self, place: Place, exchange: Exchange) -> bool:
        """Until the slots are granted (False) or another replica has answered it (True)."""
        admission = self.settings.admission
        next_heartbeat_s = self.clock_s() + admission.heartbeat_s
        async with exchange.disconnection() as gone:
            while not place.granted.done():
                await asyncio.wait(
                    {place.granted, gone},
                    timeout=min(admission.relay_after_s, admission.heartbeat_s),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if gone.done():
                    raise ClientGone
                if place.granted.done():
                    break
                if exchange.prepared.streaming and self.clock_s() >= next_heartbeat_s:
                    await exchange.answer.heartbeat(self.gate.ahead_of(place))
                    next_heartbeat_s += admission.heartbeat_s
                # Each await may have let the gate grant the slots.
                if place.granted.done() or self.gate.ahead_of(place) > 0:
                    continue
                if await self.relay.has_somewhere() and not place.granted.done():
                    with self.gate.step_aside(place):
                        if await self.relay.passed_on(exchange, gone):
                            return True
        return False

    async def _run(self, place: Place, exchange: Exchange) -> None:
        exchange.queue_wait_s = place.wait_s
        if exchange.borrower is None:
            self.metrics.queue_wait_s.observe(place.wait_s)
        prepared = exchange.prepared
        generation = Generation(
            prepared.plan,
            prepared.stop_repetition,
            _as_written(prepared, structure_field(prepared.payload, exchange.endpoint.name)),
            cache_salt=self._cache_salt(exchange),
            on_prompt=lambda tokens: self.gate.prompt_counted(place, tokens),
            on_first_token=lambda: self._first_token(place, exchange),
        )
        exchange.answer.generation = generation
        exchange.answer.before_whole = lambda: self.gate.release(place)
        with self._engine_id(exchange.request_id) as exchange.engine_id:
            await call_engine(
                self.engine_app,
                exchange.engine_scope(),
                body=exchange.body,
                receive=exchange.receive,
                send=exchange.answer,
                generation=generation,
            )
        if not exchange.answer.complete:
            raise ClientGone
        if exchange.answer.status == 200:
            self.gate.observe_service(place)

    def _first_token(self, place: Place, exchange: Exchange) -> None:
        if exchange.borrower is None and place.prompt_counted:
            self.prompts.observe(body_bytes=len(exchange.body), tokens=place.prompt_tokens)
        self.gate.first_token(place)

    def _cache_salt(self, exchange: Exchange) -> str | None:
        if not self.settings.prefix_cache_isolation:
            return None
        return self.relay.secret.cache_salt(client_of(exchange.scope))

    @contextmanager
    def _watched(
        self, place: Place, exchange: Exchange, client: ClientSend, stall: Callable[[], None]
    ) -> Iterator[None]:
        """A client that stops reading holds no slot beyond its engine's work, and not for ever
        what it holds else."""

        def engine_done() -> bool:
            generation = exchange.answer.generation
            return generation is not None and self.engine_done(generation)

        watched = Watched(client, stall, engine_done, lambda: self.gate.release(place))
        with self._watch.watching(watched, self.settings.admission.client_stall_s):
            yield

    def _work(self, prepared: PreparedRequest) -> float:
        expected_new_tokens = self.settings.admission.expected_new_tokens
        return relative_work(prepared.max_new_tokens, expected_new_tokens)

    def _refusal(self, refused: Refused) -> RequestError:
        admission = refused.admission
        self.metrics.refused.labels(reason=admission.reason).inc()
        return RequestError(
            429,
            f"The {self.tier} tier is full: {admission.ahead} requests are ahead, about "
            f"{admission.wait_s:.0f} s of work. Come back in {admission.retry_after_s} s.",
            code=admission.reason,
            retry_after_s=admission.retry_after_s,
        )

    def _learn_speed(self, answer: Answer, client: ClientSend) -> None:
        token_s = answer.timing.token_s
        if client.waited_s > MAX_WAITED_SHARE * answer.timing.streamed_s:
            return  # as fast as its client reads, which says nothing of the engine
        if token_s is not None and not answer.relayed:
            previous_s = token_s if self.token_s is None else self.token_s
            self.token_s = previous_s + NEWEST_WEIGHT * (token_s - previous_s)


def _as_written(prepared: PreparedRequest, field: str | None) -> str | None:
    """The field that binds the answer, as its client knows it. vLLM binds calls to their tools'
    schemas where the model may call, too."""
    field = field or ("tools" if prepared.payload.get("tools") else None)
    return None if field is None else prepared.written_as.get(field, field)


async def _refuse_route(scope: Scope, send: Send, request_id: RequestId) -> None:
    method, path = scope["method"], path_below_root(scope)
    error, headers = no_route(method, path, shown(scope)), ()
    if allowed := tier_methods(path):
        message = f"{shown(scope)} takes {allowed}, not {method}."
        error = RequestError(405, message, code="method_not_allowed")
        headers = [(b"allow", allowed.encode())]
    anthropic = speaks_anthropic(scope)
    await send_error(send, error, request_id=request_id, anthropic=anthropic, headers=headers)


WARNING_HEADER = b"x-tierserve-warning"
MAX_WAITED_SHARE = 0.1
_ANSWERING = Endpoint("answering", "", (), None)
_ANSWERING_ANTHROPIC = Endpoint("answering", "", (), None, anthropic=True)
