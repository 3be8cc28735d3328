"""The resumable streams of one replica: those that were asked for at its tier's own route.

Such a stream runs on without its client as one of `/v1` does (`kept_streams.py`). Its id begins
with the name of the replica that began it, so that whichever one a client comes back to asks that
one, or the others where it is gone: the stream may have moved (`stream_moves.py`).
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

import aiohttp
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from serve_app.api.asked_stream import AskedStream, with_length
from serve_app.api.client_connection import BodyOnly, GivenBody, has_left, while_connected
from serve_app.api.engine_errors import error_event
from serve_app.api.engine_run import (
    ClientSend,
    Deadlines,
    StallWatch,
    Watched,
    replica_stopping,
)
from serve_app.api.followed_send import FollowedSend
from serve_app.api.forwarding import UNMARKED, Forwarder, Marks
from serve_app.api.journaled_stream import whole_events
from serve_app.api.kept_stream import STREAM_ID_HEADER, KeptStream, StreamFacts
from serve_app.api.kept_streams import LAST_EVENT_ID_HEADER, KeptStreams, last_event
from serve_app.api.lending import no_capacity
from serve_app.api.replay_memory import Kept, ReplayMemory
from serve_app.api.replayed_stream import ReplayedStream
from serve_app.api.request_body import BodyReader
from serve_app.api.request_context import path_below_root
from serve_app.api.response import TierResponse
from serve_app.api.stream_moves import (
    AWAY,
    FORWARDED,
    TAKEN_UP,
    StreamMoves,
    is_quick,
    may_move,
    why_lost,
)
from serve_app.config.tier import TierSettings
from serve_app.core.access.caller import Caller
from serve_app.core.replay.losses import MOST_QUICK
from serve_app.errors import ClientDisconnectedError, RequestError

# So long a stream is looked for whose replica is not in the list any more: it is gone with it, or
# drains, and moves as soon as it knows that its client has left.
MOVES_ON_WITHIN_S = 3.0
# Three looks and not more: each asks all replicas, and anybody may invent an id.
FIRST_PAUSE_S, PAUSE_GROWS = 0.5, 2.0
_ID = re.compile(r"\w+-[0-9a-f]{32}", re.ASCII)
_PASSED_ON = (b"content-type", b"cache-control", b"x-accel-buffering", STREAM_ID_HEADER)


class Generate(Protocol):
    """Runs a request: `receive` and `client` are its client's, or stand for it."""

    def __call__(
        self, scope: Scope, receive: Receive, client: ClientSend, *, marks: Marks
    ) -> Awaitable[None]: ...


