"""Whether a client is still there, for work that is not to end with it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from starlette.types import Message, Receive

from serve_app.errors import ClientDisconnectedError

# The end of a connection is read by the event loop behind what has come before it.
NOTICED_WITHIN_S = 0.01


@asynccontextmanager
async def while_connected(receive: Receive) -> AsyncIterator[None]:
    """Raises ClientDisconnectedError in the block when the client disconnects."""
    connected = asyncio.timeout(None)
    ended = False

    def end(_: object) -> None:
        # A call that the loop has queued already comes after the block too.
        if not ended:
            connected.reschedule(asyncio.get_running_loop().time())

    disconnected = asyncio.ensure_future(_disconnected(receive))
    disconnected.add_done_callback(end)
    try:
        async with connected:
            yield
    except TimeoutError as error:
        if not connected.expired():
            raise
        raise ClientDisconnectedError from error
    finally:
        ended = True
        disconnected.remove_done_callback(end)
        disconnected.cancel()


async def has_left(receive: Receive) -> bool:
    """Whether a client whose body is read has disconnected by now."""
    disconnected = asyncio.ensure_future(_disconnected(receive))
    try:
        return bool((await asyncio.wait({disconnected}, timeout=NOTICED_WITHIN_S))[0])
    finally:
        disconnected.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@dataclass(slots=True, eq=False)
class BodyOnly:
    """The `receive` of work that outlives its client: it gets the body, and that the client left
    before its end, but nothing behind it. What comes then is `after`'s. `read` is the body, as far
    as it has come."""

    receive: Receive
    read: bytearray = field(default_factory=bytearray)
    _complete: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self) -> Message:
        if self._complete.is_set():
            await asyncio.get_running_loop().create_future()
        message = await self.receive()
        if message["type"] == "http.request":
            self.read += message.get("body", b"")
            if not message.get("more_body", False):
                self._complete.set()
        return message

    async def after(self) -> Message:
        """The next message behind the body, once that is there."""
        await self._complete.wait()
        return await self.receive()


@dataclass(slots=True, eq=False)
class GivenBody:
    """The `receive` of a request whose body is there, and which has no client here."""

    body: bytes | None

    async def __call__(self) -> Message:
        body, self.body = self.body, None
        if body is None:
            await asyncio.get_running_loop().create_future()
        return {"type": "http.request", "body": body, "more_body": False}
