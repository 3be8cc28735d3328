"""One generating request on its way through a tier's edge."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from starlette.types import Message, Receive, Scope

from serve_app.api.answer import Answer
from serve_app.api.client_identity import client_of
from serve_app.api.endpoints import Endpoint
from serve_app.api.messages import REQUEST_ID_HEADER, RequestId, for_engine, header
from serve_app.api.rules import PreparedRequest
from serve_app.core.tiers import Tier


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request as it came: its connection, its id, and whether another replica forwarded it."""

    scope: Scope
    receive: Receive
    request_id: RequestId
    relayed_here: bool


@dataclass(slots=True)
class Exchange:
    """`asked` is the body as it came, `body` the request after the tier's rules; `borrower` is the
    tier whose rules those were, where this one only lends its slots; `lender` the tier that ran it,
    if it was not this one; `cache_key` what its answer is kept under, if it may be; `relayed_here`
    says that another replica has forwarded it; `engine_id` is its id in the engine."""

    scope: Scope
    receive: Receive
    answer: Answer
    endpoint: Endpoint
    prepared: PreparedRequest
    asked: bytes
    body: bytes
    request_id: str
    relayed_here: bool = False
    borrower: Tier | None = None
    lender: Tier | None = None
    queue_wait_s: float = 0.0
    cache_key: str | None = None
    engine_id: str = ""

    @property
    def key(self) -> int:
        """The same for the same request of the same sender."""
        return hash((client_of(self.scope), self.body))

    @property
    def says_it_retries(self) -> bool:
        """The openai SDKs count their retries in a header."""
        return (header(self.scope, b"x-stainless-retry-count") or b"0") != b"0"

    def engine_scope(self) -> Scope:
        """The scope that vLLM's application sees: its own path, and the length of the body."""
        path = self.scope.get("root_path", "") + self.endpoint.path
        scope = for_engine(self.scope, len(self.body), (REQUEST_ID_HEADER, self.engine_id.encode()))
        # From version 2.4 on a stream need not listen for the client's leaving, which is done here.
        asgi = {**self.scope.get("asgi", {"version": "3.0"}), "spec_version": "2.4"}
        return {**scope, "path": path, "raw_path": path.encode(), "asgi": asgi}

    @asynccontextmanager
    async def disconnection(self) -> AsyncIterator[asyncio.Future[Message]]:
        """Done when the client is gone. The body has been read, so nothing else can come."""
        gone = asyncio.ensure_future(self.receive())
        try:
            yield gone
        finally:
            gone.cancel()
            with suppress(asyncio.CancelledError):
                await gone
