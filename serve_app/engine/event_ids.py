"""The ids of tool calls and items in an answer's events: random from request to request, and the
same ones where a request is run again.

Of a stream that goes on at another replica the client has some events already, so those that follow
must name the same calls and items.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.core.generation import GENERATION

# As of a UUID.
ID_BYTES = 16


@dataclass(slots=True)
class EventIds:
    """Of one request, made of its id and its body: a client may choose the same id again, but then
    for another body or for the same answer."""

    request_id: bytes
    body: list[bytes] = field(default_factory=list[bytes])
    _made: int = 0
    _key: bytes = b""

    def next(self) -> bytes:
        if not self._key:
            self._key = hashlib.sha256(b"\0".join([self.request_id, *self.body])).digest()
        self._made += 1
        number = self._made.to_bytes(8, "big")
        return hashlib.blake2b(number, key=self._key, digest_size=ID_BYTES).digest()


EVENT_IDS: ContextVar[EventIds | None] = ContextVar("EVENT_IDS", default=None)


def with_event_ids(app: ASGIApp) -> ASGIApp:
    """Each request to `app` that has an id finds those of its events in its context. The engine
    may know a request by another id than its client, and by another one elsewhere."""

    async def with_ids(scope: Scope, receive: Receive, send: Send) -> None:
        generation = GENERATION.get()
        if generation is not None and generation.request_id is not None:
            request_id = generation.request_id.encode()
        else:
            request_id = dict(scope.get("headers", ())).get(b"x-request-id")
        if not request_id:
            await app(scope, receive, send)
            return
        ids = EventIds(request_id)

        async def read() -> Message:
            message = await receive()
            if message["type"] == "http.request":
                ids.body.append(message.get("body", b""))
            return message

        with _in_context(ids):
            await app(scope, read, send)

    return with_ids


@contextmanager
def _in_context(ids: EventIds) -> Iterator[None]:
    token = EVENT_IDS.set(ids)
    try:
        yield
    finally:
        EVENT_IDS.reset(token)
