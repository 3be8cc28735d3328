"""A resumable stream of a tier's own route that goes on at another replica, with what its engine
and its client have of it. Its client, whose connection leads to the replica that it leaves, asks
for the rest, as after any lost connection.

It moves when its engine dies, when a drain's time is over, and from a replica that drains as soon
as no client reads it.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from serve_app.api.answer_deadline import TIME_LEFT_HEADER
from serve_app.api.asgi import NOT_FORWARDED
from serve_app.api.asked_stream import AskedStream
from serve_app.api.engine_run import replica_stopping
from serve_app.api.followed_send import FollowedSend
from serve_app.api.forwarding import INTERNAL_HEADERS, Forwarder, in_any_order
from serve_app.api.kept_stream import KeptStream
from serve_app.api.kept_streams import RESUMABLE_HEADER
from serve_app.api.replay_wire import MOVED_HEADER, RESUME_HEADER, MovedStream
from serve_app.core.replay.losses import QUICK_S
from serve_app.errors import RequestError, engine_stopped

log = logging.getLogger(__name__)

MOST_MOVES = 2
MOVES_WITHIN_S = 5.0
TAKEN_UP = 202
# The replica drains, and its client is away.
AWAY = "away"
# The replica that ran it for this one is lost.
FORWARDED = "forwarded"


@dataclass(slots=True)
class StreamMoves:
    """`forwarder` knows the other replicas."""

    forwarder: Forwarder
    clock_s: Callable[[], float]
    _moving: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])

    async def possible(self) -> bool:
        """Whether there is another replica at all."""
        return bool(await self.forwarder.peers())

    async def moved(self, asked: AskedStream, stream: KeptStream, followed: FollowedSend) -> bool:
        """Whether another replica goes on with a stream that this one has no more of."""
        task = asyncio.current_task()
        assert task is not None
        self._moving.add(task)
        task.add_done_callback(self._moving.discard)
        try:
            async with asyncio.timeout(MOVES_WITHIN_S):
                if await self._offered(asked, stream, followed):
                    return True
        except TimeoutError:
            pass
        # It may go on here.
        self._moving.discard(task)
        return False

    async def over(self) -> None:
        """Until those that move now have moved, or could not."""
        if self._moving:
            await asyncio.wait({*self._moving}, timeout=MOVES_WITHIN_S)

    async def _offered(
        self, asked: AskedStream, stream: KeptStream, followed: FollowedSend
    ) -> bool:
        facts, key, events = stream.facts, self.forwarder.secret.key, stream.events
        scope, marks = asked.scope, asked.next_marks(followed)
        assert marks.resumption is not None
        moved = MovedStream(facts.stream_id, len(events), asked.quick_losses)
        dropped = NOT_FORWARDED | INTERNAL_HEADERS | {RESUMABLE_HEADER}
        headers = [
            *(each for each in scope["headers"] if each[0].lower() not in dropped),
            (RESUME_HEADER, marks.resumption.header(key, facts.request_id).encode()),
            (MOVED_HEADER, moved.header(key, facts.request_id).encode()),
        ]
        if marks.deadline is not None:
            headers.append((TIME_LEFT_HEADER, marks.deadline.mark(key, facts.request_id).encode()))
        whole = asked.body() + followed.stream.journal + events
        for peer in in_any_order(await self.forwarder.peers()):
            if await self.forwarder.status_of(peer + scope["path"], headers, whole) == TAKEN_UP:
                return True
        return False


def may_move(stream: KeptStream, followed: FollowedSend, replays: int) -> bool:
    """Whether a stream that was continued `replays` times can be once more."""
    return replays < MOST_MOVES and stream.resumable and followed.stream.journaled


def is_quick(followed: FollowedSend, ran_s: float) -> bool:
    """Whether a replica was lost so soon after it began to run a stream that it may have been of
    the request."""
    return followed.lost != AWAY and ran_s < QUICK_S


def why_lost(lost: str | None) -> RequestError:
    """What the client reads of a stream that could not move."""
    if lost == "engine":
        return engine_stopped()
    if lost == FORWARDED:
        message = "The replica that ran this request was lost."
        return RequestError(502, message, code="replica_lost")
    return replica_stopping()
