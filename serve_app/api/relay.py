"""One request on its way through the gateway, until its client has the end of its answer.

A stream that loses its replica is held with heartbeats, and goes on where another one continues it
behind the last event that the client has. A whole answer is asked for again. Both are bounded in
number and time; then the client gets an error.
"""

import asyncio
import logging
import math
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.types import Send

from serve_app.api.answer_deadline import FORWARDED_GRACE_S, TIME_LEFT_HEADER, ended_by
from serve_app.api.engine_errors import error_event
from serve_app.api.gateway_request import GatewayRequest, RelayParts
from serve_app.api.replay_memory import Kept
from serve_app.api.replay_wire import (
    JOURNAL_HEADER,
    REPLAYED_HEADER,
    RESUME_HEADER,
    journal_mark,
)
from serve_app.api.replayed_stream import ReplayedStream
from serve_app.api.response import SSE_HEADERS
from serve_app.api.upstream import ConnectError, Upstream, UpstreamError
from serve_app.api.upstream_response import (
    BAD_GATEWAY,
    NO_SERVER_AT_ONCE_S,
    NOBODY,
    TWO_LOST,
    forwardable,
    lost_by,
    streams_events,
)
from serve_app.core.replay.losses import Losses
from serve_app.errors import RequestError

log = logging.getLogger(__name__)

HEARTBEAT = b": waiting for a replica\n\n"
# A larger whole answer is forwarded as it comes, and not asked for again.
MOST_WHOLE_BYTES = 4 * 1024 * 1024
# Between two looks for somebody who goes on: within the first two seconds, in which another replica
# is found if there is one, seven of them.
FIRST_PAUSE_S, PAUSE_GROWS, MOST_PAUSE_S = 0.1, 1.5, 1.0
# HAProxy keeps connections to its replicas. Those to one that was just lost it has not all closed
# when the first of them breaks, and a request on one of these gets no answer, or a 502, as if
# another replica had died of it: 11 of 96 that were sent at once, none of 96 after 0.02 s.
SETTLES_S = 0.05
_BROKEN = frozenset({"broken", "no_answer"})
# What a replica says of itself whose process ends a second later.
_ENDS = frozenset({"engine_stopped", "replica_stopping"})
# A proxy that is started again listens within a second.
REFUSED_FOR_S = 1.0
# After an offer that nobody has answered.
NO_OFFER_S = 30.0
# Why a request is given up, as its client reads it.
_REASONS = {
    "held_too_long": "None that could go on with it came within {:g} s.",
    "no_journal": "What it takes to go on with it elsewhere was not kept.",
    "quick_deaths": "It was the second one that was lost soon after it began with this request.",
    "too_often": "It has been continued as often as it may be.",
}

Coming = TypeVar("Coming")


