"""The streams of a replica that may go on at another one, and their offer while this one drains.

An offer is a comment in the stream: whoever follows it may have it continued where there is room,
and then closes it here. Until somebody does it runs on.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from serve_app.api.engine_run import ClientSend
from serve_app.api.replay_wire import EVENT_END, OFFER_COMMENT
from serve_app.api.response import SSE_HEADERS, TierResponse

OFFER_EVERY_S = 2.0
OFFER = OFFER_COMMENT + EVENT_END


@dataclass(slots=True, eq=False)
class _Stream:
    response: TierResponse
    client: ClientSend
    offering: asyncio.Task[None] | None = None
    # How often it was passed over because nothing of it had been sent.
    passed: int = 0

    def offer(self) -> None:
        """Nothing where its client takes nothing now, or it has ended. A stream of which nothing
        was sent is opened for it the second time: until then it may turn out to be an error."""
        response = self.response
        offering = self.offering is not None and not self.offering.done()
        if offering or response.complete or self.client.waiting_since_s is not None:
            return
        if not response.started and not self.passed:
            self.passed += 1
            return
        self.offering = asyncio.create_task(self._send())

    async def _send(self) -> None:
        response = self.response
        if self.client.waiting_since_s is not None or response.complete:
            return
        if not response.started:
            await response.start(200, [*SSE_HEADERS])
        if not response.complete:
            response.offered = True
            await response.chunk(OFFER)


@dataclass(slots=True)
class HandOver:
    """`draining`: this replica is to stop, and takes nothing over itself."""

    draining: bool = False
    _streams: set[_Stream] = field(default_factory=set[_Stream])

    @contextmanager
    def followed(self, response: TierResponse, client: ClientSend) -> Iterator[None]:
        """While the block runs the stream may be offered."""
        stream = _Stream(response, client)
        self._streams.add(stream)
        try:
            yield
        finally:
            self._streams.discard(stream)
            if stream.offering is not None:
                stream.offering.cancel()

    def offer_of(self, client: ClientSend) -> None:
        """Offer the stream that goes there, if this replica drains: nobody reads it any more."""
        for stream in self._streams:
            if self.draining and stream.client is client:
                stream.offer()

    async def offer(self) -> None:
        """Offer all that run, now and again and again, until cancelled."""
        self.draining = True
        while True:
            for stream in list(self._streams):
                stream.offer()
            await asyncio.sleep(OFFER_EVERY_S)
