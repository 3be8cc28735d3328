"""A stream that has been promised before anybody answers: heartbeats while its tier starts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import aiohttp

from serve_app.api.endpoints import Endpoint
from serve_app.api.stream_errors import error_event
from serve_app.errors import RequestError

HEARTBEAT = b": waiting for a replica\n\n"


@dataclass(frozen=True, slots=True)
class Upstream:
    """An answer that has begun. Leaving `closing` ends the work in the tier."""

    response: aiohttp.ClientResponse
    closing: AsyncExitStack

    async def chunks(self) -> AsyncIterator[bytes]:
        async with self.closing:
            async for chunk in self.response.content.iter_any():
                yield chunk


async def held_stream(
    opening: "asyncio.Task[Upstream]", heartbeat_s: float, endpoint: Endpoint
) -> AsyncIterator[bytes]:
    """An SSE comment every `heartbeat_s` until `opening` is done, then its answer. The status has
    been sent by then, so a refusal can only be an error event."""
    try:
        while not opening.done():
            yield HEARTBEAT
            await asyncio.wait({opening}, timeout=heartbeat_s)
        try:
            upstream = opening.result()
        except RequestError as error:
            yield error_event(error.body(anthropic=endpoint.anthropic), endpoint)
            return
        if upstream.response.content_type == "text/event-stream":
            async for chunk in upstream.chunks():
                yield chunk
        else:
            body = b"".join([chunk async for chunk in upstream.chunks()])
            yield error_event(body, endpoint)
    finally:
        await close(opening)


async def close(opening: "asyncio.Task[Upstream]") -> None:
    """End it, whether it has begun or not."""
    opening.cancel()
    await asyncio.wait({opening})
    if not opening.cancelled() and opening.exception() is None:
        await opening.result().closing.aclose()
