"""One stream whose client may lose its connection and come back: its events, numbered from 1, as
long as they are kept, and the one client that reads them.

The relay writes into it as into a client. A reader takes the events from wherever it is, so that a
slow one takes no memory beyond those that are kept anyway. Once they outgrow the gateway's memory
the stream is an ordinary one: what its client has is dropped, and the relay waits for it.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Message, Send

from serve_app.api.replay_memory import Kept
from serve_app.api.replay_wire import EVENT_END
from serve_app.api.response import SSE_HEADERS

STREAM_ID_HEADER = b"x-tierserve-stream-id"
TAKEN_OVER = b": another connection reads this stream now\n\n"
MOVED = b": another replica goes on with this stream: ask for the rest\n\n"
FORGOTTEN = b": the events of this stream are kept no more, and end here\n\n"
# Of what an event takes in memory, beside its text.
EVENT_BYTES = 48
# Written at once, so that a client's pace is seen after so much.
MOST_AT_ONCE_BYTES = 64 * 1024
_COMMENT = b":"


@dataclass(frozen=True, slots=True)
class StreamFacts:
    """`owner` is the name of the key that asked for it, empty without one."""

    stream_id: str
    owner: str
    request_id: str
    tier: str


@dataclass(slots=True, eq=False)
class KeptStream:
    """`first_client` is the send of the client that asked for it; whatever is no stream of events,
    as a refusal, goes there as it comes. `has_room` says whether so many bytes may be kept more,
    and `on_outgrown` is called where they may not; `on_left` when a reader has ended and no other
    one has come."""

    facts: StreamFacts
    first_client: Send
    kept: Kept
    has_room: Callable[["KeptStream", int], bool]
    on_outgrown: Callable[["KeptStream"], None]
    on_left: Callable[["KeptStream"], None]
    # Of a stream of events, once it has begun.
    head: Message | None = None
    # How many events there have been, and how many the reader has.
    count: int = 0
    taken: int = 0
    # Whether all events are kept; else only those that the reader has not.
    resumable: bool = True
    ended: bool = False
    # Whether a client was sent its beginning, and so knows its id.
    opened: bool = False
    failure: BaseException | None = None
    # What its reader gets in place of its last event.
    last_words: bytes = b""
    # What a reader gets where it ends before that.
    cut_words: bytes = TAKEN_OVER
    # How often it was kept for longer because a client reads it.
    renewals: int = 0
    reader: object | None = None
    _events: list[bytes] = field(default_factory=list[bytes])
    _comment: bytes = b""
    # The begin of an event whose end has not come.
    _rest: bytes = b""
    _passes_through: bool = False
    _waiting: set[asyncio.Future[None]] = field(default_factory=set[asyncio.Future[None]])

    @property
    def away(self) -> bool:
        """Whether it runs on while the client that knows it does not read it."""
        return self.opened and not self.ended and self.reader is None

    # --- the relay's side

    async def write(self, message: Message) -> None:
        """An ASGI `send`."""
        if message["type"] == "http.response.start":
            await self._begin(message)
        elif self._passes_through:
            await self.first_client(message)
        else:
            *blocks, self._rest = (self._rest + message.get("body", b"")).split(EVENT_END)
            if not message.get("more_body", False):
                blocks.append(self._rest)
            for block in blocks:
                if block.startswith(_COMMENT):
                    self._comment = block + EVENT_END
                elif block:
                    await self._add(block)
            self._notify()

    @property
    def events(self) -> bytes:
        """All that there have been, as long as it is resumable."""
        return b"".join(self._events)

    def take_up(self, events: bytes) -> None:
        """Go on behind the events of a stream that another process has begun."""
        self._events = [event + EVENT_END for event in events.split(EVENT_END) if event]
        self.count = len(self._events)
        self.opened = True

    def end(self, failure: BaseException | None) -> None:
        """Nothing comes any more. `failure` is raised to whoever reads it to its end."""
        self.ended, self.failure = True, failure
        self._notify()

    async def _begin(self, message: Message) -> None:
        if is_stream(message):
            stream_id = (STREAM_ID_HEADER, self.facts.stream_id.encode())
            self.head = {**message, "headers": [*message["headers"], stream_id]}
            self._notify()
        else:
            self._passes_through = True
            await self.first_client(message)

    async def _add(self, block: bytes) -> None:
        event = b"id: %d\n%s%s" % (self.count + 1, block, EVENT_END)
        if self.resumable and not self.has_room(self, len(event) + EVENT_BYTES):
            self.outgrow()
        while not self.resumable and self.taken < self.count:
            await self._change()
        self.count += 1
        self._comment = b""
        self._events.append(event)
        self._notify()

    def outgrow(self) -> None:
        """It is kept no more: there is no room for it."""
        self.resumable = False
        self._drop_taken()
        self.on_outgrown(self)

    def give_up(self) -> None:
        """Nothing of it is kept any more, and whoever reads it gets nothing more."""
        self.reader, self.cut_words = None, FORGOTTEN
        self._events.clear()
        self._notify()

    # --- its readers

    async def read_first(self, send: Send) -> None:
        """Send all of it to the client that asked for it. Raises what the relay raised."""
        while self.head is None and not self.ended:
            await self._change()
        if self.head is None:
            if self.failure is not None:
                raise self.failure
            return
        await self.read(send, self.head, 0)

    async def read_again(self, send: Send, after: int) -> None:
        """Send what is behind event `after` to a client that has come back."""
        stream_id = (STREAM_ID_HEADER, self.facts.stream_id.encode())
        await self.read(send, _head([*SSE_HEADERS, stream_id]), after)

    async def read(self, send: Send, head: Message, after: int) -> None:
        """In the place of whoever reads it now, who gets nothing more."""
        me = self.reader = object()
        self.opened, self.taken = True, after
        self._notify()
        try:
            await send(head)
            while self.reader is me:
                if not await self._sent_next(send, me):
                    break
            else:
                await send(_part(self.cut_words, more=False))
                return
            if self.failure is not None:
                raise self.failure
            await send(_part(self.last_words, more=False))
        finally:
            if self.reader is me:
                self.reader = None
                self.on_left(self)

    async def _sent_next(self, send: Send, me: object) -> bool:
        """Send what there is now, or wait until there is something; False at the end."""
        if self.taken < self.count:
            data, taken = self._next()
            await send(_part(data))
            if self.reader is me:
                self.taken = taken
                if not self.resumable:
                    self._drop_taken()
                    self._notify()
        elif self._comment and not self.ended:
            comment, self._comment = self._comment, b""
            await send(_part(comment))
        elif self.ended:
            return False
        else:
            await self._change()
        return True

    def _next(self) -> tuple[bytes, int]:
        """What the reader gets next, and how many events it has then."""
        at = len(self._events) - (self.count - self.taken)
        end, size = at, 0
        while end < len(self._events) and (size < MOST_AT_ONCE_BYTES or end == at):
            size += len(self._events[end])
            end += 1
        return b"".join(self._events[at:end]), self.taken + end - at

    def _drop_taken(self) -> None:
        unread = self.count - self.taken
        del self._events[: len(self._events) - unread]

    # ---

    async def _change(self) -> None:
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.add(waiting)
        try:
            await waiting
        finally:
            self._waiting.discard(waiting)

    def _notify(self) -> None:
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)


def is_stream(message: Message) -> bool:
    """Whether this is the start of a stream of events."""
    return (
        message["type"] == "http.response.start"
        and message["status"] == 200
        and any(
            name.lower() == b"content-type" and value.startswith(b"text/event-stream")
            for name, value in message["headers"]
        )
    )


def _head(headers: list[tuple[bytes, bytes]]) -> Message:
    return {"type": "http.response.start", "status": 200, "headers": headers}


def _part(body: bytes, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}
