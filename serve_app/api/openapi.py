"""`GET /openapi.json`: every route with its fields, limits, answers and errors, as OpenAPI 3.1.

Fields come from the schemas of the engine's own request models, as the replicas report them; what
this service adds, limits and refuses is written over them here.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serve_app.api.endpoints import (
    CHAT_COMPLETIONS,
    COMPLETIONS,
    MESSAGES,
    RESPONSES,
    Endpoint,
    generating_endpoint,
)
from serve_app.api.routes import TIER_ROUTES, WEB_ROUTES, Body, Callers, Route, Work
from serve_app.core.tiers import Tier

Schema = dict[str, Any]
Schemas = Mapping[str, Mapping[str, Any]]
# What a JSON number may be where a field takes an integer: the engine keeps them in 64 bits.
LEAST_INTEGER, MOST_INTEGER = -(2**63), 2**63 - 1
REQUEST_ID_PATTERN = r"^[A-Za-z0-9_.:\-]{1,128}$"
_COMPONENTS = "#/components/schemas/"
_ERROR_TYPES = (
    "invalid_request_error",
    "authentication_error",
    "permission_error",
    "not_found_error",
    "rate_limit_error",
    "service_unavailable_error",
    "server_error",
)
_INTRODUCTION = (
    "Two tiers of one service: `/api/chat` for short answers and `/api/reasoning` for long ones, "
    "each with OpenAI's and Anthropic's routes below it, and `/v1` for both, which `model` chooses "
    "between. A request that cannot start soon gets 429 with Retry-After."
)


@dataclass(frozen=True, slots=True)
class TierLimits:
    """What a tier's live settings say of its requests; None: no replica has reported."""

    tier: Tier
    max_new_tokens: int | None = None
    max_body_bytes: int | None = None
    tasks: tuple[str, ...] = ()

    @classmethod
    def of_status(cls, entry: Mapping[str, Any]) -> "TierLimits":
        """From the tier's entry of `/api/tiers`."""
        settings = entry.get("settings") or {}
        return cls(
            Tier(entry["tier"]),
            settings.get("max_new_tokens"),
            settings.get("max_body_bytes"),
            tuple(settings.get("tasks") or ()),
        )


def openapi_document(
    tiers: Sequence[TierLimits], schemas: Schemas | None = None, *, version: str
) -> dict[str, Any]:
    """`schemas` has the engine's request schemas by route, such as `/v1/chat/completions`, as
    pydantic writes them. Without them, as while no replica is up, bodies have the short form's
    fields and whatever else they like."""
    components: dict[str, Schema] = {**_ERRORS}
    shapes = _shapes(schemas or {}, components)
    paths: dict[str, dict[str, Any]] = {}
    for limits in tiers:
        for route in TIER_ROUTES:
            path = f"{limits.tier.route_prefix}{route.path}"
            operation = _operation(route, limits, shapes, components)
            paths.setdefault(path, {})[route.method.lower()] = operation
    either = _either(tiers)
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


@dataclass(frozen=True, slots=True)
class _EitherTier:
    """`/v1`: the larger limits, since `model` chooses the tier."""

    max_new_tokens: int | None
    max_body_bytes: int | None
    tasks: tuple[str, ...]
    models: tuple[str, ...]


def _either(tiers: Sequence[TierLimits]) -> _EitherTier:
    return _EitherTier(
        max((tier.max_new_tokens for tier in tiers if tier.max_new_tokens), default=None),
        max((tier.max_body_bytes for tier in tiers if tier.max_body_bytes), default=None),
        tuple(dict.fromkeys(task for tier in tiers for task in tier.tasks)),
        tuple(tier.tier.value for tier in tiers),
    )


Limits = TierLimits | _EitherTier


def _tags(tiers: Sequence[TierLimits]) -> list[dict[str, str]]:
    own = [
        {"name": limits.tier.value, "description": f"The {limits.tier} tier."} for limits in tiers
    ]
    return [*own, {"name": "service", "description": "Both tiers, and the service itself."}]


# --- Bodies


def _shapes(schemas: Schemas, components: dict[str, Schema]) -> dict[str, Schema]:
    """Each route's schema with its definitions moved into `components`, which all share."""
    return {path: _moved(schema, components) for path, schema in schemas.items()}


def _moved(schema: Mapping[str, Any], components: dict[str, Schema]) -> Schema:
    """The schema without its definitions. Models of two modules name a definition alike: where one
    means something else than what is there, all of this model's get its title in front."""
    definitions: Mapping[str, Any] = schema.get("$defs", {})
    names = {name: _name(name) for name in definitions}
    moved = _definitions(definitions, names)
    if any(components.get(name, own) != own for name, own in moved.items()):
        title = _name(str(schema.get("title", "Request")))
        names = {name: f"{title}_{own}" for name, own in names.items()}
        moved = _definitions(definitions, names)
    components.update(moved)
    own = {key: value for key, value in schema.items() if key != "$defs"}
    return _bounded(_renamed(own, names))


