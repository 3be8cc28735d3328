"""`GET /openapi.json`: every route with its fields, limits, answers and errors, as OpenAPI 3.1.

Bodies are in `openapi_bodies.py`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from serve_app.api.answer_deadline import DEADLINE_HEADER, MOST_DEADLINE_MS
from serve_app.api.openapi_bodies import (
    COMPONENTS,
    EitherTier,
    Limits,
    Schema,
    Schemas,
    TierLimits,
    request_body,
    shared_shapes,
)
from serve_app.api.routes import STREAMS_PATH, TIER_ROUTES, WEB_ROUTES, Body, Callers, Route, Work

REQUEST_ID_PATTERN = r"^[A-Za-z0-9_.:\-]{1,128}$"
_ERROR_TYPES = (
    "invalid_request_error",
    "authentication_error",
    "permission_error",
    "not_found_error",
    "rate_limit_error",
    "service_unavailable_error",
    "server_error",
)
_ANTHROPIC_ERROR_TYPES = (
    *_ERROR_TYPES[:5],
    "request_too_large",
    "overloaded_error",
    "api_error",
    "timeout_error",
)
_INTRODUCTION = (
    "Two tiers of one service: `/api/chat` for short answers and `/api/reasoning` for long ones, "
    "each with OpenAI's and Anthropic's routes below it, and `/v1` for both, which `model` chooses "
    "between. A request that cannot start soon gets 429 with Retry-After."
)


def openapi_document(
    tiers: Sequence[TierLimits], schemas: Schemas | None = None, *, version: str
) -> dict[str, Any]:
    """`schemas` has the engine's request schemas by route, such as `/v1/chat/completions`, as
    pydantic writes them. Without them, as while no replica is up, bodies have the short form's
    fields and whatever else they like."""
    components: dict[str, Schema] = {**_ERRORS}
    shapes = shared_shapes(schemas or {}, components)
    paths: dict[str, dict[str, Any]] = {}
    for limits in tiers:
        for route in TIER_ROUTES:
            path = f"{limits.tier.route_prefix}{route.path}"
            operation = _operation(route, limits, shapes, components)
            paths.setdefault(path, {})[route.method.lower()] = operation
    either = EitherTier.of(tiers)
    for route in WEB_ROUTES:
        operation = _operation(route, either, shapes, components)
        paths.setdefault(route.path, {})[route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "tierserve", "version": version, "description": _INTRODUCTION},
        "servers": [{"url": "/"}],
        "tags": _tags(tiers),
        "paths": paths,
        "components": {
            "schemas": components,
            "headers": _HEADERS,
            "parameters": {"x-request-id": _REQUEST_ID_PARAMETER},
        },
    }


def _tags(tiers: Sequence[TierLimits]) -> list[dict[str, str]]:
    own = [
        {"name": limits.tier.value, "description": f"The {limits.tier} tier."} for limits in tiers
    ]
    return [*own, {"name": "service", "description": "Both tiers, and the service itself."}]


def _operation(
    route: Route, limits: Limits, shapes: Mapping[str, Schema], components: dict[str, Schema]
) -> dict[str, Any]:
    owner = limits.tier.value if isinstance(limits, TierLimits) else "service"
    anthropic = route.path.startswith("/v1/messages")
    operation: dict[str, Any] = {
        "operationId": _operation_id(owner, route),
        "summary": route.does,
        "description": _description(route),
        "tags": [owner],
        "parameters": [*_parameters(route), {"$ref": "#/components/parameters/x-request-id"}],
        "responses": _responses(route, anthropic=anthropic),
    }
    body = request_body(route, limits, shapes, components)
    return operation if body is None else {**operation, "requestBody": body}


def _operation_id(owner: str, route: Route) -> str:
    words = route.path.replace("{", "by_").replace("}", "").replace(".", "_").split("/")
    return "_".join([owner, route.method.lower(), *(word for word in words if word)])


def _description(route: Route) -> str:
    text = f"Work: {route.work.value}."
    return text if route.callers is Callers.USERS else f"{text} For {route.callers.value}."


def _parameters(route: Route) -> Iterable[dict[str, Any]]:
    for part in route.path.split("/"):
        if part.startswith("{"):
            schema = {"type": "string", "minLength": 1}
            yield {"name": part[1:-1], "in": "path", "required": True, "schema": schema}
    if route.path == STREAMS_PATH:
        yield from _RESUMED_FROM
    elif route.work is Work.ENGINE:
        yield _DEADLINE_PARAMETER
        yield _RESUMABLE_PARAMETER


def _responses(route: Route, *, anthropic: bool) -> dict[str, Any]:
    error = COMPONENTS + ("AnthropicError" if anthropic else "Error")
    content = {"application/json": {"schema": {"$ref": error}}}
    generating = route.work is Work.ENGINE
    responses: dict[str, Any] = {"200": _answered(route, generating=generating)}
    for status, meaning in _statuses(route, generating=generating).items():
        headers = {name: {"$ref": f"#/components/headers/{name}"} for name in _SENT[status]}
        responses[status] = {"description": meaning, "headers": headers, "content": content}
    return responses


def _answered(route: Route, *, generating: bool) -> dict[str, Any]:
    names = ["x-request-id", *(_OF_ANSWERS if generating else ())]
    content: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
    if route.path == "/metrics":
        content = {"text/plain": {"schema": {"type": "string"}}}
    elif route.path == "/":
        content["text/html"] = {"schema": {"type": "string"}}
    elif route.path == "/assets/{name}":
        content = {"*/*": {"schema": {"type": "string"}}}
    elif route.path == "/favicon.ico":
        content = {"image/svg+xml": {"schema": {"type": "string"}}}
    elif route.path == "/health" and route.work is Work.LOOP:
        content = {}  # vLLM's own
    elif generating:
        content["text/event-stream"] = {
            "schema": {
                "type": "string",
                "description": "With `stream`: events as OpenAI's or Anthropic's clients read "
                "them, and comments such as `: waiting, 2 ahead` while the request waits.",
            }
        }
    elif route.path == STREAMS_PATH:
        content = {"text/event-stream": {"schema": {"type": "string"}}}
    if route.path == STREAMS_PATH or generating:
        names.append("x-tierserve-stream-id")
    headers = {name: {"$ref": f"#/components/headers/{name}"} for name in names}
    answered: dict[str, Any] = {"description": "Answered.", "headers": headers}
    return answered | ({"content": content} if content else {})


def _statuses(route: Route, *, generating: bool) -> dict[str, str]:
    statuses: dict[str, str] = {}
    if route.body is not Body.NONE:
        statuses["400"] = "A field is missing, wrong, or beyond a limit; the error names it."
        statuses["413"] = "The body, or the prompt in it, is too large."
        statuses["415"] = "The body is compressed: it is to come as plain JSON."
    if generating or "{" in route.path:
        statuses["404"] = "There is no such model, response, stream or file."
    if route.path == STREAMS_PATH:
        statuses["400"] = "The stream has no such event."
        statuses["410"] = "The stream is not kept any more; the error says why."
    if generating or route.work is Work.TOKENIZER:
        statuses["429"] = "The tier is full."
    if generating or route.path in ("/readyz", "/health"):
        statuses["503"] = "No replica can answer now."
    if generating:
        statuses["504"] = "The request's deadline passed before its answer could begin."
    return statuses


_OF_ANSWERS = ("x-tierserve-warning", "x-tierserve-cache", "x-tierserve-thought")
_SENT: Mapping[str, Sequence[str]] = {
    "400": ("x-request-id",),
    "404": ("x-request-id",),
    "410": ("x-request-id",),
    "413": ("x-request-id",),
    "415": ("x-request-id",),
    "429": ("x-request-id", "retry-after"),
    "503": ("x-request-id", "retry-after"),
    "504": ("x-request-id",),
}
_TEXT: Schema = {"type": "string"}
_HEADERS: Mapping[str, dict[str, Any]] = {
    "x-request-id": {
        "description": "The request's id, as it was given or a new one; logs have it.",
        "schema": {"type": "string", "pattern": REQUEST_ID_PATTERN},
    },
    "retry-after": {
        "description": "Seconds until there will be room.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "x-tierserve-warning": {
        "description": "What a field of the request did that it may not have meant.",
        "schema": _TEXT,
    },
    "x-tierserve-cache": {
        "description": "`hit` where the answer is one that was given before.",
        "schema": _TEXT,
    },
    "x-tierserve-stream-id": {
        "description": "Of a stream with `x-tierserve-resumable: 1`: what `/v1/streams/{id}`, or "
        "that path below the tier's prefix, knows it by.",
        "schema": {"type": "string", "pattern": "^([0-9A-Za-z_]+-)?[0-9a-f]{32}$"},
    },
    "x-tierserve-thought": {"description": "How each answer's reasoning ended.", "schema": _TEXT},
}
_REQUEST_ID_PARAMETER: dict[str, Any] = {
    "name": "x-request-id",
    "in": "header",
    "required": False,
    "description": "An id of the client's own. One in another form is replaced.",
    "schema": {"type": "string", "pattern": REQUEST_ID_PATTERN},
}
_EVENT_NUMBER: Schema = {"type": "integer", "minimum": 0}
_RESUMED_FROM: Sequence[dict[str, Any]] = (
    {
        "name": "Last-Event-ID",
        "in": "header",
        "required": False,
        "description": "The `id` of the last event that the client has.",
        "schema": _EVENT_NUMBER,
    },
    {
        "name": "after",
        "in": "query",
        "required": False,
        "description": "The same, for clients that cannot set the header, which goes first.",
        "schema": _EVENT_NUMBER,
    },
)
_RESUMABLE_PARAMETER: dict[str, Any] = {
    "name": "x-tierserve-resumable",
    "in": "header",
    "required": False,
    "description": "`1`: the events of the stream are numbered and kept, so that a client that "
    "loses its connection gets the rest by `GET /v1/streams/{id}`, below the tier's prefix for a "
    "stream of the tier's own route.",
    "schema": {"type": "string", "enum": ["1"]},
}
_DEADLINE_PARAMETER: dict[str, Any] = {
    "name": DEADLINE_HEADER.decode(),
    "in": "header",
    "required": False,
    "description": "The same as `deadline_ms` in the body.",
    "schema": {"type": "integer", "minimum": 1, "maximum": MOST_DEADLINE_MS},
}
_ERROR_FIELDS: Schema = {
    "type": "object",
    "required": ["message", "type", "param", "code"],
    "properties": {
        "message": {"type": "string", "minLength": 1},
        "type": {"type": "string", "enum": [*_ERROR_TYPES]},
        "param": {"type": ["string", "null"], "description": "The field that is at fault."},
        "code": {"type": ["string", "null"]},
    },
}
_ANTHROPIC_ERROR_FIELDS: Schema = {
    **_ERROR_FIELDS,
    "properties": {
        **_ERROR_FIELDS["properties"],
        "type": {"type": "string", "enum": [*_ANTHROPIC_ERROR_TYPES]},
    },
}
_ERRORS: Mapping[str, Schema] = {
    "Error": {
        "type": "object",
        "description": "An error in OpenAI's form.",
        "required": ["error"],
        "properties": {"error": _ERROR_FIELDS},
    },
    "AnthropicError": {
        "type": "object",
        "description": "An error in Anthropic's form.",
        "required": ["type", "error"],
        "properties": {"type": {"const": "error"}, "error": _ANTHROPIC_ERROR_FIELDS},
    },
}


def as_json(document: Mapping[str, Any]) -> bytes:
    """The document as it is served."""
    return json.dumps(document, separators=(",", ":")).encode()
