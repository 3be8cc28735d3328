"""Clients that stop reading: how long one may take nothing, and what it holds meanwhile.

A stream whose client does not read fills the sockets and then stands still inside `send`. The
engine goes on, since nothing slows it down; so once it has finished, the slots of such a stream are
free, and after `stall_s` without a byte taken the request ends.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from starlette.types import Message, Send

LOOK_EVERY_S = 0.5


@dataclass(slots=True, eq=False)
class ClientSend:
    """An ASGI `send` that knows since when its client takes nothing."""

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
    `release` then frees what it holds at the gate."""

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
