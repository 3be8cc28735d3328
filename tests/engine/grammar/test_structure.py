"""JSON is kept compact by its grammar, and closed by it in the shortest way that is valid."""

import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
import pytest_asyncio

from serve_app.core.structure.schema_limits import SchemaLimits
from serve_app.engine.grammar.closing import Closed
from serve_app.engine.grammar.structure import (
    MOST_BLANKS,
    StructureBinder,
    is_unfinished,
    tokens_before_call,
)
from serve_app.errors import RequestError
from tests.engine.grammars import (
    a_binder,
    a_sandbox,
    bound_to,
    micro_tokenizer,
    micro_vocabulary,
)

# One sandbox serves them all.
in_one_loop = pytest.mark.asyncio(loop_scope="module")

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
    return micro_tokenizer()


@pytest.fixture(scope="module")
def vocabulary() -> str:
    return micro_vocabulary()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def binder(vocabulary: str) -> AsyncIterator[StructureBinder]:
    async with a_sandbox(vocabulary) as sandbox:
        yield a_binder(sandbox)


@pytest.fixture
async def fresh_binder(vocabulary: str) -> AsyncIterator[StructureBinder]:
    """Its sandbox has compiled nothing yet."""
    async with a_sandbox(vocabulary) as sandbox:
        yield a_binder(sandbox)


async def in_engines_form(binder: StructureBinder, bound: Any) -> Any:
    return (await binder.bind(bound, None))[0]


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
@in_one_loop
async def test_json_that_is_cut_anywhere_is_closed(
    tokenizer: Any, binder: StructureBinder, cut: str
) -> None:
    ids = tokenizer.encode(cut, add_special_tokens=False)
    bound = await in_engines_form(binder, bound_to(PERSON))
    closed = await binder.close(bound, ids, least_kept=0, most_tokens=300)
    assert closed is not None
    assert not closed.whole
    jsonschema.validate(json.loads(tokenizer.decode([*ids[: closed.kept], *closed.ids])), PERSON)


@in_one_loop
async def test_what_the_grammar_does_not_know_is_not_closed(
    tokenizer: Any, binder: StructureBinder
) -> None:
    ids = tokenizer.encode("Hello", add_special_tokens=False)
    bound = await in_engines_form(binder, bound_to(PERSON))
    assert await binder.close(bound, ids, least_kept=0, most_tokens=300) is None


@in_one_loop
async def test_a_closing_that_does_not_fit_is_none(binder: StructureBinder) -> None:
    bound = await in_engines_form(binder, bound_to(PERSON))
    assert await binder.close(bound, (), least_kept=0, most_tokens=10) is None


@in_one_loop
async def test_whole_json_needs_no_closing(tokenizer: Any, binder: StructureBinder) -> None:
    ids = tokenizer.encode('{"a": 1}', add_special_tokens=False)
    bound = await in_engines_form(binder, bound_to(json_object=True))
    closed = await binder.close(bound, ids, least_kept=0, most_tokens=5)
    assert closed == Closed(len(ids), [], whole=True)


@in_one_loop
async def test_a_thought_leaves_as_much_as_the_shortest_json_takes(binder: StructureBinder) -> None:
    bound, end_tokens = await binder.bind(bound_to(PERSON), None)
    shortest = await binder.close(bound, (), least_kept=0, most_tokens=300)
    assert shortest is not None
    assert len(shortest.ids) == end_tokens.shortest <= end_tokens.longest
    assert end_tokens.kept_back > end_tokens.longest
    assert end_tokens.reserve(1024) > len(shortest.ids)
    assert end_tokens.reserve(20) == 10


@in_one_loop
async def test_blanks_are_bounded_in_what_is_asked_and_not_inside_a_schema(
    binder: StructureBinder,
) -> None:
    schema = {"type": "object", "properties": {"type": {"const": "json_schema"}}}
    bound = await in_engines_form(binder, bound_to(json.dumps(schema)))
    tag = json.loads(bound.structural_tag)
    assert tag["format"] == {
        "type": "json_schema",
        "json_schema": schema,
        "max_whitespace_cnt": MOST_BLANKS,
    }
    call = {"type": "tag", "begin": "<tool_call>", "content": tag["format"], "end": "</tool_call>"}
    tools = {"type": "tags_with_separator", "tags": [call], "separator": "\n"}
    asked = bound_to(structural_tag=json.dumps({"type": "structural_tag", "format": tools}))
    bound = await in_engines_form(binder, asked)
    (tagged,) = json.loads(bound.structural_tag)["format"]["tags"]
    assert tagged["content"]["max_whitespace_cnt"] == MOST_BLANKS


