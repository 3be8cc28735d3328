"""One call of vLLM's application that can be ended early.

vLLM's handlers do the work of a whole answer in a task of their own, which goes on when the call
is cancelled, and Serve cancels the call when a client leaves. Told that the client left, they end
that task and abort the request in the engine.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

END_WITHIN_S = 5.0


async def call_engine(
    app: ASGIApp, scope: Scope, *, body: bytes, receive: Receive, send: Send
) -> None:
    """Call `app` with a body that was already read; cancelled, end its work before returning."""
    connection = _Connection(body, receive, send)
    call = asyncio.ensure_future(app(scope, connection.receive, connection.send))
    try:
        await asyncio.shield(call)
    except asyncio.CancelledError:
        connection.leave()
        await asyncio.wait({call}, timeout=END_WITHIN_S)
        call.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await call
        raise


@dataclass(slots=True)
class _Connection:
    """The client as vLLM's application sees it."""

    body: bytes | None
    receive_next: Receive
    send_on: Send
    _left: bool = False
    _receiving: asyncio.Future[Message] | None = None

    def leave(self) -> None:
        """From now on the client is gone, for who sends to it and for who waits for it."""
        self._left = True
        if self._receiving is not None:
            self._receiving.cancel()

    async def receive(self) -> Message:
        if self.body is not None:
            body, self.body = self.body, None
            return {"type": "http.request", "body": body, "more_body": False}
        if self._left:
            return {"type": "http.disconnect"}
        self._receiving = asyncio.ensure_future(self.receive_next())
        try:
            return await self._receiving
        except asyncio.CancelledError:
            # The one who waits here was not cancelled itself: the client has left.
            if self._left and self._receiving.cancelled():
                return {"type": "http.disconnect"}
            raise

    async def send(self, message: Message) -> None:
        if not self._left:
            await self.send_on(message)
