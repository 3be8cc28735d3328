"""One call of vLLM's application that can be ended early.

vLLM's handlers do the work of a whole answer in a task of their own, which goes on when the call
is cancelled, and Serve cancels the call when a client leaves. Told that the client left, they end
that task and abort the request in the engine.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.core.generation import GENERATION, Generation

END_WITHIN_S = 5.0


async def call_engine(
    app: ASGIApp,
    scope: Scope,
    *,
    body: bytes,
    receive: Receive,
    send: Send,
    generation: Generation | None = None,
) -> None:
    """Call `app` with a body that was already read; cancelled, end its work before returning.
    The engine behind `app` finds `generation` in its context."""
    connection = _Connection(body, receive, send)
    told = GENERATION.set(generation)
    try:
        call = asyncio.ensure_future(app(scope, connection.receive, connection.send))
    finally:
        GENERATION.reset(told)
    try:
        await asyncio.shield(call)
    except asyncio.CancelledError:
        connection.left.set_result(None)
        await asyncio.wait({call}, timeout=END_WITHIN_S)
        call.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await call
        raise


@dataclass(slots=True)
class _Connection:
    """The client as vLLM's application sees it. `left` is done once the client is to be gone."""

    body: bytes | None
    receive_next: Receive
    send_on: Send
    left: asyncio.Future[None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    async def receive(self) -> Message:
        if self.body is not None:
            body, self.body = self.body, None
            return {"type": "http.request", "body": body, "more_body": False}
        message = asyncio.ensure_future(self.receive_next())
        try:
            await asyncio.wait({message, self.left}, return_when=asyncio.FIRST_COMPLETED)
            return message.result() if message.done() else {"type": "http.disconnect"}
        finally:
            message.cancel()

    async def send(self, message: Message) -> None:
        if not self.left.done():
            await self.send_on(message)
