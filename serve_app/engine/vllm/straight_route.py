"""vLLM's generating routes without what FastAPI does for every request.

FastAPI opens two exit stacks, parses the content type, resolves dependencies and looks how to
serialize the response: a tenth of a request's CPU time outside of the engine. Here the body becomes
vLLM's schema in one step, vLLM's own handler is called, and its response is sent.

A list of which an item is wrong is given up at that item. pydantic goes on to the end, with an
error for every item and every type that it might have been: 932,001 of them for 16 KB of
`{"input": [{}, {}, ...]}`, which held the event loop for 25 s and took 4 GB.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import SchemaValidator
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# As vLLM's routes declare them; a route with others is left to FastAPI.
HANDLERS_PARAMETERS = {"request", "raw_request"}
# It asks for the content type of JSON, which the edge puts on every request.
NEEDLESS_DEPENDENCIES = {"validate_json_request"}

_LISTS = frozenset({"list", "tuple", "set", "frozenset"})
Handler = Callable[..., Awaitable[Response | None]]


def answer_straight(app: Any, schemas: Mapping[str, Any]) -> list[str]:
    """Let these routes of a FastAPI application answer without FastAPI; the paths of those that do.
    `schemas` has the type of the body by path, a model or a union of some. Whoever asks them sends
    JSON and says so.

    Layers and exception handlers of the application stay in front of them.
    """
    changed: list[str] = []
    for route in app.router.routes:
        schema = schemas.get(getattr(route, "path", ""))
        if schema is None or not _is_as_known(route.dependant):
            continue
        validator = giving_up_early(schema)
        route.app = StraightRoute(schema, route.endpoint, validator, usual=route.app)
        changed.append(route.path)
    return changed


def giving_up_early(schema: Any) -> SchemaValidator:
    """A validator that ends at the first wrong item of a list. A model gets it as its own too, for
    where it is made in other ways."""
    core = TypeAdapter(schema).core_schema
    _end_lists_early(core)
    validator = SchemaValidator(core)
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        schema.__pydantic_validator__ = validator
    return validator


def _end_lists_early(core: Any) -> None:
    """Set `fail_fast` throughout a core schema, which refers to parts of itself."""
    seen: set[int] = set()
    waiting = [core]
    while waiting:
        part = waiting.pop()
        if not isinstance(part, dict | list | tuple) or id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, dict):
            # A schema of fields may have one that is called `type`.
            if isinstance(kind := part.get("type"), str) and kind in _LISTS:
                part["fail_fast"] = True
            waiting += part.values()
        else:
            waiting += part


@dataclass(frozen=True, slots=True)
class StraightRoute:
    """ASGI application: `handler` is the route's own, `usual` what FastAPI has made of it."""

    schema: Any
    handler: Handler
    validator: SchemaValidator
    usual: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw_request = Request(scope, receive, send)
        body = await raw_request.body()
        try:
            request = self.validator.validate_json(body)
        except ValidationError as error:
            errors = error.errors(include_url=False)
            if any(not each["loc"] for each in errors):
                # No JSON, or no object: FastAPI has its own words for it.
                await self.usual(scope, _again(body, receive), send)
                return
            # As FastAPI says it; vLLM's handler makes an answer of it.
            told = [{**each, "loc": ("body", *each["loc"])} for each in errors]
            raise RequestValidationError(told) from None
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
