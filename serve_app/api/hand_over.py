"""The streams of a replica that may go on at another one, and their offer while this one drains.

An offer is a comment in the stream: whoever follows it may have it continued where there is room,
and then closes it here. Until somebody does it runs on. The others take a few at a time
(`EngineRoom.reads_handed_over_soon`), so while streams leave, those that stay are offered again
soon.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from serve_app.api.engine_run import ClientSend
from serve_app.api.replay_wire import EVENT_END, OFFER_COMMENT
from serve_app.api.response import SSE_HEADERS, TierResponse

# While streams leave, and where none does: the longer, the less it costs.
OFFER_SOON_S, OFFER_EVERY_S = 0.5, 2.0
OFFER = OFFER_COMMENT + EVENT_END


@dataclass(slots=True, eq=False)
class _Stream:
    response: TierResponse
    client: ClientSend
    offering: asyncio.Task[None] | None = None
    # Since when it is passed over because nothing of it has been sent.
    passed_since_s: float | None = None

    def offer(self) -> None:
        """Nothing where its client takes nothing now, or it has ended. A stream of which nothing
        was sent is opened for it after some time: until then it may turn out to be an error."""
        response = self.response
        offering = self.offering is not None and not self.offering.done()
        if offering or response.complete or self.client.waiting_since_s is not None:
            return
        if not response.started:
            now_s = asyncio.get_running_loop().time()
            self.passed_since_s = now_s if self.passed_since_s is None else self.passed_since_s
            if now_s < self.passed_since_s + OFFER_EVERY_S:
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
        pause_s = OFFER_SOON_S
        while True:
            offered = set(self._streams)
            for stream in offered:
                stream.offer()
            await asyncio.sleep(pause_s)
            # Those that have come to their end say nothing of room elsewhere.
            taken = any(not stream.response.complete for stream in offered - self._streams)
            pause_s = OFFER_SOON_S if taken else min(2 * pause_s, OFFER_EVERY_S)
