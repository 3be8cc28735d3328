"""One request on this replica's engine: what the engine gets of it, what it took, and what ends it
before its answer does: its client disconnects or stalls, or a drain is over.

- `call_engine`: vLLM's handlers do the work of a whole answer in a task of their own, which goes on
  when the call is cancelled, and Serve cancels the call when a client disconnects. Sent a
  disconnect instead, they end that task and abort the request in the engine. A stream that has
  begun ends when it is cancelled.
- `Deadlines`: the end of all running requests at once, as at the end of a drain.
- `StallWatch`: a stream whose client does not read fills the sockets and then stands still inside
  `send`. The engine goes on, since nothing slows it down; so once it has finished, the slots of
  such a stream are free, and after `stall_s` without a byte taken the request ends.
"""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
    suppress,
)
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.api.access import Spending, usage_of
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
from serve_app.config.tier import TierSettings
from serve_app.core.access.lease import Usage
from serve_app.core.generation import GENERATION, Generation
from serve_app.core.reasoning.crowding import ReasoningLengths
from serve_app.core.reasoning.trace import ThoughtEnd
from serve_app.errors import (
    ClientDisconnectedError,
    ClientStalledError,
    RequestError,
    engine_stopped,
)
from serve_app.telemetry import TierMetrics

log = logging.getLogger(__name__)

END_WITHIN_S = 5.0
LOOK_EVERY_S = 0.5


