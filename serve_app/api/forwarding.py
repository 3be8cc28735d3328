"""Forward a request that would wait to a replica that has capacity, one local hop away: first to
the other replicas of its own tier, then to those of the other tier that lend slots.

A replica marks what it forwards with a keyed hash of the request's id. The key is the cluster's: it
comes over Ray, where no client has access. Internal headers without a true mark are taken off the
request, so that a client that writes them gets what it would get without.
"""

import asyncio
import hashlib
import hmac
import random
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from typing import TypeVar

import aiohttp
from starlette.types import Message, Scope, Send

from serve_app.api.access import USAGE_COMMENT, USAGE_HEADER, Spending, written_flow
from serve_app.api.answer_deadline import (
    FORWARDED_GRACE_S,
    TIME_LEFT_HEADER,
    AnswerDeadline,
    ended_by,
)
from serve_app.api.asgi import HOP_BY_HOP, NOT_FORWARDED, SERVERS_OWN
from serve_app.api.journaled_stream import whole_events
from serve_app.api.kept_streams import RESUMABLE_HEADER
from serve_app.api.lending import BORROWED_HEADER, NOT_TAKEN, PLAN_HEADER, Lender, written_plan
from serve_app.api.replay_wire import (
    JOURNAL_HEADER,
    MOVED_HEADER,
    RESUME_HEADER,
    MovedStream,
    Resumption,
    journal_mark,
    read_marks,
)
from serve_app.api.request_context import (
    REQUEST_ID_HEADER,
    RequestContext,
    header,
    path_below_root,
)
from serve_app.api.request_record import RequestOutcome
from serve_app.api.response import TierResponse
from serve_app.core.access.caller import Caller
from serve_app.core.tiers import Tier
from serve_app.errors import ClientDisconnectedError, RequestError

FORWARDED_HEADER = b"x-tierserve-relayed"
# Whose request it is, as its own edge has authenticated it.
FLOW_HEADER = b"x-tierserve-flow"
# Of one that is forwarded for its prefix: how many milliseconds of prompts the engine there may
# have to read before it; with more it is better off where it came in.
PREFIX_HEADER = b"x-tierserve-prefix"
INTERNAL_HEADERS = frozenset(
    {
        *(FORWARDED_HEADER, FLOW_HEADER, BORROWED_HEADER, PLAN_HEADER, PREFIX_HEADER),
        *(JOURNAL_HEADER, RESUME_HEADER, MOVED_HEADER, TIME_LEFT_HEADER),
    }
)
CONNECT_TIMEOUT_S = 1.0
Replica = TypeVar("Replica")
Asked = TypeVar("Asked")


@dataclass(frozen=True, slots=True)
class Marks:
    """What others of this cluster have written on a request: `forwarded`, another replica has
    forwarded it; `followed`, its stream may go on elsewhere; `resumption`, where it goes on, with
    `journal_bytes` behind its body, after it has moved `replays` times; `moved`: and is kept here
    for its client from now on; `deadline`, when its answer is to be complete."""

    forwarded: bool = False
    followed: bool = False
    resumption: Resumption | None = None
    journal_bytes: int = 0
    replays: int = 0
    moved: MovedStream | None = None
    deadline: AnswerDeadline | None = None


UNMARKED = Marks()


@dataclass(frozen=True, slots=True)
class ClusterSecret:
    """The key that all replicas of a cluster share."""

    key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    def mark(self, request_id: str, flow: bytes = b"") -> str:
        """The value of FORWARDED_HEADER on a request that this replica forwards, with that value of
        FLOW_HEADER."""
        signed = b"\0".join((b"relayed " + request_id.encode(), flow))
        return hmac.new(self.key, signed, hashlib.sha256).hexdigest()

    def cache_salt(self, client: bytes | None) -> str:
        """What keeps a client's prompts apart in the prefix cache, the same on every replica. For a
        client without credentials it is new each time."""
        if client is None:
            return secrets.token_hex(16)
        return hmac.new(self.key, b"salt " + client, hashlib.sha256).hexdigest()

    def take_marks(
        self, scope: Scope, request_id: str, clock_s: Callable[[], float] = time.monotonic
    ) -> Marks:
        """What is truly marked on a request that comes now and has INTERNAL_HEADERS. Those of one
        that no replica has forwarded are taken off the scope."""
        mark = header(scope, FORWARDED_HEADER) or b""
        flow = header(scope, FLOW_HEADER) or b""
        forwarded = hmac.compare_digest(mark, self.mark(request_id, flow).encode())
        followed, resumption = read_marks(scope["headers"], self.key, request_id)
        moved, left = header(scope, MOVED_HEADER), header(scope, TIME_LEFT_HEADER)
        deadline = None
        if left is not None:
            deadline = AnswerDeadline.from_mark(left, self.key, request_id, clock_s)
        if not forwarded:
            scope["headers"] = [
                (name, value)
                for name, value in scope["headers"]
                if name.lower() not in INTERNAL_HEADERS
            ]
        if resumption is None:
            return Marks(forwarded, followed, deadline=deadline)
        return Marks(
            forwarded,
            True,
            resumption,
            resumption.journal_bytes,
            resumption.replays,
            None if moved is None else MovedStream.from_header(moved, self.key, request_id),
            deadline,
        )


