"""An address of its own for operators' pages, beside Serve's: whoever reaches it needs no key."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import uvicorn
from starlette.types import ASGIApp

from serve_app.config.access import address_of

log = logging.getLogger(__name__)

# As when another process had the address: that one may end.
RETRY_S = 5.0
_BACKLOG = 128


@dataclass(frozen=True, slots=True)
class StatusListener:
    """`address` is `host:port`."""

    app: ASGIApp
    address: str

    async def run(self) -> None:
        """Serve until cancelled."""
        while True:
            try:
                with _listening(*address_of(self.address)) as listening:
                    log.info("status listener", extra={"address": self.address})
                    server = _Server(
                        uvicorn.Config(self.app, log_config=None, access_log=False, lifespan="off")
                    )
                    await server.serve([listening])
                return
            except OSError as error:
                reason = {"address": self.address, "error": str(error)}
                log.error("the status listener cannot be opened", extra=reason)
                await asyncio.sleep(RETRY_S)


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals to whose process this is: Ray's worker."""
        yield


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Two replicas of web on a node answer the same, and so do an old and a new one.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.bind((host, port))
        listening.listen(_BACKLOG)
        listening.setblocking(False)
        yield listening
