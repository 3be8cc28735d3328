"""The routes that do not generate: models, versions, and what the tokenizer does for a client.

vLLM has one thread for its tokenizer, which every request's prompt passes too. So its routes have
bounds of their own, and of a replica's clients one at a time is in it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.api.asgi import send_error
from serve_app.api.conversation import take_conversation
from serve_app.api.engine_run import ClientSend, Deadlines, StallWatch, Watched, call_engine
from serve_app.api.field_rules import FieldBounds, refuse_excess, refuse_many_ids
from serve_app.api.request_body import BodyReader, as_json, parse_object
from serve_app.api.request_context import (
    RequestId,
    for_engine,
    path_below_root,
    shown_path,
    speaks_anthropic,
)
from serve_app.api.response import TierResponse
from serve_app.api.routes import (
    CHAT_COMPLETIONS,
    MESSAGES,
    Body,
    Endpoint,
    Route,
    no_route,
    tier_methods,
)
from serve_app.api.structures import complete_tools
from serve_app.config.tier import TierSettings
from serve_app.errors import ClientDisconnectedError, RequestError

# A text may be counted that fits several contexts.
CONTEXTS = 4
MAX_WAITING = 16
MAX_WAIT_S = 5.0
_DIRECT = Endpoint("direct", "", (), None)
_DIRECT_ANTHROPIC = Endpoint("direct", "", (), None, anthropic=True)


@dataclass(slots=True)
class DirectRoutes:
    """Sends such a request to vLLM's application; `bounds` is None where the engine has none."""

    engine_app: ASGIApp
    bounds: FieldBounds | None
    bodies: BodyReader
    deadlines: Deadlines
    watch: StallWatch
    _tokenizer: asyncio.Lock = field(default_factory=asyncio.Lock)
    _waiting: int = 0

    async def answer(
        self,
        scope: Scope,
        receive: Receive,
        response: TierResponse,
        client: ClientSend,
        route: Route,
        settings: TierSettings,
    ) -> None:
        """The whole request, or its error. It is not counted among the tier's requests."""
        try:
            async with self.deadlines.until_ended() as deadline:
                watched = Watched(client, stall=lambda: self.deadlines.stall(deadline))
                with self.watch.watching(watched, settings.admission.client_stall_s):
                    await self._call(scope, receive, response, route, settings)
        except RequestError as error:
            await response.fail(error)
        except ClientDisconnectedError:
            return

    async def _call(
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
        async with self._one_at_a_time() as release:
            # A client that is slow to read its answer, or never does, keeps nobody out.
            await call_engine(
                self.engine_app,
                for_engine(scope, len(body := as_json(payload))),
                body=body,
                receive=receive,
                send=response.from_engine(before_whole=release),
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

        def release() -> None:
            nonlocal inside
            if inside:
                inside = False
                self._tokenizer.release()

        try:
            yield release
        finally:
            release()


def _busy() -> RequestError:
    return RequestError(
        429, "The tokenizer is busy. Please retry.", code="tokenizer_busy", retry_after_s=1
    )


def direct_endpoint(scope: Scope) -> Endpoint:
    """The form of its response."""
    return _DIRECT_ANTHROPIC if speaks_anthropic(scope) else _DIRECT


async def refuse_route(scope: Scope, send: Send, request_id: RequestId) -> None:
    """404 for a path that is not served, 405 for another method of one that is."""
    method, path = scope["method"], path_below_root(scope)
    error, headers = no_route(method, path, shown_path(scope)), ()
    if allowed := tier_methods(path):
        message = f"{shown_path(scope)} takes {allowed}, not {method}."
        error = RequestError(405, message, code="method_not_allowed")
        headers = [(b"allow", allowed.encode())]
    anthropic = speaks_anthropic(scope)
    await send_error(send, error, request_id=request_id, anthropic=anthropic, headers=headers)
