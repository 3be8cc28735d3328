"""Schemas, regular expressions and grammars keep limits, however they are nested."""

from typing import Any

import pytest

from serve_app.core.structure.schema_limits import (
    MOST_INTEGER,
    SchemaLimits,
    bracket_nesting,
    refusal_of_choices,
    refusal_of_draft,
    refusal_of_schema,
    refusal_of_text,
)

LIMITS = SchemaLimits(max_bytes=1000, max_nesting=8, max_nodes=50)
STRING = {"type": "string"}


def nested(levels: int) -> Any:
    schema: Any = {}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


def code_of(schema: object) -> str | None:
    refusal = refusal_of_schema(schema, LIMITS)
    return None if refusal is None else refusal.code


@pytest.mark.parametrize(
    "schema",
    [
        True,
        {},
        {"type": "object", "properties": {"a": STRING, "b": {"$ref": "#/$defs/c"}}},
        {"$ref": "#"},
        nested(8),
        {"const": {"$ref": "http://example.org", "pattern": "((((((((((("}},
        {"enum": [{"$ref": "file:///etc/passwd"}]},
        {"maximum": MOST_INTEGER},
        {"pattern": r"\(\(\(\(\(\(\(\(\(\(\("},
        # A property's name is no keyword.
        {"properties": {"$ref": STRING, "pattern": STRING, "const": STRING}},
    ],
)
def test_usual_schemas_pass(schema: object) -> None:
    assert code_of(schema) is None


@pytest.mark.parametrize(
    ("schema", "code"),
    [
        (nested(9), "structure_too_deep"),
        (nested(100_000), "structure_too_deep"),
        ({"enum": ["a"] * 60}, "structure_too_many_values"),
        ({"const": "a" * 1001}, "structure_too_large"),
        ({"a" * 1001: True}, "structure_too_large"),
        ({"maximum": MOST_INTEGER + 1}, "structure_integer_too_large"),
        ({"enum": [-(10**400)]}, "structure_integer_too_large"),
        ({"$ref": "http://example.org/schema"}, "structure_reference"),
        ({"$ref": "file:///etc/passwd"}, "structure_reference"),
        ({"items": {"$dynamicRef": "other.json"}}, "structure_reference"),
        ({"pattern": "(" * 9}, "structure_too_deep"),
        ({"patternProperties": {"(" * 9: STRING}}, "structure_too_deep"),
        ({"properties": {"const": {"$ref": "http://example.org"}}}, "structure_reference"),
        ({"pattern": "\ud800"}, "structure_invalid"),
        ({"pattern": "\x00"}, "structure_invalid"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else "",
)
def test_what_exceeds_a_limit_is_refused_by_its_name(schema: Any, code: str) -> None:
    refusal = refusal_of_schema(schema, LIMITS)
    # A deep one is taken apart from the outside: Python's own way is recursive.
    while isinstance(schema, dict) and set(schema) == {"items"}:
        schema = schema.pop("items")
    assert refusal is not None
    assert refusal.code == code


@pytest.mark.parametrize(
    ("text", "deep"),
    [("", 0), ("a(b)c", 1), ("((a)[b{1}])", 3), (r"\((\\(a))", 2), ("))((", 2), ("[(]", 2)],
)
def test_brackets_are_counted_where_they_are_not_escaped(text: str, deep: int) -> None:
    assert bracket_nesting(text) == deep


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("[a-z]{1,3}", None),
        ("(" * 100_000, "structure_too_large"),
        ("(" * 9, "structure_too_deep"),
        ("é" * 501, "structure_too_large"),
        ("a\x00", "structure_invalid"),
        ("\udfff", "structure_invalid"),
    ],
)
def test_a_regular_expression_or_grammar_keeps_the_limits(text: str, code: str | None) -> None:
    refusal = refusal_of_text(text, LIMITS)
    assert (refusal and refusal.code) == code


@pytest.mark.parametrize(
    ("choices", "code"),
    [
        (["yes", "no"], None),
        ([], "structure_invalid"),
        ("yes", "structure_invalid"),
        ([1], "structure_invalid"),
        (["\ud800"], "structure_invalid"),
        (["a"] * 51, "structure_too_many_values"),
        (["a" * 999, "b" * 2], "structure_too_large"),
    ],
)
def test_choices_keep_the_limits(choices: object, code: str | None) -> None:
    refusal = refusal_of_choices(choices, LIMITS)
    assert (refusal and refusal.code) == code


def test_a_refusal_names_the_limit() -> None:
    refusal = refusal_of_schema(nested(9), LIMITS)
    assert refusal is not None
    assert "8 levels" in refusal.message


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "prefixItems": [{}], "items": False},
        {"properties": {"items": {"type": "array"}}, "required": ["items"]},
        {"dependentRequired": {"items": ["a"]}},
        {"const": {"items": [{}]}},
        {"exclusiveMinimum": 3},
    ],
    ids=str,
)
def test_schemas_of_todays_draft_are_taken(schema: object) -> None:
    assert refusal_of_draft(schema) is None


@pytest.mark.parametrize(
    ("schema", "word"),
    [
        ({"items": [{"type": "integer"}]}, "`prefixItems`"),
        ({"items": []}, "`prefixItems`"),
        ({"anyOf": [{"properties": {"a": {"items": [{}]}}}]}, "`prefixItems`"),
        ({"minimum": 3, "exclusiveMinimum": True}, "give the number"),
    ],
    ids=str,
)
def test_schemas_of_earlier_drafts_are_refused_with_todays_word(schema: object, word: str) -> None:
    refusal = refusal_of_draft(schema)
    assert refusal is not None
    assert word in refusal.message