@in_one_loop
async def test_choices_become_the_grammar_that_the_engine_makes_of_them(
    binder: StructureBinder,
) -> None:
    bound = await in_engines_form(binder, bound_to(choice=["yes", "no"]))
    assert (bound.choice, bound.grammar) == (None, 'root ::= "yes" | "no"')


@pytest.mark.parametrize(
    "asked",
    [
        {"regex": "[a-c]{2}"},
        {"grammar": 'root ::= "a" | "b"'},
        {"grammar": 'start: "a" | "b"'},
        {
            "structural_tag": json.dumps(
                {
                    "type": "structural_tag",
                    "structures": [{"begin": "<f>", "schema": PERSON, "end": "</f>"}],
                    "triggers": ["<f"],
                }
            )
        },
    ],
    ids=str,
)
@in_one_loop
async def test_every_other_kind_is_checked_as_the_engine_compiles_it(
    binder: StructureBinder, asked: dict[str, Any]
) -> None:
    bound, end_tokens = await binder.bind(bound_to(**asked), None)
    assert end_tokens.shortest <= 2
    assert bound.regex == asked.get("regex")
    assert bound.grammar == asked.get("grammar")


@in_one_loop
async def test_what_the_client_asked_for_is_not_changed(binder: StructureBinder) -> None:
    asked = bound_to(PERSON)
    assert await in_engines_form(binder, asked) is not asked
    assert (asked.json, asked.structural_tag) == (PERSON, None)


async def test_a_checked_form_passes_as_it_is(fresh_binder: StructureBinder) -> None:
    """As for the second of a request's prompts."""
    bound = await in_engines_form(fresh_binder, bound_to(PERSON))
    assert await in_engines_form(fresh_binder, bound) == bound
    assert fresh_binder.sandbox.counts.cache_hits == 1


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (bound_to({"type": "object", "strange": True}), "structure_unsupported"),
        (bound_to("{"), "structure_invalid"),
        (bound_to("[" * 100_000), "structure_too_deep"),
        (bound_to(json_object=False), "structure_invalid"),
        (bound_to(structural_tag="[]"), "structure_invalid"),
        (bound_to({"$ref": "http://127.0.0.1/"}), "structure_reference"),
        (bound_to(regex="(" * 100), "structure_too_deep"),
        (bound_to(grammar=5), "structure_invalid"),
        (bound_to(choice=[]), "structure_invalid"),
    ],
    ids=str,
)
async def test_what_is_refused_at_sight_names_the_field(
    fresh_binder: StructureBinder, asked: Any, code: str
) -> None:
    with pytest.raises(RequestError) as refused:
        await fresh_binder.bind(asked, "text.format")
    assert (refused.value.status, refused.value.param) == (400, "text.format")
    assert refused.value.code == code
    assert fresh_binder.sandbox.worker_pid is None


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (bound_to(regex="("), "structured_outputs.regex"),
        (bound_to({"type": 5}), "response_format"),
        (bound_to(structural_tag="{}"), "structured_outputs.structural_tag"),
    ],
    ids=str,
)
@in_one_loop
async def test_a_field_that_is_not_known_is_guessed(
    binder: StructureBinder, asked: Any, field: str
) -> None:
    with pytest.raises(RequestError) as refused:
        await binder.bind(asked, None)
    assert refused.value.param == field


@in_one_loop
async def test_a_tag_may_nest_deeper_than_the_schemas_that_it_holds(vocabulary: str) -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(4):
        schema = {"type": "array", "items": schema}
    async with a_sandbox(vocabulary) as sandbox:
        binder = a_binder(sandbox, SchemaLimits(max_nesting=6))
        bound = await in_engines_form(binder, bound_to(schema))
        assert await in_engines_form(binder, bound) == bound


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
    params: Any = SimpleNamespace(structured_outputs=bound, ignore_eos=False)
    assert is_unfinished(params, answer) == unfinished


def test_the_older_form_of_a_tag_is_the_models_choice_too() -> None:
    bound = bound_to(structural_tag=json.dumps({"structures": [], "triggers": []}))
    params: Any = SimpleNamespace(structured_outputs=bound, ignore_eos=False)
    assert not is_unfinished(params, "plain text")


@pytest.mark.parametrize(
    ("text", "before"),
    [
        ("<tool_call>", ""),
        ('I say <tool_call>\n{"name"', "I say "),
        ("<tool_call>{}</tool_call>", "<tool_call>{}</tool_call>"),
        ("<tool_call>{}</tool_call><tool_call>{", "<tool_call>{}</tool_call>"),
        ("no call", "no call"),
        ("", ""),
    ],
)
def test_half_a_call_is_left_out(tokenizer: Any, text: str, before: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    tokens = tokens_before_call(ids, tokenizer.decode)
    assert tokenizer.decode(ids[:tokens]) == before
