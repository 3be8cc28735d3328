"""Pass a request that would wait to another replica of the tier that has room: one local hop."""

import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import aiohttp
from starlette.types import Scope, Send

from serve_app.api.messages import HOP_BY_HOP, REQUEST_ID_HEADER
from serve_app.errors import RequestError

RELAYED_HEADER = b"x-tierserve-relayed"
CONNECT_TIMEOUT_S = 1.0
# Full, or being stopped.
_NOT_TAKEN = (429, 503)


@dataclass(slots=True)
class Relay:
    """`peers` gives the base URLs of the tier's other replicas, as they are now."""

    peers: Callable[[], Awaitable[Sequence[str]]]
    _session: aiohttp.ClientSession | None = None

    async def has_peers(self) -> bool:
        return bool(await self.peers())

    async def send(self, scope: Scope, body: bytes, send: Send) -> bool:
        """Whether another replica took the request and answered it through `send`.

        A replica without a free slot refuses a relayed request at once, so trying costs one local
        round trip. A request is relayed once only: whoever takes it runs it now. Raises
        RequestError 502 when a replica that took it is lost before the end.
        """
        peers = list(await self.peers())
        random.shuffle(peers)
        for peer in peers:
            if await self._send_to(peer, scope, body, send):
                return True
        return False

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _send_to(self, peer: str, scope: Scope, body: bytes, send: Send) -> bool:
        headers = [
            (key.decode("latin-1"), value.decode("latin-1"))
            for key, value in scope["headers"]
            if key.lower() not in HOP_BY_HOP
        ]
        headers.append((RELAYED_HEADER.decode(), "1"))
        posted = self._client().post(peer + scope["path"], data=body, headers=headers)
        async with AsyncExitStack() as stack:
            try:
                response = await stack.enter_async_context(posted)
            except aiohttp.ClientError:
                return False
            if response.status in _NOT_TAKEN:
                return False
            try:
                await _pass_on(response, send)
            except aiohttp.ClientError as error:
                raise RequestError(
                    502, "The replica that ran this request was lost.", code="replica_lost"
                ) from error
            return True

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S)
            connector = aiohttp.TCPConnector(limit=0)
            self._session = aiohttp.ClientSession(
                timeout=timeout, connector=connector, auto_decompress=False
            )
        return self._session


async def _pass_on(response: aiohttp.ClientResponse, send: Send) -> None:
    headers = [
        (key.lower(), value)
        for key, value in response.raw_headers
        if key.lower() not in HOP_BY_HOP | {REQUEST_ID_HEADER} or key.lower() == b"content-length"
    ]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    async for chunk in response.content.iter_any():
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
