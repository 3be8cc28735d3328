"""The field that binds an answer is found, and what no compiler should see is refused by it."""

from typing import Any

import pytest

from serve_app.api.routes import CHAT_COMPLETIONS, COMPLETIONS, MESSAGES, RESPONSES
from serve_app.api.structures import refuse_structures, structure_field
from serve_app.core.structure.schema_limits import SchemaLimits
from serve_app.errors import RequestError

CHAT, LEGACY = CHAT_COMPLETIONS.name, COMPLETIONS.name
SCHEMA = {"type": "object"}
FORMAT = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
FUNCTION = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}
STRICT = {"type": "function", "function": {"name": "f", "strict": True, "parameters": SCHEMA}}
NAMED = {"type": "function", "function": {"name": "f"}}
LIMITS = SchemaLimits(max_bytes=2000, max_nesting=10, max_nodes=100)


@pytest.mark.parametrize(
    ("payload", "endpoint", "field"),
    [
        ({}, CHAT, None),
        # Of no type that it could have.
        ({"response_format": {"type": {}}}, CHAT, "response_format"),
        ({"response_format": {"type": []}}, LEGACY, "response_format"),
        ({"response_format": {"type": "text"}}, CHAT, None),
        ({"response_format": {"type": "json_object"}}, CHAT, "response_format"),
        ({"response_format": FORMAT}, LEGACY, "response_format"),
        ({"text": {"format": {"type": "text"}}}, RESPONSES.name, None),
        ({"text": {"format": {"type": "json_schema"}}}, RESPONSES.name, "text.format"),
        ({"structured_outputs": {"regex": "a"}}, CHAT, "structured_outputs.regex"),
        ({"structured_outputs": {"json": SCHEMA}}, RESPONSES.name, "structured_outputs.json"),
        ({"structured_outputs": []}, CHAT, None),
        ({"tools": [FUNCTION]}, CHAT, None),
        ({"tools": [STRICT]}, CHAT, "tools"),
        ({"tools": [FUNCTION], "parallel_tool_calls": False}, CHAT, "tools"),
        ({"tools": [STRICT], "tool_choice": "none"}, CHAT, None),
        ({"tools": [FUNCTION], "tool_choice": "required"}, CHAT, "tools"),
        ({"tools": [FUNCTION], "tool_choice": NAMED, "response_format": FORMAT}, CHAT, "tools"),
        ({"tools": [FUNCTION], "response_format": FORMAT}, CHAT, "response_format"),
        ({"tools": [{"name": "f"}], "tool_choice": {"type": "any"}}, MESSAGES.name, "tools"),
        ({"tools": [{"name": "f"}], "tool_choice": {"type": "auto"}}, MESSAGES.name, None),
        ({"tools": "f", "response_format": 5, "text": 6}, CHAT, None),
    ],
    ids=str,
)
def test_the_field_that_binds_the_answer_is_named(
    payload: dict[str, Any], endpoint: str, field: str | None
) -> None:
    assert structure_field(payload, endpoint) == field


def _nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"not": schema}
    return schema


@pytest.mark.parametrize(
    ("payload", "endpoint", "field", "code"),
    [
        (
            {"response_format": {**FORMAT, "json_schema": _nested(40)}},
            CHAT,
            "response_format",
            "structure_too_deep",
        ),
        (
            {"tools": [{"function": {"parameters": _nested(40)}}]},
            CHAT,
            "tools",
            "structure_too_deep",
        ),
        ({"tools": [{"input_schema": _nested(40)}]}, MESSAGES.name, "tools", "structure_too_deep"),
        (
            {"text": {"format": {"schema": {"enum": ["a" * 3000]}}}},
            RESPONSES.name,
            "text.format",
            "structure_too_large",
        ),
        (
            {"structured_outputs": {"json": {"$ref": "http://127.0.0.1/"}}},
            CHAT,
            "structured_outputs.json",
            "structure_reference",
        ),
        (
            {"structured_outputs": {"json": "a" * 3000}},
            CHAT,
            "structured_outputs.json",
            "structure_too_large",
        ),
        (
            {"structured_outputs": {"regex": "(" * 50}},
            CHAT,
            "structured_outputs.regex",
            "structure_too_deep",
        ),
        (
            {"structured_outputs": {"grammar": 5}},
            CHAT,
            "structured_outputs.grammar",
            "structure_invalid",
        ),
        (
            {"structured_outputs": {"choice": []}},
            CHAT,
            "structured_outputs.choice",
            "structure_invalid",
        ),
        ({"structured_outputs": ["a"]}, CHAT, "structured_outputs", "structure_invalid"),
    ],
    ids=str,
)
def test_what_no_compiler_should_see_is_refused_by_its_field(
    payload: dict[str, Any], endpoint: str, field: str, code: str
) -> None:
    with pytest.raises(RequestError) as refused:
        refuse_structures(payload, endpoint, LIMITS)
    assert (refused.value.status, refused.value.param, refused.value.code) == (400, field, code)


def test_usual_requests_are_not_refused() -> None:
    payload = {
        "response_format": FORMAT,
        "tools": [FUNCTION, {"type": "function", "function": {"name": "without_parameters"}}],
        "structured_outputs": {"json": '{"type": "object"}', "choice": None},
    }
    refuse_structures(payload, CHAT, LIMITS)
    refuse_structures({"messages": []}, CHAT, LIMITS)


DRAFT_7 = {"type": "array", "items": [{"type": "integer"}, {"type": "string"}]}


@pytest.mark.parametrize(
    ("payload", "endpoint", "field"),
    [
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": DRAFT_7}}},
            CHAT,
            "response_format",
        ),
        ({"text": {"format": {"schema": DRAFT_7}}}, RESPONSES.name, "text.format"),
        (
            {"output_config": {"format": {"schema": DRAFT_7}}},
            MESSAGES.name,
            "output_config.format",
        ),
        ({"structured_outputs": {"json": DRAFT_7}}, CHAT, "structured_outputs.json"),
        (
            {"tools": [FUNCTION, {"function": {"name": "f", "parameters": DRAFT_7}}]},
            CHAT,
            "tools[1].function.parameters",
        ),
        (
            {"tools": [{"type": "function", "name": "f", "parameters": DRAFT_7}]},
            RESPONSES.name,
            "tools[0].parameters",
        ),
        (
            {"tools": [{"name": "f", "input_schema": DRAFT_7}]},
            MESSAGES.name,
            "tools[0].input_schema",
        ),
    ],
    ids=str,
)
def test_a_list_of_items_is_refused_with_what_it_is_called_now(
    payload: dict[str, Any], endpoint: str, field: str
) -> None:
    with pytest.raises(RequestError, match="`prefixItems`") as refused:
        refuse_structures(payload, endpoint, LIMITS)
    assert (refused.value.status, refused.value.param) == (400, field)


def test_a_list_of_items_in_tools_that_are_not_to_be_called_is_taken() -> None:
    tool = {"function": {"name": "f", "parameters": DRAFT_7}}
    refuse_structures({"tools": [tool], "tool_choice": "none"}, CHAT, LIMITS)


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema.schema",
        ),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"json": SCHEMA, "regex": "a"}}, "structured_outputs"),
    ],
    ids=str,
)
def test_no_form_or_two_are_refused_by_name(payload: dict[str, Any], field: str) -> None:
    with pytest.raises(RequestError) as refused:
        refuse_structures(payload, CHAT, LIMITS)
    assert (refused.value.status, refused.value.param) == (400, field)
