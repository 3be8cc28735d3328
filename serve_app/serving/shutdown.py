"""Notice that Serve has begun to stop this replica.

Serve 2.60 does not notify user code when a drain begins, but the replica's own health path, which
HAProxy reads, turns to 503 DRAINING.
"""

import asyncio

import aiohttp

from serve_app.serving.ray_internals import is_draining
from serve_app.serving.topology import own_address

PERIOD_S = 1.0


async def until_draining() -> None:
    """Return when the drain begins; never, where replicas have no HTTP port of their own."""
    timeout = aiohttp.ClientTimeout(total=PERIOD_S)
    address: str | None = None
    async with aiohttp.ClientSession(timeout=timeout) as session:
        while True:
            await asyncio.sleep(PERIOD_S)
            address = address or await own_address()
            if address is not None and await _is_draining(session, address):
                return


async def _is_draining(session: aiohttp.ClientSession, address: str) -> bool:
    try:
        async with session.get(f"{address}/-/healthz") as response:
            return is_draining(response.status, await response.text())
    except (aiohttp.ClientError, TimeoutError):
        return False
