"""Heartbeats of a stream while its engine has nothing to send yet."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from starlette.types import Message, Send

if TYPE_CHECKING:
    from serve_app.api.response import TierResponse


@asynccontextmanager
async def beating(response: "TierResponse", send: Send, every_s: float) -> AsyncIterator[Send]:
    """A `send` for the engine, before whose first part an SSE comment is sent every so often. One
    message is sent at a time."""
    sending = asyncio.Lock()
    begun = False

    async def sent(message: Message) -> None:
        nonlocal begun
        async with sending:
            begun = begun or message["type"] == "http.response.body"
            await send(message)

    async def beat() -> None:
        while True:
            await asyncio.sleep(every_s)
            async with sending:
                if begun:
                    return
                await response.keep_open()

    beats = asyncio.ensure_future(beat())
    try:
        yield sent
    finally:
        beats.cancel()
        with suppress(asyncio.CancelledError):
            await beats
