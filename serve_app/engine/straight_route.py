"""vLLM's generating routes without what FastAPI does for every request.

FastAPI opens two exit stacks, parses the content type, resolves dependencies and looks how to
serialize the response: a tenth of a request's CPU time outside of the engine. Here the body becomes
vLLM's schema in one step, vLLM's own handler is called, and its response is sent.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# As vLLM's routes declare them; a route with others is left to FastAPI.
HANDLERS_PARAMETERS = {"request", "raw_request"}
# It asks for the content type of JSON, which the edge puts on every request.
NEEDLESS_DEPENDENCIES = {"validate_json_request"}

Handler = Callable[..., Awaitable[Response | None]]


def answer_straight(app: Any, schemas: Mapping[str, type[BaseModel]]) -> list[str]:
    """Let these routes of a FastAPI application answer without FastAPI; the paths of those that do.
    `schemas` has the model of the body by path. Whoever asks them sends JSON and says so.

    Layers and exception handlers of the application stay in front of them.
    """
    changed: list[str] = []
    for route in app.router.routes:
        schema = schemas.get(getattr(route, "path", ""))
        if schema is None or not _is_as_known(route.dependant):
            continue
        route.app = StraightRoute(schema, route.endpoint, usual=route.app)
        changed.append(route.path)
    return changed


@dataclass(frozen=True, slots=True)
class StraightRoute:
    """ASGI application: `handler` is the route's own, `usual` what FastAPI has made of it."""

    schema: type[BaseModel]
    handler: Handler
    usual: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw_request = Request(scope, receive, send)
        body = await raw_request.body()
        try:
            request = self.schema.model_validate_json(body)
        except ValidationError:
            # FastAPI finds the same, and vLLM has its own words for it.
            await self.usual(scope, _again(body, receive), send)
            return
        response = await self.handler(request=request, raw_request=raw_request)
        if response is not None:  # None: the client has left
            await response(scope, receive, send)


def _is_as_known(dependant: Any) -> bool:
    """By FastAPI's own account of what the route's handler takes and depends on."""
    kinds = ("body", "path", "query", "header", "cookie")
    taken = {of.name for kind in kinds for of in getattr(dependant, f"{kind}_params")}
    taken.add(dependant.request_param_name)
    needed = {dependency.call.__name__ for dependency in dependant.dependencies}
    return taken == HANDLERS_PARAMETERS and needed <= NEEDLESS_DEPENDENCIES


def _again(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives a body that was read already, then what the connection has."""
    given = False

    async def receive_again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again
