"""The fast path: what vLLM's application does for each request or token and nobody needs here.

1. `FAST_ROUTES`: the generating routes answer without FastAPI, which opens two exit stacks, parses
   the content type, resolves dependencies and looks how to serialize the response: a tenth of a
   request's CPU time outside of the engine. Here the body becomes vLLM's schema in one step, vLLM's
   own handler is called, and its response is sent. A list of which an item is wrong is given up at
   that item. pydantic goes on to the end, with an error for every item and every type that it might
   have been: 932,001 of them for 16 KB of `{"input": [{}, {}, ...]}`, which held the event loop for
   25 s and took 4 GB.
2. `FAST_CHUNKS`: the chunks of a stream are built without vLLM's look for made-up fields.
3. `NO_HTTP_METRICS`: vLLM's HTTP metrics walk all routes twice a request and wrap every chunk; the
   edge counts and times each request.

Each is installed and reported like a patch (`patches/patch.py`): a vLLM that is built in another
way answers all the same, slower, and `tierserve_vllm_patch_active` says so.
"""

import gc
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import SchemaValidator
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.engine.vllm.patches.patch import Patch, PatchError

if TYPE_CHECKING:
    from fastapi import FastAPI

# As vLLM's routes declare them; a route with others is left to FastAPI.
HANDLERS_PARAMETERS = {"request", "raw_request"}
# It asks for the content type of JSON, which the edge puts on every request.
NEEDLESS_DEPENDENCIES = {"validate_json_request"}
# vLLM's validator that reports fields in its debug log which a schema does not have.
FIELD_LOG = "__log_extra_fields__"
# Python's own are 700, 10 and 10. A request makes thousands of objects that live until it ends, and
# almost none of them is in a cycle: 4 % of a request's time, measured on one process in turn.
GC_THRESHOLDS = (10_000, 20, 20)

_LISTS = frozenset({"list", "tuple", "set", "frozenset"})
Handler = Callable[..., Awaitable[Response | None]]


def answer_without_fastapi(app: "FastAPI", schemas: Mapping[str, Any]) -> list[str]:
    """Let these routes of a FastAPI application answer without FastAPI; the paths of those that do.
    `schemas` has the type of the body by path, a model or a union of some. Whoever asks them sends
    JSON and says so.

    Layers and exception handlers of the application stay in front of them.
    """
    changed: list[str] = []
    routes: list[Any] = app.router.routes
    for route in routes:
        schema = schemas.get(getattr(route, "path", ""))
        if schema is None or not _is_as_known(route.dependant):
            continue
        if isinstance(route.app, FastRoute):
            changed.append(route.path)
            continue
        validator = giving_up_early(schema)
        route.app = FastRoute(schema, route.endpoint, validator, usual=route.app)
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
class FastRoute:
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
                # No JSON, or no object: FastAPI has its own message for it.
                await self.usual(scope, _again(body, receive), send)
                return
            # As FastAPI says it; vLLM's handler makes an answer of it.
            reported = [{**each, "loc": ("body", *each["loc"])} for each in errors]
            raise RequestValidationError(reported) from None
        response = await self.handler(request=request, raw_request=raw_request)
        if response is not None:  # None: the client has disconnected
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


def without_http_metrics(app: "FastAPI", generating: Collection[str]) -> None:
    """Take the HTTP metrics out of vLLM's application. The edge knows each request's route, so the
    generating ones are looked at first."""
    from prometheus_fastapi_instrumentator.middleware import PrometheusInstrumentatorMiddleware

    layers: list[Any] = app.user_middleware
    app.user_middleware = [
        layer for layer in layers if layer.cls is not PrometheusInstrumentatorMiddleware
    ]
    # build_app's SageMaker part has built the layers already; the next request builds them anew.
    app.middleware_stack = None
    app.router.routes.sort(key=lambda route: getattr(route, "path", None) not in generating)


def build_chunks_unchecked(chunk_models: Iterable[type[Any]]) -> None:
    """Let the models of a stream's chunks be validated by pydantic alone, parts before wholes.

    vLLM wraps every model in a look for fields that a client has made up. It makes its chunks
    itself, three models for every token, so there is nothing to be found.
    """
    for model in chunk_models:
        model.__pydantic_decorators__.model_validators.pop(FIELD_LOG, None)
        model.model_rebuild(force=True)


def collect_garbage_rarely() -> None:
    """Look for cycles among new objects less often, in this process. vLLM keeps only what it made
    at its start out of the look."""
    gc.set_threshold(*GC_THRESHOLDS)


def _install_routes(app: "FastAPI", schemas: Mapping[str, Any]) -> None:
    left = schemas.keys() - answer_without_fastapi(app, schemas)
    if left:
        raise PatchError(f"left to FastAPI: {', '.join(sorted(left))}")


def chunk_models() -> list[type[BaseModel]]:
    """vLLM's, parts before wholes."""
    from vllm.entrypoints.generate.base.protocol import DeltaMessage
    from vllm.entrypoints.openai.chat_completion import protocol as chat
    from vllm.entrypoints.openai.completion import protocol as completion

    return [
        DeltaMessage,
        chat.ChatCompletionResponseStreamChoice,
        chat.ChatCompletionStreamResponse,
        completion.CompletionResponseStreamChoice,
        completion.CompletionStreamResponse,
    ]


def _install_chunks() -> None:
    build_chunks_unchecked(chunk_models())


_VALIDATOR = f"vllm.entrypoints.serve.engine.protocol:OpenAIBaseModel.{FIELD_LOG}"
FAST_ROUTES = Patch(
    name="fast_routes",
    versions=">=0.32,<0.33",
    upstream="vllm/entrypoints/openai/chat_completion/api_router.py and the other routers",
    remove_when="FastAPI costs a request less than 0.05 ms, and a list is given up at its first "
    "wrong item",
    apply=_install_routes,
)
FAST_CHUNKS = Patch(
    name="fast_chunks",
    versions=">=0.32,<0.33",
    upstream=f"vllm/entrypoints/serve/engine/protocol.py, OpenAIBaseModel.{FIELD_LOG}",
    remove_when="the models of chunks are not validated with it",
    apply=_install_chunks,
    replaces=(_VALIDATOR,),
)
NO_HTTP_METRICS = Patch(
    name="no_http_metrics",
    versions=">=0.32,<0.33",
    upstream="vllm/entrypoints/serve/instrumentator/metrics.py",
    remove_when="vLLM's HTTP metrics can be turned off",
    apply=without_http_metrics,
)
