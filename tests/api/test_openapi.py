"""The OpenAPI document: valid, complete, and true to the routes' table and the tiers' limits."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from serve_app.api.openapi import REQUEST_ID_PATTERN, as_json, openapi_document
from serve_app.api.openapi_bodies import LEAST_INTEGER, MOST_INTEGER, TierLimits
from serve_app.api.routes import GENERATING, TIER_ROUTES, WEB_ROUTES
from serve_app.config.answers import LimitsConfig
from serve_app.core.tiers import Tier
from tests.api.web_client import a_replica

LIMITS = (
    TierLimits(Tier.CHAT, 1024, 4_194_304, ("math", "code")),
    TierLimits(Tier.REASONING, 2048, 4_194_304, ("math",)),
)
CHAT_MODEL = {
    "title": "ChatCompletionRequest",
    "type": "object",
    "required": ["messages", "model"],
    "properties": {
        "messages": {"type": "array", "items": {"$ref": "#/$defs/Message"}},
        "model": {"type": "string"},
        "max_completion_tokens": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "max_tokens": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "seed": {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "null"}]},
        "n": {"type": "integer"},
    },
    "$defs": {
        "Message": {
            "type": "object",
            "properties": {"part": {"$ref": "#/$defs/Part[str]"}},
        },
        "Part[str]": {
            "oneOf": [{"$ref": "#/$defs/Text"}],
            "discriminator": {"propertyName": "type", "mapping": {"text": "#/$defs/Text"}},
        },
        "Text": {"type": "object", "properties": {"type": {"const": "text"}}},
    },
}
# A definition of the same name that means something else.
COMPLETION_MODEL = {
    "title": "CompletionRequest",
    "type": "object",
    "required": ["prompt"],
    "properties": {
        "prompt": {"type": "string"},
        "max_tokens": {"type": "integer"},
        "other": {"$ref": "#/$defs/Text"},
    },
    "$defs": {"Text": {"type": "integer"}},
}
SCHEMAS = {"/v1/chat/completions": CHAT_MODEL, "/v1/completions": COMPLETION_MODEL}


def document(schemas: Mapping[str, Mapping[str, Any]] | None = SCHEMAS) -> dict[str, Any]:
    return openapi_document(LIMITS, schemas, version="1.0")


def body_of(described: Mapping[str, Any], path: str) -> dict[str, Any]:
    """A route's schema, with the name of a component looked up."""
    schema = described["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    return looked_up(described, schema["schema"])


def looked_up(described: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    found: Any = schema
    if "$ref" in schema:
        found = described
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
    return dict(found)


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


@pytest.mark.parametrize("schemas", [SCHEMAS, {}, None], ids=["engine", "none yet", "no replica"])
def test_the_document_is_valid_with_and_without_an_engine(
    schemas: Mapping[str, Mapping[str, Any]] | None,
) -> None:
    described = json.loads(as_json(document(schemas)))
    from openapi_spec_validator import OpenAPIV31SpecValidator

    OpenAPIV31SpecValidator(described).validate()
    for reference in references(described):
        looked_up(described, {"$ref": reference})


def test_every_route_of_the_table_is_described_and_no_other() -> None:
    described = {
        (method.upper(), path)
        for path, operations in document()["paths"].items()
        for method in operations
    }
    below = {
        (route.method, f"{tier.route_prefix}{route.path}") for tier in Tier for route in TIER_ROUTES
    }
    assert described == below | {(route.method, route.path) for route in WEB_ROUTES}


def test_every_operation_has_a_name_of_its_own() -> None:
    names = [
        operation["operationId"]
        for operations in document()["paths"].values()
        for operation in operations.values()
    ]
    assert len(names) == len(set(names))


def test_a_tiers_limit_bounds_the_fields_that_ask_for_tokens() -> None:
    described = document()
    for path, least, most in (
        ("/api/chat", 1024, 1024),
        ("/api/reasoning", 2048, 2048),
        # What is above the limit is lowered there.
        ("/api/reasoning/v1/chat/completions", 2048, MOST_INTEGER),
        ("/v1/chat/completions", 2048, MOST_INTEGER),
    ):
        fields = body_of(described, path)["properties"]
        assert (fields["min_tokens"]["minimum"], fields["min_tokens"]["maximum"]) == (0, least)
        for field in ("max_completion_tokens", "max_tokens"):
            assert (fields[field]["minimum"], fields[field]["maximum"]) == (0, most), (path, field)


def test_where_tiers_refuse_what_is_above_their_limit_the_largest_is_the_bound() -> None:
    refusing = [
        TierLimits(tier, most, when_above=LimitsConfig(when_above="refuse"))
        for tier, most in ((Tier.CHAT, 1024), (Tier.REASONING, 2048))
    ]
    described = openapi_document(refusing, version="1.0")
    for path, most in (("/api/chat/v1/completions", 1024), ("/v1/messages", 2048)):
        assert body_of(described, path)["properties"]["max_tokens"]["maximum"] == most


def test_the_short_form_and_the_task_are_fields_of_ours() -> None:
    body = body_of(document(), "/api/chat")
    assert body["oneOf"] == [{"required": ["messages"]}, {"required": ["prompt"]}]
    assert body["properties"]["prompt"]["type"] == "string"
    assert body["properties"]["task"]["enum"] == ["math", "code", None]
    assert "required" not in body
    assert body_of(document(), "/api/chat/v1/completions")["required"] == ["prompt"]


def test_an_integer_that_no_rule_bounds_has_64_bits() -> None:
    fields = body_of(document(), "/api/chat")["properties"]
    assert (fields["n"]["minimum"], fields["n"]["maximum"]) == (LEAST_INTEGER, MOST_INTEGER)
    seed = fields["seed"]["anyOf"][0]
    assert (seed["minimum"], seed["maximum"]) == (0, MOST_INTEGER)


def test_two_definitions_of_one_name_are_kept_apart() -> None:
    described = document()
    messages = body_of(described, "/api/chat")["properties"]["messages"]["items"]
    part = looked_up(described, looked_up(described, messages)["properties"]["part"])
    text = looked_up(described, part["oneOf"][0])
    assert text["properties"] == {"type": {"const": "text"}}
    assert part["discriminator"]["mapping"]["text"] == part["oneOf"][0]["$ref"]
    other = body_of(described, "/api/chat/v1/completions")["properties"]["other"]
    assert looked_up(described, other)["type"] == "integer"


def test_without_a_replica_a_body_has_the_short_form_and_whatever_else() -> None:
    described = openapi_document([TierLimits(Tier.CHAT), TierLimits(Tier.REASONING)], version="1.0")
    for path in GENERATING:
        body = body_of(described, f"/api/chat{path}")
        assert "additionalProperties" not in body
        assert body["properties"]["stream"]["type"] == ["boolean", "null"]
    assert body_of(described, "/api/chat")["properties"]["max_tokens"]["maximum"] == MOST_INTEGER


def test_errors_have_openais_form_or_anthropics_and_a_full_tier_says_when_to_retry() -> None:
    described = document()
    for path, form in (
        ("/api/chat", "Error"),
        ("/api/chat/v1/messages", "AnthropicError"),
        ("/api/chat/v1/messages/count_tokens", "AnthropicError"),
    ):
        responses = described["paths"][path]["post"]["responses"]
        for status in ("400", "413", "429"):
            content = responses[status]["content"]["application/json"]["schema"]
            assert content == {"$ref": f"#/components/schemas/{form}"}
        assert "retry-after" in responses["429"]["headers"]
        error = looked_up(described, content)["properties"]["error"]
        assert error["required"] == ["message", "type", "param", "code"]


def test_generating_routes_may_answer_with_events_and_with_headers_of_ours() -> None:
    answered = document()["paths"]["/api/chat"]["post"]["responses"]["200"]
    assert {*answered["content"]} == {"application/json", "text/event-stream"}
    assert {"x-request-id", "x-tierserve-warning", "x-tierserve-cache"} <= {*answered["headers"]}


def test_limits_are_those_that_the_replicas_report() -> None:
    settings = {"max_new_tokens": 64, "max_body_bytes": 2048, "tasks": {"math": {}, "code": {}}}
    entry = {"tier": "chat", "settings": a_replica(settings=settings)["settings"]}
    assert TierLimits.of_status(entry) == TierLimits(Tier.CHAT, 64, 2048, ("math", "code"))
    assert TierLimits.of_status({"tier": "chat", "settings": None}) == TierLimits(Tier.CHAT)


def test_schemathesis_reads_it() -> None:
    import schemathesis

    schema = schemathesis.openapi.from_dict(document())
    operations = [result.ok() for result in schema.get_all_operations()]  # pyright: ignore[reportAttributeAccessIssue]
    assert len(operations) == 2 * len(TIER_ROUTES) + len(WEB_ROUTES)


def test_a_request_id_has_the_form_that_the_edge_takes() -> None:
    described = document()
    assert described["components"]["parameters"]["x-request-id"]["schema"] == {
        "type": "string",
        "pattern": REQUEST_ID_PATTERN,
    }