@dataclass(slots=True)
class Relay:
    """`send` is the client's, `kept` the memory that the request takes. `body` is empty once it is
    not needed any more; `replays` counts how often the request was continued elsewhere."""

    parts: RelayParts
    request: GatewayRequest
    body: bytes
    send: Send
    kept: Kept
    stream: ReplayedStream = field(default_factory=ReplayedStream)
    replays: int = 0
    _losses: Losses = field(init=False)
    _started: bool = False
    # Whether its replicas are asked for journals.
    _asks_journal: bool = False
    # When the replica that runs it was asked, or had its first event, which may be yet to come.
    _began_s: float = 0.0
    _first_to_come: bool = True
    _lost_s: float | None = None
    # When the stream was offered that another replica has taken, until that one's first event.
    _offered_s: float | None = None
    # Whether the replica that was lost last has said that it ends, and its end was not seen yet.
    _ending: bool = False
    _no_offer_until_s: float = float("-inf")
    _open: set[Upstream] = field(default_factory=set[Upstream])

    def __post_init__(self) -> None:
        self._losses = Losses(self.parts.settings.max_times)
        self._asks_journal = (
            self.request.streams
            and self.parts.settings.max_times > 0
            and self.kept.resize(len(self.body))
        )

    async def run(self) -> None:
        """Raises RequestError where the client has got nothing yet."""
        try:
            async with ended_by(self.request.deadline, FORWARDED_GRACE_S):
                upstream = await self._first()
                while (lost := await self._forward(upstream)) is not None:
                    upstream = await self._reopened(lost)
        except RequestError as error:
            if not self._started:
                raise
            await self._end_with(error.body(anthropic=self._anthropic))
        finally:
            for upstream in self._open:
                upstream.abort()

    # --- from an open response to the client

    async def _forward(self, upstream: Upstream) -> str | None:
        """Forward the response. Why it was lost before its end, as one word; None where the client
        has all of it."""
        if upstream.status == 200 and streams_events(upstream):
            return await self._forward_events(upstream)
        return await self._forward_whole(upstream)

    async def _forward_events(self, upstream: Upstream) -> str | None:
        stream = self.stream
        self._begin_stream(upstream)
        if not self._started:
            await self._start(200, forwardable(upstream.headers))
        while True:
            data = upstream.take()
            if data or stream.offered:
                if text := self._taken(data):
                    await self.send(_part(text))
                if stream.lost is not None:
                    return stream.lost
                if stream.offered and (successor := await self._handed_over()) is not None:
                    self._drop(upstream)
                    upstream = successor
            elif upstream.complete:
                await self.send(_part(stream.take_rest(), more=False))
                self._release(upstream)
                return None
            elif upstream.broken:
                return await self._broken()
            else:
                await upstream.more()

    def _begin_stream(self, upstream: Upstream) -> None:
        """Raises RequestError where a replica that knows nothing of journals would begin anew."""
        journaled = self._asks_journal and upstream.header(JOURNAL_HEADER) is not None
        if self.stream.events and not journaled:
            raise self._given_up("no_journal")
        self.stream.restart()
        self.stream.journaled = journaled
        self._first_to_come = True

    def _taken(self, data: bytes) -> bytes:
        """What the client gets of `data`."""
        stream, events = self.stream, self.stream.events
        text = stream.feed(data)
        if self._first_to_come and stream.events > events:
            self._first_to_come = False
            self._began_s = self.parts.clock_s()
            if self._lost_s is not None:
                self._went_on(self._lost_s)
            elif self._offered_s is not None:
                self._taken_over(self._offered_s)
            if not stream.journaled:
                self.body = b""
        if stream.journaled and not self.kept.resize(len(self.body) + len(stream.journal)):
            self._log("no memory for the journal of a stream")
            stream.drop_journal()
            self.body = b""
        return text

    async def _broken(self) -> str | None:
        """A stream whose connection ended before it did; its last event may have come."""
        if not self.stream.finished:
            return "broken"
        await self.send(_part(b"", more=False))
        return None

    async def _forward_whole(self, upstream: Upstream) -> str | None:
        try:
            body = await self._kept_alive(upstream.whole(MOST_WHOLE_BYTES))
        except UpstreamError:
            return "broken"
        if (lost := lost_by(upstream.status, body, self._ran_s)) is not None:
            self._release(upstream)
            return lost
        if self._started:
            # The status has been sent, so a refusal can only be an error event.
            await self._end_with(body)
        else:
            if self._lost_s is not None:
                self._went_on(self._lost_s)
            await self._send_whole(upstream, body)
        self._release(upstream)
        return None

    async def _send_whole(self, upstream: Upstream, body: bytes) -> None:
        headers = forwardable(upstream.headers)
        length = b"%d" % len(body) if upstream.complete else upstream.header(b"content-length")
        if length is not None:
            headers.append((b"content-length", length))
        if self._losses.count:
            headers.append((REPLAYED_HEADER, b"%d" % self._losses.count))
        await self._start(upstream.status, headers)
        while not upstream.complete:
            if upstream.broken:
                self._log("a large answer was lost on its way")
                return
            await self.send(_part(body))
            await upstream.more()
            body = upstream.take()
        await self.send(_part(body, more=False))

    # --- from a request to an open response

    async def _first(self) -> Upstream:
        try:
            return await self._kept_alive(self._asked_once_connected())
        except ConnectError as error:
            raise RequestError(
                502,
                f"The {self.request.tier} tier cannot be reached: {error}.",
                code="tier_unreachable",
            ) from error
        except UpstreamError:
            return await self._reopened("no_answer")

    async def _asked_once_connected(self) -> Upstream:
        """Raises UpstreamError. Of a request whose connection is refused nothing was sent."""
        until_s = math.inf
        while True:
            try:
                return await self._ask()
            except ConnectError:
                # From here on: over a kept connection it may have been asked for long before.
                now_s = self.parts.clock_s()
                until_s = min(until_s, now_s + REFUSED_FOR_S)
                if now_s + FIRST_PAUSE_S > until_s:
                    raise
                await asyncio.sleep(FIRST_PAUSE_S)

    async def _reopened(self, lost: str) -> Upstream:
        """The response of another replica, from where the client has it. Raises RequestError where
        the request is given up."""
        self._lost_s, self._offered_s = self.parts.clock_s(), None
        for upstream in self._open:
            upstream.abort()
        self._open.clear()
        self._ending = self.stream.lost is not None or lost in _ENDS
        self.stream.take_rest()
        self._count_loss(lost)
        settles_s = SETTLES_S if lost in _BROKEN else 0.0
        with self.parts.metrics.held.labels(tier=self.request.tier.value).track_inprogress():
            return await self._kept_alive(self._until_taken(settles_s))

    async def _until_taken(self, settles_s: float) -> Upstream:
        await asyncio.sleep(settles_s)
        clock_s, settings = self.parts.clock_s, self.parts.settings
        until_s = clock_s() + settings.max_hold_s
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                async with asyncio.timeout(self._answers_within_s(until_s)):
                    upstream = await self._ask()
            except TimeoutError as error:
                raise self._given_up("held_too_long") from error
            except ConnectError:
                pass
            except UpstreamError:
                if not self._is_its_end():
                    self._count_loss("no_answer")
                    until_s = clock_s() + settings.max_hold_s
            else:
                if upstream.status not in NOBODY:
                    return upstream
                self._drop(upstream)
                if upstream.status == BAD_GATEWAY and not self._is_its_end():
                    self._count_loss(TWO_LOST)
            if clock_s() + pause_s > until_s:
                raise self._given_up("held_too_long")
            await asyncio.sleep(pause_s)
            pause_s = min(PAUSE_GROWS * pause_s, MOST_PAUSE_S)

    def _is_its_end(self) -> bool:
        """Whether a request that was answered by nobody, at once, met the end of the replica that
        has said that it ends: HAProxy sends to it until its process is gone. Once, for one that
        kills replicas is to be given up."""
        ending, self._ending = self._ending, False
        return ending and self._ran_s <= NO_SERVER_AT_ONCE_S

    def _answers_within_s(self, until_s: float) -> float | None:
        """Whoever goes on with a stream answers before it computes; one that has not begun, and a
        whole answer, may take their time. Ray's own proxy keeps requests while it knows of no
        replica at all."""
        return max(0.0, until_s - self.parts.clock_s()) if self.stream.events else None

    async def _handed_over(self) -> Upstream | None:
        """The response of another replica that has room for a stream that is offered. None: the
        one that has it goes on with it."""
        clock_s = self.parts.clock_s
        offered_s = clock_s()
        if not self.stream.journaled or offered_s < self._no_offer_until_s:
            return None
        successor, why = None, ""
        try:
            async with asyncio.timeout(self.parts.hand_over_within_s):
                successor = await self._kept_alive(self._ask(only_with_room=True))
        except TimeoutError:
            self._no_offer_until_s, why = clock_s() + NO_OFFER_S, "no answer"
        except UpstreamError as error:
            why = str(error)
        if successor is None or not (successor.status == 200 and streams_events(successor)):
            if successor is not None:
                why = str(successor.status)
                self._drop(successor)
            self._count("not_handed_over")
            waited_s = round(clock_s() - offered_s, 3)
            self._log("an offered stream stays", level=logging.INFO, why=why, waited_s=waited_s)
            return None
        self._begin_stream(successor)
        self._began_s, self._offered_s = clock_s(), offered_s
        self.replays += 1
        self._count("handed_over")
        return successor

    async def _ask(self, *, only_with_room: bool = False) -> Upstream:
        """The response as far as its head. Raises UpstreamError."""
        request, parts, stream = self.request, self.parts, self.stream
        headers, body = [*request.headers], self.body
        if self._asks_journal:
            mark = journal_mark(parts.key, request.request_id)
            headers.append((JOURNAL_HEADER, mark.encode()))
        if request.deadline is not None:
            left = request.deadline.mark(parts.key, request.request_id)
            headers.append((TIME_LEFT_HEADER, left.encode()))
        if stream.journaled:
            resumption = stream.resumption(self.replays + 1, only_with_room=only_with_room)
            resume = resumption.header(parts.key, request.request_id)
            headers.append((RESUME_HEADER, resume.encode()))
            body += stream.journal
        if not only_with_room:
            self._began_s = parts.clock_s()
        anew = only_with_room or self._losses.count > 0
        address = await parts.proxy()
        upstream = await parts.pool.post(address, request.path, headers, body, anew=anew)
        self._open.add(upstream)
        return upstream

    async def _kept_alive(self, coming: Coroutine[Any, Any, Coming]) -> Coming:
        """What `coming` comes to; meanwhile a stream's client gets heartbeats."""
        heartbeat_s = self.parts.heartbeat_s if self.request.streams else None
        task = asyncio.ensure_future(coming)
        try:
            while not (await asyncio.wait({task}, timeout=heartbeat_s))[0]:
                if not self._started:
                    await self._start(200, [*SSE_HEADERS])
                await self.send(_part(HEARTBEAT))
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})

    # --- losses

    @property
    def _ran_s(self) -> float:
        return self.parts.clock_s() - self._began_s

    def _count_loss(self, why: str) -> None:
        """Raises RequestError where the request is given up."""
        ran_s = self._ran_s
        self._log("the replica of a request was lost", why=why, ran_s=round(ran_s, 3))
        replicas = 2 if why == TWO_LOST else 1
        if (too_many := self._losses.add(ran_s, replicas)) is not None:
            raise self._given_up(too_many)
        if self.stream.events and not self.stream.journaled:
            raise self._given_up("no_journal")

    def _went_on(self, lost_s: float) -> None:
        gap_s = self.parts.clock_s() - lost_s
        self._lost_s = None
        self.replays += 1
        self.parts.metrics.gap_s.observe(gap_s)
        self._count("continued" if self.stream.events else "asked_again")
        self._log("a request goes on", level=logging.INFO, gap_s=round(gap_s, 3))

    def _taken_over(self, offered_s: float) -> None:
        gap_s = self._began_s - offered_s
        self._offered_s = None
        self.parts.metrics.gap_s.observe(gap_s)
        self._log("a stream was handed over", level=logging.INFO, gap_s=round(gap_s, 3))

    def _given_up(self, why: str) -> RequestError:
        self._count("given_up")
        self._log("a request is given up", level=logging.ERROR, why=why)
        reason = _REASONS[why].format(self.parts.settings.max_hold_s)
        return RequestError(
            502, f"The replica that ran this request was lost. {reason}", code="replica_lost"
        )

    def _count(self, result: str) -> None:
        self.parts.metrics.replays.labels(tier=self.request.tier.value, result=result).inc()

    def _log(self, message: str, *, level: int = logging.WARNING, **fields: object) -> None:
        details = {
            "request_id": self.request.request_id,
            "tier": self.request.tier.value,
            "events": self.stream.events,
            "losses": self._losses.count,
        }
        log.log(level, message, extra={**details, **fields})

    # --- the client's side

    @property
    def _anthropic(self) -> bool:
        return self.request.endpoint is not None and self.request.endpoint.anthropic

    async def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self._started = True
        await self.send({"type": "http.response.start", "status": status, "headers": headers})

    async def _end_with(self, error: bytes) -> None:
        """An error event, as the last one of a stream."""
        assert self.request.endpoint is not None
        event = error_event(error, self.request.endpoint, number=self.stream.events)
        await self.send(_part(event, more=False))

    def _release(self, upstream: Upstream) -> None:
        """Its response is over."""
        self._open.discard(upstream)
        upstream.release()

    def _drop(self, upstream: Upstream) -> None:
        self._open.discard(upstream)
        upstream.abort()


def _part(body: bytes, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}
