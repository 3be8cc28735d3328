"""A streamed answer of which only the time to its first token counts."""

import time

import aiohttp

from loadtest.errors import MeasurementError

REFUSED = 429
# Of a token's chunk; heartbeats and errors have none.
_TOKEN = b'"choices":[{'


async def first_token_s(session: aiohttp.ClientSession, url: str, body: bytes) -> float | None:
    """Seconds from sending the request, whose answer is read to its end; None where it was refused
    with a 429. Raises MeasurementError for any other answer."""
    began_s = time.perf_counter()
    async with session.post(url, data=body) as answer:
        if answer.status == REFUSED:
            await answer.read()
            return None
        if answer.status != 200:
            raise MeasurementError(f"{answer.status}: {(await answer.text())[:300]}")
        first_s = None
        last = b""
        async for chunk in answer.content.iter_any():
            last = chunk
            if first_s is None and _TOKEN in chunk:
                first_s = time.perf_counter() - began_s
    if first_s is None:
        # A stream that heartbeats had opened is refused inside.
        if b"queue_full" in last or b"wait_too_long" in last:
            return None
        raise MeasurementError(f"a stream ended without a token: {last[-300:]!r}")
    return first_s
