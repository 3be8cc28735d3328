"""One generating request on its way through a tier's edge."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from starlette.types import Message, Receive, Scope

from serve_app.api.answer import Answer
from serve_app.api.endpoints import Endpoint
from serve_app.api.lending import RELAYED_HEADER
from serve_app.api.messages import header
from serve_app.api.rules import PreparedRequest
from serve_app.core.tiers import Tier


@dataclass(slots=True)
class Exchange:
    """`asked` is the body as it came, `body` the request after the tier's rules; `borrower` is the
    tier whose rules those were, where this one only lends its slots; `lender` the tier that ran it,
    if it was not this one; `cache_key` what its answer is kept under, if it may be."""

    scope: Scope
    receive: Receive
    answer: Answer
    endpoint: Endpoint
    prepared: PreparedRequest
    asked: bytes
    body: bytes
    borrower: Tier | None = None
    lender: Tier | None = None
    queue_wait_s: float = 0.0
    cache_key: str | None = None

    @property
    def relayed_here(self) -> bool:
        """Another replica has passed it on."""
        return header(self.scope, RELAYED_HEADER) is not None

    @property
    def key(self) -> int:
        """The same for the same request of the same sender."""
        return hash((header(self.scope, b"authorization"), self.body))

    @property
    def says_it_retries(self) -> bool:
        """The openai SDKs count their retries in a header."""
        return (header(self.scope, b"x-stainless-retry-count") or b"0") != b"0"

    def engine_scope(self) -> Scope:
        """The scope that vLLM's application sees: its own path, and the length of the body."""
        path = self.scope.get("root_path", "") + self.endpoint.path
        headers = [
            (key, value)
            for key, value in self.scope["headers"]
            if key.lower() not in (b"content-length", b"content-type", b"transfer-encoding")
        ]
        headers += [
            (b"content-length", b"%d" % len(self.body)),
            (b"content-type", b"application/json"),
        ]
        # From version 2.4 on a stream need not listen for the client's leaving, which is done here.
        asgi = {**self.scope.get("asgi", {"version": "3.0"}), "spec_version": "2.4"}
        own = {"path": path, "raw_path": path.encode(), "headers": headers, "asgi": asgi}
        return {**self.scope, **own}

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
