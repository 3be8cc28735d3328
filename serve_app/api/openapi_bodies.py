"""The bodies of `GET /openapi.json`: each field that a route takes, with its limits.

Fields come from the schemas of the engine's own request models, as the replicas report them; what
this service adds, limits and refuses is written over them here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from serve_app.api.answer_deadline import DEADLINE_FIELD, MOST_DEADLINE_MS
from serve_app.api.answer_policies import POLICY
from serve_app.api.routes import (
    CHAT_COMPLETIONS,
    COMPLETIONS,
    MESSAGES,
    RESPONSES,
    Body,
    Endpoint,
    Route,
    generating_endpoint,
)
from serve_app.api.token_budget import STOPS
from serve_app.config.answers import LimitsConfig
from serve_app.core.reasoning.answer_policy import AnswerPolicy
from serve_app.core.tiers import Tier

Schema = dict[str, Any]
Schemas = Mapping[str, Mapping[str, Any]]
# What a JSON number may be where a field takes an integer: the engine keeps them in 64 bits.
LEAST_INTEGER, MOST_INTEGER = -(2**63), 2**63 - 1
COMPONENTS = "#/components/schemas/"


@dataclass(frozen=True, slots=True)
class TierLimits:
    """What a tier's live settings say of its requests; None: no replica has reported."""

    tier: Tier
    max_new_tokens: int | None = None
    max_body_bytes: int | None = None
    tasks: tuple[str, ...] = ()
    when_above: LimitsConfig = field(default_factory=LimitsConfig)

    @classmethod
    def of_status(cls, entry: Mapping[str, Any]) -> "TierLimits":
        """From the tier's entry of `/api/tiers`."""
        settings = entry.get("settings") or {}
        return cls(
            Tier(entry["tier"]),
            settings.get("max_new_tokens"),
            settings.get("max_body_bytes"),
            tuple(settings.get("tasks") or ()),
            LimitsConfig(**(settings.get("limits") or {})),
        )

    def lowers(self, route: Route) -> bool:
        """Whether the route takes limits of new tokens above the tier's, and lowers them."""
        return self.when_above.lowers(bare=not route.path)


@dataclass(frozen=True, slots=True)
class EitherTier:
    """`/v1`: the larger limits, since `model` chooses the tier."""

    max_new_tokens: int | None
    max_body_bytes: int | None
    tasks: tuple[str, ...]
    models: tuple[str, ...]
    any_lowers: bool

    @classmethod
    def of(cls, tiers: Sequence[TierLimits]) -> "EitherTier":
        """What at least one of the tiers takes."""
        return cls(
            max((tier.max_new_tokens for tier in tiers if tier.max_new_tokens), default=None),
            max((tier.max_body_bytes for tier in tiers if tier.max_body_bytes), default=None),
            tuple(dict.fromkeys(task for tier in tiers for task in tier.tasks)),
            tuple(tier.tier.value for tier in tiers),
            any(tier.when_above.lowers(bare=False) for tier in tiers),
        )

    def lowers(self, route: Route) -> bool:
        """As of a tier."""
        return self.any_lowers


Limits = TierLimits | EitherTier


def shared_shapes(schemas: Schemas, components: dict[str, Schema]) -> dict[str, Schema]:
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
        return COMPONENTS + names[schema.removeprefix(prefix)]
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


def request_body(
    route: Route, limits: Limits, shapes: Mapping[str, Schema], components: dict[str, Schema]
) -> dict[str, Any] | None:
    """The route's body; None where it reads none."""
    if route.body is Body.NONE:
        return None
    endpoint = generating_endpoint(route.path)
    if endpoint is None:
        schema = _TOKENIZER_BODIES[route.path]
    else:
        name = _body_name(route, endpoint, limits)
        lowers = limits.lowers(route)
        components.setdefault(name, _generating_body(endpoint, limits, shapes, lowers=lowers))
        schema = {"$ref": COMPONENTS + name}
    body: dict[str, Any] = {"required": True, "content": {"application/json": {"schema": schema}}}
    body["description"] = f"Its limit: {route.body.value}."
    if limits.max_body_bytes is not None:
        body["x-max-body-bytes"] = limits.max_body_bytes
    return body


def _body_name(route: Route, endpoint: Endpoint, limits: Limits) -> str:
    owner = limits.tier.value if isinstance(limits, TierLimits) else "service"
    return f"{owner}.{endpoint.name}" if route.path else owner