@dataclass(slots=True)
class TierStreams:
    """`kept.id_prefix` has the name that `forwarder` knows this replica by; `ending` says that it
    takes nothing up any more."""

    kept: KeptStreams
    forwarder: Forwarder
    watch: StallWatch
    bodies: BodyReader
    ending: Callable[[], bool]
    # Where the replica drains, offers the stream that goes there to the others.
    offer: Callable[[ClientSend], None]
    moves: StreamMoves = field(init=False)
    # For the bodies and journals of those that run.
    memory: ReplayMemory = field(init=False)
    _running: dict[KeptStream, ClientSend] = field(default_factory=dict[KeptStream, ClientSend])
    # Of those who read: what runs for them has deadlines of its own.
    _deadlines: Deadlines = field(default_factory=Deadlines)

    def __post_init__(self) -> None:
        self.moves = StreamMoves(self.forwarder, self.watch.clock_s)
        self.memory = ReplayMemory(self.kept.memory.limit_bytes)
        self.kept.on_away = self._has_left

    async def run(
        self,
        generate: Generate,
        scope: Scope,
        receive: Receive,
        response: TierResponse,
        client: ClientSend,
        caller: Caller,
        stall_s: float,
    ) -> None:
        """Run a request whose client may leave and come back. Raises what `generate` raises."""
        body, form = BodyOnly(receive), response.form
        asked = AskedStream(
            scope,
            body,
            lambda: bytes(body.read),
            form.endpoint,
            replace(UNMARKED, followed=True),
            self.watch.clock_s(),
            self.watch.clock_s,
        )
        async with self._reading(body.after, client, stall_s):
            await self.kept.run(
                partial(self._follow, generate, asked),
                client,
                caller=caller,
                request_id=form.request_id.value,
                tier=self.forwarder.tier.value,
            )

    async def take_up(
        self,
        generate: Generate,
        scope: Scope,
        receive: Receive,
        response: TierResponse,
        caller: Caller,
        marks: Marks,
        settings: TierSettings,
    ) -> None:
        """Go on with a stream that another replica has had, without a client until its own comes.
        Answers that replica, whose request has the client's body, the journal, and the events."""
        assert marks.moved is not None
        more_bytes = marks.journal_bytes + marks.moved.events_bytes
        try:
            if self.ending():
                raise replica_stopping()
            received = await self.bodies.read(
                scope,
                receive,
                limit_bytes=settings.max_body_bytes + more_bytes,
                timeout_s=settings.admission.body_timeout_s,
            )
            if await has_left(receive):
                # It has waited too long for the answer, and goes on with the stream itself.
                return
            self._begin_again(generate, scope, received, response, caller, marks)
            await response.start(TAKEN_UP, [(b"content-length", b"0")])
            await response.chunk(b"", more=False)
        except RequestError as error:
            await response.fail(error)
        except ClientDisconnectedError:
            return

    def _begin_again(
        self,
        generate: Generate,
        scope: Scope,
        received: bytes,
        response: TierResponse,
        caller: Caller,
        marks: Marks,
    ) -> None:
        """Raises RequestError."""
        moved, resumption, form = marks.moved, marks.resumption, response.form
        assert moved is not None
        assert resumption is not None
        end = len(received) - moved.events_bytes
        body_end = end - marks.journal_bytes
        # What follows it keeps nothing else of what was received.
        body = received[:body_end]
        begun = ReplayedStream(
            events=resumption.events,
            journal=bytearray(received[body_end:end]),
            created_s=resumption.created_s,
        )
        asked = AskedStream(
            with_length(scope, end),
            GivenBody(received[:end]),
            lambda: body,
            form.endpoint,
            marks,
            self.watch.clock_s(),
            self.watch.clock_s,
            begun,
            moved.quick_losses,
        )
        tier, request_id = self.forwarder.tier.value, form.request_id.value
        facts = StreamFacts(moved.stream_id, caller.flow.name, request_id, tier)
        follow = partial(self._follow, generate, asked)
        if not self.kept.take_up(follow, facts, received[end:]):
            raise no_capacity("No memory for the events of a stream that another replica has had.")

    async def answer(
        self,
        scope: Scope,
        receive: Receive,
        response: TierResponse,
        client: ClientSend,
        caller: Caller,
        marks: Marks,
        stall_s: float,
    ) -> None:
        """Answer `GET /v1/streams/{id}` below the tier's prefix, as a whole."""
        try:
            async with self._reading(receive, client, stall_s):
                stream_id = path_below_root(scope).rpartition("/")[2]
                after = last_event(scope, Request(scope).query_params.get("after"))
                if marks.forwarded:
                    await self.kept.resume(
                        self.kept.find(stream_id, caller), after, _into(response)
                    )
                else:
                    await self._find(stream_id, scope, response, caller, after)
        except RequestError as error:
            await response.fail(error)

    # --- what runs

    async def _follow(
        self, generate: Generate, asked: AskedStream, to: Send, stream: KeptStream | None
    ) -> None:
        """Run a request, and see that its stream goes on where it is lost before its end."""
        if stream is None:
            client = ClientSend(to, self.watch.clock_s)
            await generate(asked.scope, asked.receive, client, marks=UNMARKED)
            return
        with self.memory.keeping() as memory:
            while True:
                began_s = self.watch.clock_s()
                followed = await self._until_lost(generate, asked, to, stream, memory)
                if followed.lost is None:
                    return
                if is_quick(followed, self.watch.clock_s() - began_s):
                    asked = replace(asked, quick_losses=asked.quick_losses + 1)
                if asked.quick_losses >= MOST_QUICK:
                    break
                if not may_move(stream, followed, asked.marks.replays):
                    break
                if followed.lost != FORWARDED and await self._moved(asked, stream, followed):
                    return
                if followed.lost not in (FORWARDED, AWAY):
                    break
                asked = asked.again(followed, offers=asked.offers and followed.lost != AWAY)
            await _end(asked, to, followed)

    async def _until_lost(
        self, generate: Generate, asked: AskedStream, to: Send, stream: KeptStream, memory: Kept
    ) -> FollowedSend:
        def has_nobody() -> bool:
            goes_on = followed.lost is None and not followed.stream.finished
            return stream.away and goes_on and may_move(stream, followed, asked.marks.replays)

        async def offered() -> None:
            # Its client may come back while the others are looked for.
            if asked.offers and has_nobody() and await self.moves.possible() and has_nobody():
                followed.stream.lost = AWAY
                running.cancel()

        followed = FollowedSend(
            to,
            memory,
            lambda: len(asked.body()),
            asked.endpoint,
            offered,
            begun=asked.begun is not None,
            stream=asked.begun or ReplayedStream(),
        )
        client = self._running[stream] = ClientSend(followed, self.watch.clock_s)
        running = asyncio.ensure_future(
            generate(asked.scope, asked.receive, client, marks=asked.marks)
        )
        try:
            await running
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if followed.lost != AWAY or (task is not None and task.cancelling()):
                raise
        finally:
            del self._running[stream]
        return followed

    def _has_left(self, stream: KeptStream) -> None:
        if (client := self._running.get(stream)) is not None:
            self.offer(client)

    async def _moved(self, asked: AskedStream, stream: KeptStream, followed: FollowedSend) -> bool:
        if not await self.moves.moved(asked, stream, followed):
            return False
        self.kept.moved(stream)
        return True

    # --- who reads

    @asynccontextmanager
    async def _reading(
        self, receive: Receive, client: ClientSend, stall_s: float
    ) -> AsyncIterator[None]:
        """Until the client has left, or takes nothing any more: then there is nobody to tell."""
        with suppress(ClientDisconnectedError):
            async with self._deadlines.until_ended() as deadline:
                watched = Watched(client, stall=lambda: self._deadlines.stall(deadline))
                with self.watch.watching(watched, stall_s):
                    async with while_connected(receive):
                        yield

    async def _find(
        self, stream_id: str, scope: Scope, response: TierResponse, caller: Caller, after: int
    ) -> None:
        """Send on what this replica, or another one, has of a stream. Raises RequestError.

        Twice at least: while the others are asked it may move to one that had said no, or here."""
        began_s, pause_s, looks = self.watch.clock_s(), FIRST_PAUSE_S, 0
        while True:
            try:
                stream = self.kept.find(stream_id, caller)
            except RequestError as error:
                if error.status != 404 or not _ID.fullmatch(stream_id):
                    raise
            else:
                await self.kept.resume(stream, after, _into(response))
                return
            began_at = stream_id.rpartition("-")[0]
            url = await self.forwarder.url_of(began_at)
            if await self._sent_by_another(url, scope, response, caller, after):
                return
            looks += 1
            listed = url is not None or began_at == self.forwarder.replica
            looked_s = self.watch.clock_s() - began_s
            if looks > 1 and (listed or looked_s + pause_s > MOVES_ON_WITHIN_S):
                raise _nowhere()
            if not listed:
                await asyncio.sleep(pause_s)
                pause_s *= PAUSE_GROWS

    async def _sent_by_another(
        self,
        began: str | None,
        scope: Scope,
        response: TierResponse,
        caller: Caller,
        after: int,
    ) -> bool:
        """Whether another replica has it: the one that began it, where that is there, or one to
        which it has moved. Raises RequestError."""
        headers = {LAST_EVENT_ID_HEADER.decode(): str(after)}
        if response.form.endpoint.anthropic:
            headers["anthropic-version"] = "1"
        request_id = response.form.request_id.value
        others = [url for url in await self.forwarder.peers() if url != began]
        for url in others if began is None else [began, *others]:
            try:
                asked = self.forwarder.read_stream(url + scope["path"], caller, request_id, headers)
                async with asked as answer:
                    if answer.status != 404:
                        await _copy(answer, response)
                        return True
            except aiohttp.ClientError as error:
                if response.started:
                    raise why_lost(FORWARDED) from error
        return False


