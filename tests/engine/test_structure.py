"""JSON is kept compact by its grammar, and closed by it in the shortest way that is valid."""

import json
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
from transformers import AutoTokenizer

from serve_app.engine.model_dir import MICRO_MODEL, resolve_model
from serve_app.engine.structure import MOST_BLANKS, StructureCloser, compacted, is_unfinished

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 2},
        "age": {"type": "integer", "minimum": 0},
        "kind": {"enum": ["red", "green"]},
        "tags": {"type": "array", "items": {"type": "string"}},
        "home": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
    "required": ["name", "age", "kind", "tags", "home"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(resolve_model(MICRO_MODEL))


@pytest.fixture(scope="module")
def closer(tokenizer: Any) -> StructureCloser:
    return StructureCloser(tokenizer, len(tokenizer))


def bound_to(schema: object = None, **more: Any) -> Any:
    fields = {"json": schema, "json_object": None, "structural_tag": None, **more}
    return SimpleNamespace(**fields)


def compact(bound: Any) -> Any:
    return compacted(bound, lambda schema: "strange" in schema)


@pytest.mark.parametrize(
    "cut",
    [
        "",
        "{",
        '{"name": "An',
        '{"name": "Ann", "age": 10000000000',
        '{"name": "Ann", "age": 1, "kind": "gr',
        '{"name": "Ann", "age": 1, "kind": "red", "tags": ["a", "b',
        '{"name": "Ann", "age": 1, "kind": "red", "tags": [], "home": {"ci',
        '{"name": "Ann", "age": 1, "kind": "red", "tags": ["a quote \\',
        '{"name": "Übung',
    ],
)
def test_json_that_is_cut_anywhere_is_closed(
    tokenizer: Any, closer: StructureCloser, cut: str
) -> None:
    ids = tokenizer.encode(cut, add_special_tokens=False)
    closing = closer.closing(compact(bound_to(PERSON)), ids, 300)
    assert closing is not None
    jsonschema.validate(json.loads(tokenizer.decode([*ids, *closing])), PERSON)


def test_what_the_grammar_does_not_know_is_not_closed(
    tokenizer: Any, closer: StructureCloser
) -> None:
    ids = tokenizer.encode("Hello", add_special_tokens=False)
    assert closer.closing(compact(bound_to(PERSON)), ids, 300) is None


def test_a_closing_that_does_not_fit_is_none(closer: StructureCloser) -> None:
    assert closer.closing(compact(bound_to(PERSON)), (), 10) is None


def test_whole_json_needs_no_closing(tokenizer: Any, closer: StructureCloser) -> None:
    ids = tokenizer.encode('{"a": 1}', add_special_tokens=False)
    assert closer.closing(compact(bound_to(json_object=True)), ids, 5) == []


def test_so_much_is_held_back_that_the_shortest_json_fits(closer: StructureCloser) -> None:
    bound = compact(bound_to(PERSON))
    shortest = closer.closing(bound, (), 300)
    assert shortest is not None
    assert closer.reserve(bound, 1024) > len(shortest)
    assert closer.reserve(bound, 20) == 10


def test_blanks_are_bounded_in_what_is_asked_and_not_inside_a_schema() -> None:
    schema = {"type": "object", "properties": {"type": {"const": "json_schema"}}}
    tag = json.loads(compact(bound_to(json.dumps(schema))).structural_tag)
    assert tag["format"] == {
        "type": "json_schema",
        "json_schema": schema,
        "max_whitespace_cnt": MOST_BLANKS,
    }
    call = {"type": "tag", "begin": "<tool_call>", "content": tag["format"], "end": "</tool_call>"}
    tools = {"format": {"type": "tags_with_separator", "tags": [call]}}
    asked = bound_to(structural_tag=json.dumps(tools))
    (tagged,) = json.loads(compact(asked).structural_tag)["format"]["tags"]
    assert tagged["content"]["max_whitespace_cnt"] == MOST_BLANKS


def test_a_schema_beyond_xgrammar_is_left_to_another_backend() -> None:
    asked = bound_to({"type": "object", "strange": True})
    assert compact(asked) is asked


def test_what_the_client_asked_for_is_not_changed() -> None:
    asked = bound_to(PERSON)
    assert compact(asked) is not asked
    assert (asked.json, asked.structural_tag) == (PERSON, None)


@pytest.mark.parametrize(
    ("form", "answer", "unfinished"),
    [
        ("tags_with_separator", "anything", True),
        ("triggered_tags", "plain text", False),
        ("triggered_tags", "text <tool_call>\n{", True),
        ("triggered_tags", "text <tool_call>\n{}\n</tool_call> and", False),
    ],
)
def test_where_calls_are_the_models_choice_text_may_be_cut(
    form: str, answer: str, unfinished: bool
) -> None:
    bound = bound_to(structural_tag=json.dumps({"format": {"type": form}}))
    params = SimpleNamespace(structured_outputs=bound, ignore_eos=False)
    assert is_unfinished(params, answer) == unfinished