def _generating_body(
    endpoint: Endpoint, limits: Limits, shapes: Mapping[str, Schema], *, lowers: bool
) -> Schema:
    shape = shapes.get(endpoint.path) or _FALLBACKS[endpoint]
    limited = _limited(endpoint, limits, lowers=lowers)
    properties: dict[str, Any] = {**shape["properties"], **limited}
    if isinstance(limits, TierLimits):
        properties["model"] = _MODEL_OF_TIER
    else:
        properties["model"] = {**_MODEL, "examples": [*limits.models]}
    properties["task"] = _task(limits)
    properties[STOPS] = _STOPS
    properties[DEADLINE_FIELD] = _DEADLINE
    if endpoint is CHAT_COMPLETIONS:
        properties[POLICY] = _POLICY
    properties |= _other_names(endpoint)
    # What the engine's schema demands and this service fills in.
    filled = {"model", *endpoint.limit_fields}
    required = [name for name in shape.get("required", ()) if name not in filled]
    body: Schema = {**shape, "properties": properties}
    body.pop("required", None)
    if endpoint in (CHAT_COMPLETIONS, MESSAGES):
        properties["prompt"] = _SHORT_PROMPT
        body["oneOf"] = [{"required": ["messages"]}, {"required": ["prompt"]}]
        required = [name for name in required if name != "messages"]
    if required:
        body["required"] = required
    return body


def _other_names(endpoint: Endpoint) -> dict[str, Schema]:
    """Fields of other servers and of older clients that mean one of the endpoint's own."""
    if endpoint is COMPLETIONS:
        return {**_GUIDED, "best_of": _BEST_OF}
    switch = {"enable_thinking": {**_BOOLEAN, "description": "false: no reasoning."}}
    if endpoint is MESSAGES:
        return switch
    if endpoint is RESPONSES:
        return {**_GUIDED, **switch, "thinking": _THINKING}
    own = {"thinking": _THINKING, "reasoning": _REASONING, "best_of": _BEST_OF}
    budget = {"type": ["integer", "null"], "description": "The same as `thinking_token_budget`."}
    return {**_GUIDED, **switch, **own, "thinking_budget": budget}


def _limited(endpoint: Endpoint, limits: Limits, *, lowers: bool) -> dict[str, Schema]:
    """The fields that say how long an answer may be, under the tier's own limit."""
    most = MOST_INTEGER if limits.max_new_tokens is None else limits.max_new_tokens
    schema = {"type": ["integer", "null"], "minimum": 0, "maximum": most}
    default = "the tier's limit" if endpoint.default_limit_field else "16"
    described = f"Most new tokens of each answer. Default: {default}."
    asked: Schema = {**schema, "description": described}
    if lowers:
        described += f" What is above the tier's limit ({most} at most) is lowered to it."
        asked |= {"description": described, "maximum": MOST_INTEGER}
    fields = {name: asked for name in endpoint.limit_fields}
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


_STOPS: Schema = {
    "type": ["boolean", "null"],
    "description": "Stop strings and stop ids end a thought too. Default: they are looked for in "
    "the answer only.",
}
_DEADLINE: Schema = {
    "type": ["integer", "null"],
    "minimum": 1,
    "maximum": MOST_DEADLINE_MS,
    "description": "So many milliseconds after the request's arrival its answer is complete, or it "
    "is refused (docs/deadlines.md).",
}
_POLICY: Schema = {
    "type": ["string", "null"],
    "pattern": f"^({'|'.join(AnswerPolicy)})(:[0-9]{{1,6}})?$",
    "description": f"How its tokens are spent on the answer (docs/reasoning.md): one of "
    f"{', '.join(AnswerPolicy)}, some with a number, as in `vote:3`. Default: as the tier's "
    "`answers.policy` says.",
}
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
_BOOLEAN: Schema = {"type": ["boolean", "null"]}
_GUIDED: Mapping[str, Schema] = {
    f"guided_{kind}": {"description": f"The same as `structured_outputs.{kind}`."}
    for kind in ("json", "regex", "choice", "grammar")
}
_BEST_OF: Schema = {
    "type": ["integer", "null"],
    "description": "Taken where it equals `n`: no answer is left out.",
}
_THINKING: Schema = {
    "type": ["object", "boolean", "null"],
    "description": 'As Anthropic has it: {"type": "disabled"}, or "enabled" with `budget_tokens`.',
}
_REASONING: Schema = {
    "type": ["object", "null"],
    "description": "`effort`, `max_tokens`, `enabled`, `exclude`: `reasoning_effort`, "
    "`thinking_token_budget`, no reasoning, and `include_reasoning`.",
}
_NUMBER: Schema = {"type": ["number", "null"]}
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
