"""Pass a request that would wait to a replica that has room, one local hop away.

First to the other replicas of its own tier, then to those of the other tier that lend slots.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from typing import TypeVar

import aiohttp
from starlette.types import Message, Send

from serve_app.api.exchange import Exchange
from serve_app.api.internal_headers import (
    BORROWED_HEADER,
    INTERNAL_HEADERS,
    PLAN_HEADER,
    RELAYED_HEADER,
    ClusterSecret,
)
from serve_app.api.lending import NOT_TAKEN, Lender, written_plan
from serve_app.api.messages import (
    HOP_BY_HOP,
    NOT_FORWARDED,
    REQUEST_ID_HEADER,
    SERVERS_OWN,
    ClientGone,
    path_below_root,
)
from serve_app.core.tiers import Tier
from serve_app.errors import RequestError

CONNECT_TIMEOUT_S = 1.0
Replica = TypeVar("Replica")


@dataclass(frozen=True, slots=True)
class _Taken:
    """Another replica runs the request; `lender` is its tier where that is another one."""

    response: aiohttp.ClientResponse
    lender: Tier | None


@dataclass(slots=True)
class Relay:
    """`peers` gives the base URLs of the tier's other replicas, `lenders` those of the other tier
    that serve the same model, both as they are now."""

    tier: Tier
    peers: Callable[[], Awaitable[Sequence[str]]]
    lenders: Callable[[], Awaitable[Sequence[Lender]]]
    secret: ClusterSecret = field(default_factory=ClusterSecret)
    # Of this tier's sequences, those that run in slots of the other one, or ask for them: a whole
    # answer says nothing before its end, and a lender without room refuses within milliseconds.
    sequences_elsewhere: int = 0
    _session: aiohttp.ClientSession | None = None

    async def has_somewhere(self) -> bool:
        """Whether there is any replica to ask."""
        return bool(await self.peers() or await self.lenders())

    async def passed_on(self, exchange: Exchange, gone: asyncio.Future[Message]) -> bool:
        """Whether another replica ran and answered it. Raises ClientGone, and RequestError 502 when
        that replica is lost before the end.

        A replica without a free slot refuses a relayed request at once, so trying costs one local
        round trip. A request is relayed once only: whoever takes it runs it now.
        """
        if exchange.relayed_here:
            return False
        passing = asyncio.ensure_future(self._pass_on(exchange))
        try:
            await asyncio.wait({passing, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not passing.done():
                raise ClientGone
            return passing.result()
        finally:
            passing.cancel()
            with suppress(asyncio.CancelledError, RequestError):
                await passing

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _pass_on(self, exchange: Exchange) -> bool:
        offered = self._offered(exchange)
        async with offered as taken:
            if taken is None:
                return False
            exchange.lender = taken.lender
            exchange.answer.relayed = True
            exchange.answer.measured_here = taken.lender is not None
            try:
                await _copy(taken.response, exchange.answer)
            except aiohttp.ClientError as error:
                raise RequestError(
                    502, "The replica that ran this request was lost.", code="replica_lost"
                ) from error
        return True

    @asynccontextmanager
    async def _offered(self, exchange: Exchange) -> AsyncIterator[_Taken | None]:
        """The answer of the replica that took the request, or None."""
        scope = exchange.scope
        headers = [
            (key.decode("latin-1"), value.decode("latin-1"))
            for key, value in scope["headers"]
            # A lender reads the first plan: it is to be this tier's, never a client's.
            if key.lower() not in NOT_FORWARDED | INTERNAL_HEADERS
        ]
        headers.append((RELAYED_HEADER.decode(), self.secret.mark(exchange.request_id)))
        async with AsyncExitStack() as stack:
            for peer in _in_any_order(await self.peers()):
                response = await self._ask(stack, peer + scope["path"], exchange.asked, headers)
                if response is not None:
                    yield _Taken(response, None)
                    return
            for lender in _in_any_order(await self.lenders()):
                url = lender.url + lender.tier.route_prefix + path_below_root(scope)
                marks = [
                    (BORROWED_HEADER.decode(), lender.mark(self.tier)),
                    (PLAN_HEADER.decode(), written_plan(exchange.prepared)),
                ]
                with self._run_elsewhere(exchange.prepared.sequences):
                    response = await self._ask(stack, url, exchange.body, [*headers, *marks])
                    if response is not None:
                        yield _Taken(response, lender.tier)
                        return
            yield None

    async def _ask(
        self, stack: AsyncExitStack, url: str, body: bytes, headers: Sequence[tuple[str, str]]
    ) -> aiohttp.ClientResponse | None:
        """The answer of a replica that took it; open until the stack is left."""
        async with AsyncExitStack() as asking:
            try:
                # Bytes above a megabyte are not sent without a warning.
                posted = self._client().post(url, data=BytesIO(body), headers=headers)
                response = await asking.enter_async_context(posted)
            except aiohttp.ClientError:
                return None
            if response.status in NOT_TAKEN:
                return None
            stack.push_async_exit(asking.pop_all())
            return response

    @contextmanager
    def _run_elsewhere(self, sequences: int) -> Iterator[None]:
        self.sequences_elsewhere += sequences
        try:
            yield
        finally:
            self.sequences_elsewhere -= sequences

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S)
            connector = aiohttp.TCPConnector(limit=0)
            self._session = aiohttp.ClientSession(
                timeout=timeout, connector=connector, auto_decompress=False
            )
        return self._session


def _in_any_order(replicas: Sequence[Replica]) -> list[Replica]:
    return random.sample(replicas, len(replicas))


async def _copy(response: aiohttp.ClientResponse, send: Send) -> None:
    headers = [
        (key.lower(), value)
        for key, value in response.raw_headers
        if key.lower() not in HOP_BY_HOP | SERVERS_OWN | {REQUEST_ID_HEADER, b"vary"}
        or key.lower() == b"content-length"
    ]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    async for chunk in response.content.iter_any():
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