@dataclass(frozen=True, slots=True)
class PrefixOffer:
    """The one replica that is asked to run a request, for its prefix: its base URL, how long its
    engine may have to read before, what to do as soon as it has taken the request, and what ends
    when nothing is heard of it any more."""

    url: str
    most_wait_s: float
    taken: Callable[[], None]
    silent: Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Taken:
    """Another replica runs the request; `lender` is its tier where that is another one."""

    response: aiohttp.ClientResponse
    lender: Tier | None


async def nowhere(replica: str) -> str | None:
    """Of a replica that knows no other one by its name."""
    return None


@dataclass(slots=True)
class Forwarder:
    """`peers` gives the base URLs of the tier's other replicas, `lenders` those of the other tier
    that serve the same model, both as they are now."""

    tier: Tier
    peers: Callable[[], Awaitable[Sequence[str]]]
    lenders: Callable[[], Awaitable[Sequence[Lender]]]
    secret: ClusterSecret = field(default_factory=ClusterSecret)
    # This replica's own name, and the base URL of one of the tier's others by its name.
    replica: str = ""
    url_of: Callable[[str], Awaitable[str | None]] = nowhere
    # Of the tier's other replicas, in which order they are asked.
    order: Callable[[RequestContext, Sequence[str]], Sequence[str]] = lambda _, urls: urls
    # Of this tier's sequences, those that run in slots of the other one, or ask for them: a whole
    # answer says nothing before its end, and a lender without capacity refuses within milliseconds.
    sequences_elsewhere: int = 0
    _session: aiohttp.ClientSession | None = None

    async def has_somewhere(self) -> bool:
        """Whether there is any replica to ask."""
        return bool(await self.peers() or await self.lenders())

    async def forward(
        self,
        context: RequestContext,
        response: TierResponse,
        disconnected: asyncio.Future[Message],
        offer: PrefixOffer | None = None,
    ) -> RequestOutcome | None:
        """The outcome of a request that another replica ran and answered; None where nobody took
        it. Raises ClientDisconnectedError, and RequestError 502 when that replica is lost before
        the end, 504 when it has not answered by the request's deadline.

        A replica without a free slot refuses a forwarded request at once, so trying costs one local
        round trip. A request is forwarded once only: whoever takes it runs it now. With an `offer`
        nobody else is asked.
        """
        if context.forwarded_here or context.resumption is not None:
            return None
        if context.trace is not None:
            context.trace.offer()
        forwarding = asyncio.ensure_future(self._forward(context, response, offer))
        try:
            async with ended_by(context.deadline, FORWARDED_GRACE_S):
                await asyncio.wait({forwarding, disconnected}, return_when=asyncio.FIRST_COMPLETED)
            if not forwarding.done():
                raise ClientDisconnectedError
            return forwarding.result()
        finally:
            forwarding.cancel()
            with suppress(asyncio.CancelledError, RequestError):
                await forwarding
            if context.trace is not None:
                context.trace.offer_ended()

    @asynccontextmanager
    async def read_stream(
        self, url: str, caller: Caller, request_id: str, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """What another replica answers to a GET, in the name of a caller that was authenticated
        here. Raises aiohttp.ClientError."""
        marks = [(REQUEST_ID_HEADER.decode(), request_id), *self._own_marks(caller, request_id)]
        async with self._client().get(url, headers=[*headers.items(), *marks]) as response:
            yield response

    async def status_of(
        self, url: str, headers: Sequence[tuple[bytes, bytes]], body: bytes
    ) -> int | None:
        """What another replica answers to a POST; None where it cannot be reached."""
        named = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
        try:
            async with self._client().post(url, data=BytesIO(body), headers=named) as response:
                return response.status
        except aiohttp.ClientError:
            return None

    def _own_marks(self, caller: Caller, request_id: str) -> list[tuple[str, str]]:
        flow = written_flow(caller.flow)
        mark = self.secret.mark(request_id, flow)
        return [(FLOW_HEADER.decode(), flow.decode()), (FORWARDED_HEADER.decode(), mark)]

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _forward(
        self, context: RequestContext, response: TierResponse, offer: PrefixOffer | None
    ) -> RequestOutcome | None:
        async with self._offered(context, offer) as taken:
            if taken is None:
                return None
            if offer is not None:
                offer.taken()
            response.spending.runs_elsewhere()
            lent = taken.lender is not None
            if context.trace is not None:
                context.trace.offer_taken()
            try:
                observed = lent and not context.prepared.waits_for_verdict
                send = response.from_replica(observed=observed)
                await _copy(
                    taken.response,
                    send,
                    response.spending,
                    journaled=context.journal is not None,
                )
            except aiohttp.ClientError as error:
                raise RequestError(
                    502, "The replica that ran this request was lost.", code="replica_lost"
                ) from error
            return RequestOutcome(
                response.status, response.timing, forwarded=True, lender=taken.lender
            )

    @asynccontextmanager
    async def _offered(
        self, context: RequestContext, offer: PrefixOffer | None
    ) -> AsyncIterator[_Taken | None]:
        """The response of the replica that took the request, or None."""
        scope = context.scope
        headers = [
            (key.decode("latin-1"), value.decode("latin-1"))
            for key, value in scope["headers"]
            # A lender reads the first plan: it is to be this tier's, never a client's.
            # Its events are numbered and kept here, where the client is.
            if key.lower() not in NOT_FORWARDED | INTERNAL_HEADERS | {RESUMABLE_HEADER}
        ]
        headers += self._own_marks(context.caller, context.request_id)
        if context.journal is not None:
            mark = journal_mark(self.secret.key, context.request_id)
            headers.append((JOURNAL_HEADER.decode(), mark))
        if context.deadline is not None:
            left = context.deadline.mark(self.secret.key, context.request_id)
            headers.append((TIME_LEFT_HEADER.decode(), left))
        async with AsyncExitStack() as stack:
            if offer is not None:
                headers.append((PREFIX_HEADER.decode(), f"{offer.most_wait_s * 1e3:.0f}"))
                url = offer.url + scope["path"]
                asking = self._ask(stack, url, context.received, headers)
                response = await _unless(offer.silent(), asking)
                yield None if response is None else _Taken(response, None)
                return
            for peer in self.order(context, in_any_order(await self.peers())):
                response = await self._ask(stack, peer + scope["path"], context.received, headers)
                if response is not None:
                    yield _Taken(response, None)
                    return
            for lender in in_any_order(await self.lenders()):
                url = lender.url + lender.tier.route_prefix + path_below_root(scope)
                marks = [
                    (BORROWED_HEADER.decode(), lender.mark(self.tier)),
                    (PLAN_HEADER.decode(), written_plan(context.prepared)),
                ]
                with self._run_elsewhere(context.prepared.sequences):
                    response = await self._ask(stack, url, context.body, [*headers, *marks])
                    if response is not None:
                        yield _Taken(response, lender.tier)
                        return
            yield None

    async def _ask(
        self, stack: AsyncExitStack, url: str, body: bytes, headers: Sequence[tuple[str, str]]
    ) -> aiohttp.ClientResponse | None:
        """The response of a replica that took it; open until the stack is closed."""
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


async def _unless(ended: Awaitable[None], asking: Awaitable[Asked | None]) -> Asked | None:
    """What comes of it; None where the other one ends before."""
    answer, end = asyncio.ensure_future(asking), asyncio.ensure_future(ended)
    try:
        await asyncio.wait({answer, end}, return_when=asyncio.FIRST_COMPLETED)
        return answer.result() if answer.done() else None
    finally:
        answer.cancel()
        end.cancel()
        await asyncio.gather(answer, end, return_exceptions=True)


def in_any_order(replicas: Sequence[Replica]) -> list[Replica]:
    """So that not all ask the same one first."""
    return random.sample(replicas, len(replicas))


async def _copy(
    response: aiohttp.ClientResponse, send: Send, spending: Spending, *, journaled: bool
) -> None:
    """What the other replica says of the usage is for this one only. Of a stream that may go on
    elsewhere only whole events are sent, so that what stands behind the last one can be read."""
    headers = [
        (key.lower(), value)
        for key, value in response.raw_headers
        if key.lower() not in HOP_BY_HOP | SERVERS_OWN | {REQUEST_ID_HEADER, USAGE_HEADER, b"vary"}
        or key.lower() == b"content-length"
    ]
    if (said := response.headers.get(USAGE_HEADER.decode())) is not None:
        spending.said_elsewhere(said.encode())
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    chunks = without_usage(response.content.iter_any(), spending)
    if journaled and response.content_type == "text/event-stream":
        chunks = whole_events(chunks)
    async for chunk in chunks:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def without_usage(chunks: AsyncIterator[bytes], spending: Spending) -> AsyncIterator[bytes]:
    """The same chunks but for the comment with the usage, which is the last thing in a stream and
    may come in pieces."""
    kept = b""
    async for chunk in chunks:
        kept += chunk
        # Only comments begin a line so: JSON has no line breaks within.
        at = kept.rfind(b"\n:") + 1
        begun = kept[at : at + len(USAGE_COMMENT)]
        is_comment = begun.startswith(b":") and USAGE_COMMENT.startswith(begun)
        chunk, kept = (kept[:at], kept[at:]) if is_comment else (kept, b"")
        if chunk:
            yield chunk
    if kept.startswith(USAGE_COMMENT):
        spending.said_elsewhere(kept[len(USAGE_COMMENT) :].strip())
    elif kept:
        yield kept
