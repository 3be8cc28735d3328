"""The gateway's HTTP client: requests to this cluster's own proxy, over connections that are kept.

httptools, which also parses what uvicorn receives, parses the responses. What has come is taken as
it lies, several chunks in one, so that a slow reader costs less for each and not more.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import cast

import httptools

Headers = Sequence[tuple[bytes, bytes]]

CONNECT_TIMEOUT_S = 5.0
# The proxy keeps an idle connection longer, so that none is used while it closes it.
IDLE_S = 10.0
# Beyond it nothing is read until the client has taken what there is.
MOST_UNTAKEN_BYTES = 256 * 1024


class UpstreamError(Exception):
    """The proxy gave no response, or not all of it."""


class ConnectError(UpstreamError):
    """The proxy was not reached at all."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where the proxy listens."""

    host: str
    port: int

    @property
    def host_header(self) -> bytes:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}".encode()


@dataclass(slots=True)
class UpstreamPool:
    """Connections to proxies. One belongs to one response at a time, and is kept once that was read
    to its end."""

    connect_timeout_s: float = CONNECT_TIMEOUT_S
    _idle: dict[Address, list["Upstream"]] = field(default_factory=dict[Address, "list[Upstream]"])

    async def post(
        self, address: Address, path: str, headers: Headers, body: bytes, *, anew: bool = False
    ) -> "Upstream":
        """Send a request, and wait for the head of its response. Raises UpstreamError.

        A kept connection may have been closed by the other side meanwhile; then the request is sent
        once more, over a new one. `anew` takes a new one at once: it leads to a HAProxy that knows
        which replicas there are, while a kept one may lead to the process that was replaced as the
        replicas changed.
        """
        request = _written(address, path, headers, len(body))
        while not anew and (kept := self._kept(address)) is not None:
            try:
                return await _head_of(kept, request, body)
            except UpstreamError:
                if kept.received:
                    raise
        return await _head_of(await self._connected(address), request, body)

    def close(self) -> None:
        for kept in self._idle.values():
            for upstream in [*kept]:
                upstream.abort()
        self._idle.clear()

    def _kept(self, address: Address) -> "Upstream | None":
        idle = self._idle.get(address)
        while idle:
            upstream = idle.pop()
            if not upstream.closing:
                return upstream
        return None

    async def _connected(self, address: Address) -> "Upstream":
        loop = asyncio.get_running_loop()
        idle = self._idle.setdefault(address, [])
        try:
            async with asyncio.timeout(self.connect_timeout_s):
                _, upstream = await loop.create_connection(
                    lambda: Upstream(idle), address.host, address.port
                )
        except (OSError, TimeoutError) as error:
            raise ConnectError(str(error) or "it did not answer in time") from error
        return upstream


class Upstream(asyncio.Protocol):
    """One connection, and the response that comes over it. Callbacks named `on_` are the parser's.

    Whoever has it ends with `release` or `abort`.
    """

    __slots__ = (
        "_ends_idle",
        "_idle",
        "_keeps_alive",
        "_parser",
        "_paused",
        "_pieces",
        "_size",
        "_transport",
        "_until_eof",
        "_waiter",
        "broken",
        "complete",
        "headers",
        "received",
        "status",
    )

    def __init__(self, idle: list["Upstream"]) -> None:
        self._idle = idle
        self._ends_idle: asyncio.TimerHandle | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._reset()

    # --- for whoever has it

    def write(self, request: bytes, body: bytes) -> None:
        """Begin another request. `request` is its head."""
        if self._ends_idle is not None:
            self._ends_idle.cancel()
        self._reset()
        self._transport.writelines((request, body))

    async def more(self) -> None:
        """Wait until something has come, or the response or the connection has ended."""
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def take(self) -> bytes:
        """What has come of the body since the last call."""
        pieces = self._pieces
        if not pieces:
            return b""
        taken = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._size = 0
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        return taken

    async def whole(self, limit_bytes: int) -> bytes:
        """The body, or as much of it as is more than the limit. Raises UpstreamError."""
        body = bytearray()
        while len(body) <= limit_bytes:
            body += self.take()
            if self.complete:
                break
            if self.broken:
                raise UpstreamError("the connection was lost before the whole answer")
            await self.more()
        return bytes(body)

    def header(self, name: bytes) -> bytes | None:
        return next((value for key, value in self.headers if key == name), None)

    @property
    def closing(self) -> bool:
        return self.broken or self._transport.is_closing()

    def release(self) -> None:
        """Keep the connection for another request, where its response is over; else end it."""
        if self.complete and self._keeps_alive and not self.closing:
            self.take()
            self._idle.append(self)
            self._ends_idle = asyncio.get_running_loop().call_later(IDLE_S, self.abort)
        else:
            self.abort()

    def abort(self) -> None:
        """End the connection, and so the work behind it."""
        self._transport.abort()

    # --- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.received = True
        if self.complete:
            # Nobody has asked for more.
            self._transport.abort()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.abort()
            return
        if self._size > MOST_UNTAKEN_BYTES and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        # A body without a length ends with the connection.
        if exc is None and self.status and self._until_eof:
            self.complete = True
        self.broken = True
        with suppress(ValueError):
            self._idle.remove(self)
        self._wake()

    # --- httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in (b"content-length", b"transfer-encoding"):
            self._until_eof = False
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200:
            self.status = status
        else:
            self.headers.clear()

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)
        self._size += len(body)

    def on_message_complete(self) -> None:
        self.complete = self.status >= 200
        # Asked later, the parser has forgotten it.
        self._keeps_alive = self._parser.should_keep_alive()

    # ---

    def _reset(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._pieces: list[bytes] = []
        self._size = 0
        self._paused = False
        self._until_eof = True
        self._keeps_alive = False
        # 0: no head has come yet.
        self.status = 0
        # With names in lower case.
        self.headers: list[tuple[bytes, bytes]] = []
        self.received = False
        self.complete = False
        # The connection is gone.
        self.broken = False

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


async def _head_of(upstream: Upstream, request: bytes, body: bytes) -> Upstream:
    """The same one, once the head of its response is there. Raises UpstreamError."""
    upstream.write(request, body)
    try:
        while not upstream.status:
            if upstream.broken:
                raise UpstreamError("the connection was lost before an answer")
            await upstream.more()
    except BaseException:
        upstream.abort()
        raise
    return upstream


def _written(address: Address, path: str, headers: Headers, body_bytes: int) -> bytes:
    """The head of a request. The values come from a server that has refused line breaks in them."""
    lines = [b"POST %s HTTP/1.1\r\nhost: %s\r\n" % (path.encode(), address.host_header)]
    lines += [b"%s: %s\r\n" % header for header in headers]
    lines.append(b"content-length: %d\r\n\r\n" % body_bytes)
    return b"".join(lines)
