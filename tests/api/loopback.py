"""Serve an application on a free loopback port inside the running event loop."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import uvicorn
from starlette.types import ASGIApp

# For answers that are under way.
SHUTDOWN_S = 0.1


@asynccontextmanager
async def served(app: ASGIApp) -> AsyncIterator[str]:
    """The base URL of `app` while the block runs."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, lifespan="off", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    # As `serve` has it, but for its loop, which looks only ten times a second whether to end.
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[listening])
    await server.on_tick(0)
    connections = server.server_state.connections
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        for each in server.servers:
            each.close()
        for connection in list(connections):
            connection.shutdown()
        with suppress(TimeoutError):
            async with asyncio.timeout(SHUTDOWN_S):
                while connections:  # noqa: ASYNC110 - uvicorn has a set, no event
                    await asyncio.sleep(0.001)
        # Without an end they would be an error of the test in which garbage is looked for next.
        for connection in list(connections):
            connection.transport.abort()
            await asyncio.sleep(0)
        listening.close()


@asynccontextmanager
async def unreachable() -> AsyncIterator[str]:
    """A base URL at which nothing listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"
