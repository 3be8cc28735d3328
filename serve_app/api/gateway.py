"""The unified /v1: find the tier that `model` names, forward the request, stream the answer.

A stream whose tier says nothing yet, as while its first replica starts, is kept alive by
heartbeats.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from io import BytesIO

import aiohttp
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from serve_app.api.asgi import HOP_BY_HOP, NOT_FORWARDED, SERVERS_OWN
from serve_app.api.engine_errors import error_event
from serve_app.api.forwarding import INTERNAL_HEADERS
from serve_app.api.request_body import BodyReader, parse_object
from serve_app.api.request_context import REQUEST_ID_HEADER
from serve_app.api.response import SSE_HEADERS
from serve_app.api.routes import CHAT_COMPLETIONS, GENERATING, Endpoint, generating_endpoint
from serve_app.core.tiers import Tier
from serve_app.errors import ClientDisconnectedError, RequestError

CONNECT_TIMEOUT_S = 5.0
FORWARDED_PATHS = (*GENERATING, "/tokenize", "/detokenize", "/v1/messages/count_tokens")
# Of the tier's response, what this application sets itself.
_OWN_HEADERS = HOP_BY_HOP | SERVERS_OWN | {REQUEST_ID_HEADER, b"vary"}


def tier_of(model: object, tiers: Sequence[Tier]) -> Tier:
    """The tier named by `model`. Any other name goes to the first tier (chat), whose engine
    knows the served model's name and answers 404 for the rest."""
    return next((tier for tier in tiers if tier.value == model), tiers[0])


@dataclass(slots=True)
class Gateway:
    """`base_url` gives the address of this cluster's own proxy, which balances the replicas."""

    base_url: Callable[[], Awaitable[str]]
    tiers: Sequence[Tier]
    max_body_bytes: int
    heartbeat_s: float = 3.0
    body_timeout_s: float = 30.0
    bodies: BodyReader = field(default_factory=BodyReader)
    _session: aiohttp.ClientSession | None = None

    async def forward(self, request: Request) -> Response:
        """Send the request to its tier and stream the answer through, chunk by chunk. A stream
        whose tier says nothing for `heartbeat_s` is opened and kept alive."""
        try:
            body = await self.bodies.read(
                request.scope,
                request.receive,
                limit_bytes=self.max_body_bytes,
                timeout_s=self.body_timeout_s,
            )
        except ClientDisconnectedError as error:
            raise RequestError(499, "The client left.", code="client_gone") from error
        payload = parse_object(body)
        tier = tier_of(payload.get("model"), self.tiers)
        url = f"{await self.base_url()}{tier.route_prefix}{request.url.path}"
        headers = [(key.decode(), value.decode("latin-1")) for key, value in request.headers.raw]
        forwarded = [
            (key, value)
            for key, value in headers
            if key.encode() not in NOT_FORWARDED | INTERNAL_HEADERS
        ]
        opening = asyncio.create_task(self._open(tier, url, body, forwarded))
        try:
            streams = payload.get("stream") is True
            await asyncio.wait({opening}, timeout=self.heartbeat_s if streams else None)
        except asyncio.CancelledError:
            await close(opening)
            raise
        if not opening.done():
            endpoint = generating_endpoint(request.url.path) or CHAT_COMPLETIONS
            kept = kept_alive(opening, self.heartbeat_s, endpoint)
            headers = {key.decode(): value.decode() for key, value in SSE_HEADERS}
            return StreamingResponse(kept, headers=headers)
        upstream = opening.result()
        answer = StreamingResponse(upstream.chunks(), status_code=upstream.response.status)
        # One by one: a header may come more than once.
        answer.raw_headers += [
            (key.lower(), value)
            for key, value in upstream.response.raw_headers
            if key.lower() not in _OWN_HEADERS
        ]
        return answer

    async def _open(
        self, tier: Tier, url: str, body: bytes, headers: Sequence[tuple[str, str]]
    ) -> "Upstream":
        async with AsyncExitStack() as stack:
            try:
                # Bytes above a megabyte are not sent without a warning.
                response = await stack.enter_async_context(
                    self._client().post(url, data=BytesIO(body), headers=headers)
                )
            except aiohttp.ClientError as error:
                raise RequestError(
                    502, f"The {tier} tier cannot be reached: {error}.", code="tier_unreachable"
                ) from error
            return Upstream(response, stack.pop_all())

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S)
            connector = aiohttp.TCPConnector(limit=0)
            self._session = aiohttp.ClientSession(
                timeout=timeout, connector=connector, auto_decompress=False
            )
        return self._session


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


async def kept_alive(
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