def _nowhere() -> RequestError:
    return RequestError(
        404,
        "There is no such stream of yours at any replica of this tier: the one that ran it may be "
        "gone. Send the request again; a stream of /v1 outlives its replica.",
        code="stream_not_found",
    )


async def _end(asked: AskedStream, to: Send, followed: FollowedSend) -> None:
    """Of a stream that is lost for good."""
    endpoint = asked.endpoint
    body = why_lost(followed.lost).body(anthropic=endpoint.anthropic)
    event = error_event(body, endpoint, number=followed.stream.events)
    await to({"type": "http.response.body", "body": event, "more_body": False})


def _into(response: TierResponse) -> Send:
    """A `send` whose response has the headers that each one of the edge's has."""

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            await response.start(message["status"], [*message["headers"]])
        else:
            response.complete = not message.get("more_body", False)
            await response.send(message)

    return send


async def _copy(answer: aiohttp.ClientResponse, response: TierResponse) -> None:
    send = _into(response)
    headers = [(name.lower(), value) for name, value in answer.raw_headers]
    kept = [each for each in headers if each[0] in _PASSED_ON]
    await send({"type": "http.response.start", "status": answer.status, "headers": kept})
    chunks = answer.content.iter_any()
    if answer.content_type == "text/event-stream":
        # What is said where that replica is lost stands behind a whole event.
        chunks = whole_events(chunks)
    async for chunk in chunks:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
