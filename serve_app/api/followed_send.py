"""What a replica follows of its own resumable streams, as `/v1` follows those of its tiers: the
journal with which another replica goes on, and the word that this one has no more of it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from starlette.types import Message, Send

from serve_app.api.engine_errors import error_event
from serve_app.api.kept_stream import is_stream
from serve_app.api.replay_memory import Kept
from serve_app.api.replay_wire import JOURNAL_HEADER
from serve_app.api.replayed_stream import ReplayedStream
from serve_app.api.routes import Endpoint


@dataclass(slots=True, eq=False)
class FollowedSend:
    """The `send` of an edge that is asked for the journal of a stream; `send_on` gets what the
    client does. `kept` is the memory for body and journal; `body_bytes` says how large the former
    is, once the response begins.

    `begun`: the client has the begin of it already, from another replica, and an error is an event.
    """

    send_on: Send
    kept: Kept
    body_bytes: Callable[[], int]
    endpoint: Endpoint
    # The replica drains, and would have another one go on with it.
    on_offer: Callable[[], Awaitable[None]]
    begun: bool = False
    stream: ReplayedStream = field(default_factory=ReplayedStream)
    _events: bool = False
    _error: bytes = b""
    _body_bytes: int = 0

    @property
    def lost(self) -> str | None:
        """Why there is no more of it here before its end, as one word."""
        return self.stream.lost

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._start(message)
        elif self._events:
            await self._feed(message)
        elif self.begun:
            self._error += message.get("body", b"")
            if not message.get("more_body", False):
                event = error_event(self._error, self.endpoint, number=self.stream.events)
                await self.send_on(_part(event, more=False))
        else:
            await self.send_on(message)

    async def _start(self, message: Message) -> None:
        self._events, self._body_bytes = is_stream(message), self.body_bytes()
        headers = [each for each in message["headers"] if each[0].lower() != JOURNAL_HEADER]
        journaled = len(headers) < len(message["headers"])
        self.stream.journaled = self._events and journaled and self._fits()
        if not self.begun:
            await self.send_on({**message, "headers": headers})

    async def _feed(self, message: Message) -> None:
        stream, more = self.stream, message.get("more_body", False)
        text, offered = stream.feed(message.get("body", b"")), False
        while stream.offered:
            offered = True
            text += stream.feed(b"")
        if stream.journaled and not self._fits():
            stream.drop_journal()
        if stream.lost is not None:
            # Not the end: whoever follows it says what becomes of it.
            more = True
        elif not more:
            text += stream.take_rest()
        if text or not more:
            await self.send_on(_part(text, more=more))
        if offered:
            await self.on_offer()

    def _fits(self) -> bool:
        return self.kept.resize(self._body_bytes + len(self.stream.journal))


def _part(body: bytes, *, more: bool) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}
