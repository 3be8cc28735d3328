"""One call of vLLM's application that can be ended early.

vLLM's handlers do the work of a whole answer in a task of their own, which goes on when the call
is cancelled, and Serve cancels the call when a client leaves. Told that the client left, they end
that task and abort the request in the engine. A stream that has begun ends when it is cancelled.
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
    """Call `app` with a body that was already read; cancelled, or left by its client, end its work
    before returning. The engine behind `app` finds `generation` in its context."""
    connection = _Connection(body, send)
    told = GENERATION.set(generation)
    try:
        call = asyncio.ensure_future(app(scope, connection.receive, connection.send))
    finally:
        GENERATION.reset(told)
    gone = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({call, gone}, return_when=asyncio.FIRST_COMPLETED)
        if call.done():
            call.result()
    finally:
        gone.cancel()
        if not call.done():
            await _end(call, connection)


async def _gone(receive: Receive) -> None:
    """Until the client leaves. Of a route that reads no body one may still come, if only the empty
    one of a GET."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end(call: asyncio.Future[None], connection: "_Connection") -> None:
    connection.left.set_result(None)
    if not connection.answering:
        await asyncio.wait({call}, timeout=END_WITHIN_S)
    call.cancel()
    with suppress(asyncio.CancelledError, Exception):
        await call


@dataclass(slots=True)
class _Connection:
    """The client as vLLM's application sees it. `left` is done once the client is to be gone;
    nothing is sent any more then."""

    body: bytes | None
    send_on: Send
    answering: bool = False
    left: asyncio.Future[None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    async def receive(self) -> Message:
        if self.body is not None:
            body, self.body = self.body, None
            return {"type": "http.request", "body": body, "more_body": False}
        # Several may listen, and one that stops listening is no reason for the others to.
        await asyncio.wait({self.left})
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if not self.left.done():
            self.answering = True
            await self.send_on(message)