def _definitions(definitions: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Schema]:
    return {names[name]: _bounded(_renamed(own, names)) for name, own in definitions.items()}


def _name(name: str) -> str:
    """Component names have no other characters."""
    return "".join(char if char.isalnum() or char in "._-" else "_" for char in name)


def _renamed(schema: Any, names: Mapping[str, str]) -> Any:
    """A copy whose references, those of a discriminator too, lead to the components."""
    if isinstance(schema, Mapping):
        return {key: _renamed(value, names) for key, value in schema.items()}
    if isinstance(schema, list):
        return [_renamed(value, names) for value in schema]
    prefix = "#/$defs/"
    if isinstance(schema, str) and schema.startswith(prefix):
        return _COMPONENTS + names[schema.removeprefix(prefix)]
    return schema


def _bounded(schema: Any) -> Any:
    """Integers that no rule bounds have 64 bits; numbers are finite, which JSON's always are."""
    if isinstance(schema, list):
        return [_bounded(value) for value in schema]
    if not isinstance(schema, dict):
        return schema
    bounded = {key: _bounded(value) for key, value in schema.items()}
    if bounded.get("type") == "integer" and not {"const", "enum"} & bounded.keys():
        if "exclusiveMinimum" not in bounded:
            bounded.setdefault("minimum", LEAST_INTEGER)
        if "exclusiveMaximum" not in bounded:
            bounded.setdefault("maximum", MOST_INTEGER)
    return bounded


def _body(
    route: Route, limits: Limits, shapes: Mapping[str, Schema], components: dict[str, Schema]
) -> dict[str, Any] | None:
    if route.body is Body.NONE:
        return None
    endpoint = generating_endpoint(route.path)
    if endpoint is None:
        schema = _TOKENIZER_BODIES[route.path]
    else:
        name = _body_name(endpoint, limits)
        components.setdefault(name, _generating_body(endpoint, limits, shapes))
        schema = {"$ref": _COMPONENTS + name}
    body: dict[str, Any] = {"required": True, "content": {"application/json": {"schema": schema}}}
    body["description"] = f"Its limit: {route.body.value}."
    if limits.max_body_bytes is not None:
        body["x-max-body-bytes"] = limits.max_body_bytes
    return body


def _body_name(endpoint: Endpoint, limits: Limits) -> str:
    owner = limits.tier.value if isinstance(limits, TierLimits) else "service"
    return f"{owner}.{endpoint.name}"


def _generating_body(endpoint: Endpoint, limits: Limits, shapes: Mapping[str, Schema]) -> Schema:
    shape = shapes.get(endpoint.path) or _FALLBACKS[endpoint]
    properties: dict[str, Any] = {**shape["properties"], **_limited(endpoint, limits)}
    if isinstance(limits, TierLimits):
        properties["model"] = _MODEL_OF_TIER
    else:
        properties["model"] = {**_MODEL, "examples": [*limits.models]}
    properties["task"] = _task(limits)
    # What the engine's schema demands and this service fills in.
    filled = {"model", *endpoint.limit_fields}
    required = [field for field in shape.get("required", ()) if field not in filled]
    body: Schema = {**shape, "properties": properties}
    body.pop("required", None)
    if endpoint in (CHAT_COMPLETIONS, MESSAGES):
        properties["prompt"] = _SHORT_PROMPT
        body["oneOf"] = [{"required": ["messages"]}, {"required": ["prompt"]}]
        required = [field for field in required if field != "messages"]
    if required:
        body["required"] = required
    return body


def _limited(endpoint: Endpoint, limits: Limits) -> dict[str, Schema]:
    """The fields that say how long an answer may be, under the tier's own limit."""
    most = MOST_INTEGER if limits.max_new_tokens is None else limits.max_new_tokens
    schema = {"type": ["integer", "null"], "minimum": 0, "maximum": most}
    default = "the tier's limit" if endpoint.default_limit_field else "16"
    described = f"Most new tokens of each answer. Default: {default}."
    fields = {field: {**schema, "description": described} for field in endpoint.limit_fields}
    if endpoint in (CHAT_COMPLETIONS, COMPLETIONS):
        fields["min_tokens"] = {**schema, "description": "Fewest new tokens of each answer."}
    return fields


def _task(limits: Limits) -> Schema:
    schema: Schema = {
        "type": ["string", "null"],
        "description": "What the answer is for: sets the sampling, and a line of the prompt, that "
        "suit it (docs/reasoning.md).",
    }
    return {**schema, "enum": [*limits.tasks, None]} if limits.tasks else schema


