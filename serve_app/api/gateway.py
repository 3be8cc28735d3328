"""The unified /v1: find the tier that `model` names, pass the request on, stream the answer."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from io import BytesIO

import aiohttp
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from serve_app.api.answer import SSE_HEADERS
from serve_app.api.body_reader import BodyReader
from serve_app.api.endpoints import CHAT_COMPLETIONS, GENERATING, generating_endpoint
from serve_app.api.held import Upstream, close, held_stream
from serve_app.api.internal_headers import INTERNAL_HEADERS
from serve_app.api.messages import (
    HOP_BY_HOP,
    NOT_FORWARDED,
    REQUEST_ID_HEADER,
    SERVERS_OWN,
    ClientGone,
)
from serve_app.api.payload import parse_object
from serve_app.core.tiers import Tier
from serve_app.errors import RequestError

CONNECT_TIMEOUT_S = 5.0
PASSED_PATHS = (*GENERATING, "/tokenize", "/detokenize", "/v1/messages/count_tokens")
# Of the tier's answer, what this application says itself.
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
        whose tier says nothing, as while its first replica starts, is held with heartbeats."""
        try:
            body = await self.bodies.read(
                request.scope,
                request.receive,
                limit_bytes=self.max_body_bytes,
                timeout_s=self.body_timeout_s,
            )
        except ClientGone as gone:
            raise RequestError(499, "The client left.", code="client_gone") from gone
        payload = parse_object(body)
        tier = tier_of(payload.get("model"), self.tiers)
        url = f"{await self.base_url()}{tier.route_prefix}{request.url.path}"
        headers = [(key.decode(), value.decode("latin-1")) for key, value in request.headers.raw]
        passed = [
            (key, value)
            for key, value in headers
            if key.encode() not in NOT_FORWARDED | INTERNAL_HEADERS
        ]
        opening = asyncio.create_task(self._open(tier, url, body, passed))
        try:
            streams = payload.get("stream") is True
            await asyncio.wait({opening}, timeout=self.heartbeat_s if streams else None)
        except asyncio.CancelledError:
            await close(opening)
            raise
        if not opening.done():
            endpoint = generating_endpoint(request.url.path) or CHAT_COMPLETIONS
            held = held_stream(opening, self.heartbeat_s, endpoint)
            headers = {key.decode(): value.decode() for key, value in SSE_HEADERS}
            return StreamingResponse(held, headers=headers)
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
    ) -> Upstream:
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
