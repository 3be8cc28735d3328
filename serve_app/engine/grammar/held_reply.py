"""Holds the beginning of a reply until what it is bound to has been checked.

vLLM begins its streams, with status 200, before it calls `generate`. A refusal that is found there
would be an event inside of an answer; held, it is a status.
"""

import asyncio
from collections.abc import Sequence
from contextvars import ContextVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.errors import RequestError


class HeldReply:
    """An ASGI `send`."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._held: list[Message] = []
        self._released = False
        self.refusal: RequestError | None = None
        # The handler has returned; what it has left running has no reply any more.
        self.ended = False

    async def __call__(self, message: Message) -> None:
        if self._released:
            await self._send(message)
        elif self.refusal is None:
            self._held.append(message)

    async def release(self) -> None:
        """Send what was held, and from now on what comes."""
        if self._released or self.refusal is not None:
            return
        self._released = True
        held: Sequence[Message] = self._held
        self._held = []
        for message in held:
            await self._send(message)


_REPLY: ContextVar[HeldReply | None] = ContextVar("REPLY", default=None)


async def release_reply() -> None:
    """Let the reply of this request begin."""
    reply = _REPLY.get()
    if reply is not None:
        await reply.release()


def refuse_reply(error: RequestError) -> None:
    """End this request with an error status, where its reply has not begun: raises CancelledError
    then, since vLLM's handlers log every other exception as a fault and answer it themselves."""
    reply = _REPLY.get()
    if reply is None or reply.ended:
        return
    reply.refusal = error
    raise asyncio.CancelledError


def holding_replies(app: ASGIApp) -> ASGIApp:
    """`app`, which raises RequestError for a request that was refused in it."""

    async def held(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        reply = HeldReply(send)
        token = _REPLY.set(reply)
        try:
            await app(scope, receive, reply)
        except asyncio.CancelledError:
            if reply.refusal is None:
                raise
        except Exception:
            if reply.refusal is None:
                # vLLM has answered what it raises.
                await reply.release()
                raise
        finally:
            _REPLY.reset(token)
            reply.ended = True
        if reply.refusal is not None:
            raise reply.refusal
        await reply.release()

    return held