_SHORT_PROMPT: Schema = {
    "type": "string",
    "description": "The short form: a conversation of this one user message.",
}
_MODEL: Schema = {
    "type": ["string", "null"],
    "description": "The tier that answers, or the served model's own name, which means the first "
    "tier.",
}
_MODEL_OF_TIER: Schema = {
    "type": ["string", "null"],
    "description": "The tier's or the served model's own name; may be left out.",
}
_NUMBER: Schema = {"type": ["number", "null"]}
_TEXTS: Schema = {"type": "array", "items": {"type": "string"}}
_MESSAGE_LIST: Schema = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "required": ["role"],
        "properties": {
            "role": {"type": "string"},
            "content": {"type": ["string", "array", "null"]},
        },
    },
}
_SAMPLING: dict[str, Schema] = {
    "stream": {"type": ["boolean", "null"]},
    "temperature": {**_NUMBER, "minimum": 0},
    "top_p": {**_NUMBER, "exclusiveMinimum": 0, "maximum": 1},
}
_CHATS: Schema = {
    "type": "object",
    "properties": {"messages": _MESSAGE_LIST, **_SAMPLING},
    "required": ["messages"],
}
# Where no replica has reported its schemas.
_FALLBACKS: Mapping[Endpoint, Schema] = {
    CHAT_COMPLETIONS: _CHATS,
    MESSAGES: _CHATS,
    COMPLETIONS: {
        "type": "object",
        "properties": {"prompt": {"type": ["string", "array"]}, **_SAMPLING},
        "required": ["prompt"],
    },
    RESPONSES: {
        "type": "object",
        "properties": {"input": {"type": ["string", "array"]}, **_SAMPLING},
        "required": ["input"],
    },
}
_TOKEN_ID: Schema = {"type": "integer", "minimum": 0, "maximum": MOST_INTEGER}
_TOKENIZER_BODIES: Mapping[str, Schema] = {
    "/tokenize": {
        "type": "object",
        "properties": {
            "model": _MODEL_OF_TIER,
            "prompt": {"type": "string"},
            "messages": _MESSAGE_LIST,
            "add_special_tokens": {"type": "boolean"},
            "add_generation_prompt": {"type": "boolean"},
            "return_token_strs": {"type": ["boolean", "null"]},
        },
        "oneOf": [{"required": ["messages"]}, {"required": ["prompt"]}],
    },
    "/detokenize": {
        "type": "object",
        "properties": {
            "model": _MODEL_OF_TIER,
            "tokens": {"type": "array", "items": _TOKEN_ID},
        },
        "required": ["tokens"],
    },
    "/v1/messages/count_tokens": {
        "type": "object",
        "properties": {
            "model": _MODEL_OF_TIER,
            "messages": _MESSAGE_LIST,
            "system": {"type": ["string", "array", "null"]},
            "tools": {"type": ["array", "null"], "items": {"type": "object"}},
        },
        "required": ["messages"],
    },
}

# --- Operations


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
    body = _body(route, limits, shapes, components)
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


def _responses(route: Route, *, anthropic: bool) -> dict[str, Any]:
    error = _COMPONENTS + ("AnthropicError" if anthropic else "Error")
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
    elif route.path == "/health":
        content = {}
    elif generating:
        content["text/event-stream"] = {
            "schema": {
                "type": "string",
                "description": "With `stream`: events as OpenAI's or Anthropic's clients read "
                "them, and comments such as `: waiting, 2 ahead` while the request waits.",
            }
        }
    headers = {name: {"$ref": f"#/components/headers/{name}"} for name in names}
    answered: dict[str, Any] = {"description": "Answered.", "headers": headers}
    return answered | ({"content": content} if content else {})


def _statuses(route: Route, *, generating: bool) -> dict[str, str]:
    statuses: dict[str, str] = {}
    if route.body is not Body.NONE:
        statuses["400"] = "A field is missing, wrong, or beyond a limit; the error names it."
        statuses["413"] = "The body, or the prompt in it, is too large."
    if generating or "{" in route.path:
        statuses["404"] = "There is no such model, or no such response."
    if generating or route.work is Work.TOKENIZER:
        statuses["429"] = "The tier is full."
    if generating or route.path in ("/readyz", "/health"):
        statuses["503"] = "No replica can answer now."
    return statuses


_OF_ANSWERS = ("x-tierserve-warning", "x-tierserve-cache", "x-tierserve-thought")
_SENT: Mapping[str, Sequence[str]] = {
    "400": ("x-request-id",),
    "404": ("x-request-id",),
    "413": ("x-request-id",),
    "429": ("x-request-id", "retry-after"),
    "503": ("x-request-id", "retry-after"),
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
    "x-tierserve-thought": {"description": "How each answer's reasoning ended.", "schema": _TEXT},
}
_REQUEST_ID_PARAMETER: dict[str, Any] = {
    "name": "x-request-id",
    "in": "header",
    "required": False,
    "description": "An id of the client's own. One in another form is replaced.",
    "schema": {"type": "string", "pattern": REQUEST_ID_PATTERN},
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
        "properties": {"type": {"const": "error"}, "error": _ERROR_FIELDS},
    },
}


def as_json(document: Mapping[str, Any]) -> bytes:
    """The document as it is served."""
    return json.dumps(document, separators=(",", ":")).encode()