@dataclass(slots=True)
class EngineRun:
    """`app` is vLLM's application; `engine_done` says whether its engine has finished what it was
    asked in a generation."""

    app: ASGIApp
    gate: Gate
    metrics: TierMetrics
    secret: ClusterSecret
    prompts: PromptEstimate
    watch: "StallWatch"
    engine_done: Callable[[Generation], bool]
    # Of all that ran here, with a deadline or without.
    reasoning: ReasoningLengths = field(default_factory=ReasoningLengths)
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
        client: "ClientSend",
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
        observed = own and not context.prepared.waits_for_verdict
        send: Send | EngineEvents = response.from_engine(
            generation, observed=observed, before_whole=lambda: self.gate.release(entry)
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
            self._learn_lengths(generation)
        return RequestOutcome(response.status, response.timing, entry.wait_s, generation)

    def _learn_lengths(self, generation: Generation) -> None:
        for facts in generation.sequences.values():
            if (thought := facts.thought) is not None:
                natural = thought.end is ThoughtEnd.COMPLETE
                self.reasoning.observe(thought.tokens, natural=natural)

    def _kept_open(
        self, send: Send, context: RequestContext, response: TierResponse, heartbeat_s: float
    ) -> AbstractAsyncContextManager[Send]:
        """A stream of which nothing can be sent until a vote is decided has heartbeats."""
        if context.prepared.waits_for_verdict:
            return beating(response, send, heartbeat_s)
        return nullcontext(send)

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


async def call_engine(
    app: ASGIApp,
    scope: Scope,
    *,
    body: bytes,
    receive: Receive,
    send: Send,
    generation: Generation | None = None,
) -> None:
    """Call `app` with a body that was already read; cancelled, or when its client disconnects, end
    its work before returning. The engine behind `app` finds `generation` in its context."""
    connection = _Connection(body, send)
    token = GENERATION.set(generation)
    try:
        call = asyncio.ensure_future(app(scope, connection.receive, connection.send))
    finally:
        GENERATION.reset(token)
    disconnected = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({call, disconnected}, return_when=asyncio.FIRST_COMPLETED)
        if call.done():
            call.result()
    finally:
        disconnected.cancel()
        if not call.done():
            await _end(call, connection)


async def _disconnected(receive: Receive) -> None:
    """Until the client disconnects. Of a route that reads no body one may still come, if only the
    empty one of a GET."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end(call: asyncio.Future[None], connection: "_Connection") -> None:
    connection.closed.set_result(None)
    if not connection.answering:
        await asyncio.wait({call}, timeout=END_WITHIN_S)
    call.cancel()
    with suppress(asyncio.CancelledError, Exception):
        await call


@dataclass(slots=True)
class _Connection:
    """The client as vLLM's application sees it. `closed` is done once the client is to look
    disconnected; nothing is sent any more then."""

    body: bytes | None
    send_on: Send
    answering: bool = False
    closed: asyncio.Future[None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    async def receive(self) -> Message:
        if self.body is not None:
            body, self.body = self.body, None
            return {"type": "http.request", "body": body, "more_body": False}
        # Several may listen, and one that stops listening is no reason for the others to.
        await asyncio.wait({self.closed})
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if not self.closed.done():
            self.answering = True
            await self.send_on(message)


_STOPPING = "The replica is being stopped and its time to drain is over. Please retry."


def replica_stopping() -> RequestError:
    """The 503 at the end of a drain."""
    return RequestError(503, _STOPPING, code="replica_stopping", retry_after_s=1)


@dataclass(slots=True)
class Deadlines:
    """One for each running request, which never comes unless they are ended."""

    _all: set[asyncio.Timeout] = field(default_factory=set)
    _stalled: set[asyncio.Timeout] = field(default_factory=set)
    _why: Callable[[], RequestError] = replica_stopping

    @asynccontextmanager
    async def until_ended(self) -> AsyncIterator[asyncio.Timeout]:
        """Raises the RequestError for which the requests are ended in the block, and
        ClientStalledError when `stall` has ended this one."""
        deadline = asyncio.timeout(None)
        self._all.add(deadline)
        try:
            async with deadline:
                yield deadline
        except TimeoutError as error:
            if not deadline.expired():
                raise
            if deadline in self._stalled:
                raise ClientStalledError from error
            raise self._why() from error
        finally:
            self._all.discard(deadline)
            self._stalled.discard(deadline)

    def stall(self, deadline: asyncio.Timeout) -> None:
        """End the request of this deadline, whose client reads nothing."""
        self._stalled.add(deadline)
        deadline.reschedule(asyncio.get_running_loop().time())

    def end(self, why: Callable[[], RequestError] = replica_stopping) -> int:
        """End all; their number."""
        self._why = why
        deadlines = list(self._all)
        for deadline in deadlines:
            deadline.reschedule(asyncio.get_running_loop().time())
        return len(deadlines)


@dataclass(slots=True, eq=False)
class ClientSend:
    """An ASGI `send` that knows since when its client reads nothing."""

    send_on: Send
    clock_s: Callable[[], float]
    waiting_since_s: float | None = None
    # Of all chunks together.
    waited_s: float = 0.0

    async def __call__(self, message: Message) -> None:
        began_s = self.waiting_since_s = self.clock_s()
        try:
            await self.send_on(message)
        finally:
            self.waiting_since_s = None
            self.waited_s += self.clock_s() - began_s


@dataclass(slots=True, eq=False)
class Watched:
    """One request. `stall` ends it; `engine_done` says whether its engine work is over, and
    `release` then frees its slots at the gate."""

    client: ClientSend
    stall: Callable[[], None]
    engine_done: Callable[[], bool] = lambda: False
    release: Callable[[], None] = lambda: None


@dataclass(slots=True)
class StallWatch:
    """Looks at all requests of a replica twice a second, while there are any."""

    clock_s: Callable[[], float]
    _watched: set[Watched] = field(default_factory=set)
    _looking: asyncio.TimerHandle | None = None
    _stall_s: float = 0.0

    @contextmanager
    def watching(self, watched: Watched, stall_s: float) -> Iterator[None]:
        """Watch it while the block runs."""
        self._watched.add(watched)
        self._stall_s = stall_s
        if self._looking is None:
            self._look_later()
        try:
            yield
        finally:
            self._watched.discard(watched)
            if not self._watched and self._looking is not None:
                self._looking.cancel()
                self._looking = None

    def _look_later(self) -> None:
        self._looking = asyncio.get_running_loop().call_later(LOOK_EVERY_S, self._look)

    def _look(self) -> None:
        self._look_later()
        now_s = self.clock_s()
        for watched in list(self._watched):
            since_s = watched.client.waiting_since_s
            if since_s is None or now_s - since_s < LOOK_EVERY_S:
                continue
            if watched.engine_done():
                watched.release()
            if now_s - since_s >= self._stall_s:
                watched.stall()
