"""The routes that do not generate: models, versions, and what the tokenizer does for a client.

vLLM has one thread for its tokenizer, which every request's prompt passes too. So its routes have
bounds of their own, and of a replica's clients one at a time is in it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Receive, Scope

from serve_app.api.cancellation import call_engine
from serve_app.api.conversation import take_conversation
from serve_app.api.field_rules import FieldBounds, refuse_excess, refuse_many_ids
from serve_app.api.request_body import BodyReader, as_json, parse_object
from serve_app.api.request_context import for_engine
from serve_app.api.response import TierResponse
from serve_app.api.routes import CHAT_COMPLETIONS, MESSAGES, Body, Route
from serve_app.api.structures import complete_tools
from serve_app.config.tier import TierSettings
from serve_app.errors import RequestError

# A text may be counted that fits several contexts.
CONTEXTS = 4
MAX_WAITING = 16
MAX_WAIT_S = 5.0


@dataclass(slots=True)
class DirectRoutes:
    """Sends such a request to vLLM's application; `bounds` is None where the engine has none."""

    engine_app: ASGIApp
    bounds: FieldBounds | None
    bodies: BodyReader
    _tokenizer: asyncio.Lock = field(default_factory=asyncio.Lock)
    _waiting: int = 0

    async def __call__(
        self,
        scope: Scope,
        receive: Receive,
        response: TierResponse,
        route: Route,
        settings: TierSettings,
    ) -> None:
        """Raises RequestError, and ClientDisconnectedError."""
        if route.body is Body.NONE:
            inner = for_engine(scope, 0)
            await call_engine(
                self.engine_app, inner, body=b"", receive=receive, send=response.from_engine()
            )
            return
        asked = await self.bodies.read(
            scope,
            receive,
            limit_bytes=settings.max_body_bytes,
            timeout_s=settings.admission.body_timeout_s,
        )
        payload = parse_object(asked)
        endpoint = MESSAGES if route.path.startswith(MESSAGES.path) else CHAT_COMPLETIONS
        if self.bounds is not None:
            bounds = self.bounds.times(CONTEXTS)
            refuse_excess(payload, bounds)
            refuse_many_ids(payload, bounds)
        # What is counted is what would be asked.
        take_conversation(payload, endpoint)
        complete_tools(payload, endpoint)
        async with self._one_at_a_time() as leave:
            # A client that is slow to read its answer, or never does, keeps nobody out.
            await call_engine(
                self.engine_app,
                for_engine(scope, len(body := as_json(payload))),
                body=body,
                receive=receive,
                send=response.from_engine(before_whole=leave),
            )

    @asynccontextmanager
    async def _one_at_a_time(self) -> AsyncIterator[Callable[[], None]]:
        """Gives what lets the next one in before the block ends."""
        if self._waiting >= MAX_WAITING:
            raise _busy()
        self._waiting += 1
        try:
            async with asyncio.timeout(MAX_WAIT_S):
                await self._tokenizer.acquire()
        except TimeoutError as error:
            raise _busy() from error
        finally:
            self._waiting -= 1
        inside = True

        def leave() -> None:
            nonlocal inside
            if inside:
                inside = False
                self._tokenizer.release()

        try:
            yield leave
        finally:
            leave()


def _busy() -> RequestError:
    return RequestError(
        429, "The tokenizer is busy. Please retry.", code="tokenizer_busy", retry_after_s=1
    )
