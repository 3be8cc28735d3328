"""Keeps the beginning of a reply back until what it is bound to has been checked.

vLLM begins its streams, with status 200, before it calls `generate`. A refusal that is found there
would be an event inside of an answer; before the start, it is a status.
"""

import asyncio
from collections.abc import Sequence
from contextvars import ContextVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.errors import RequestError


class CheckedStart:
    """An ASGI `send`."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._kept: list[Message] = []
        self._begun = False
        self.refusal: RequestError | None = None
        # The handler has returned; what it has left running has no reply any more.
        self.ended = False

    async def __call__(self, message: Message) -> None:
        if self._begun:
            await self._send(message)
        elif self.refusal is None:
            self._kept.append(message)

    async def begin(self) -> None:
        """Send what was kept, and from now on what comes."""
        if self._begun or self.refusal is not None:
            return
        self._begun = True
        kept: Sequence[Message] = self._kept
        self._kept = []
        for message in kept:
            await self._send(message)


_REPLY: ContextVar[CheckedStart | None] = ContextVar("REPLY", default=None)


async def begin_reply() -> None:
    """Let the reply of this request begin."""
    reply = _REPLY.get()
    if reply is not None:
        await reply.begin()


def refuse_start(error: RequestError) -> None:
    """End this request with an error status, where its reply has not begun: raises CancelledError
    then, since vLLM's handlers log every other exception as an error and answer it themselves."""
    reply = _REPLY.get()
    if reply is None or reply.ended:
        return
    reply.refusal = error
    raise asyncio.CancelledError


def checking_starts(app: ASGIApp) -> ASGIApp:
    """`app`, which raises RequestError for a request that was refused in it."""

    async def checked(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        reply = CheckedStart(send)
        token = _REPLY.set(reply)
        try:
            await app(scope, receive, reply)
        except asyncio.CancelledError:
            if reply.refusal is None:
                raise
        except Exception:
            if reply.refusal is None:
                # vLLM has answered what it raises.
                await reply.begin()
                raise
        finally:
            _REPLY.reset(token)
            reply.ended = True
        if reply.refusal is not None:
            raise reply.refusal
        await reply.begin()

    return checked
