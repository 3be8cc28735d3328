"""JSON that its limit cuts is closed with what the model has said, and nothing half of it."""

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from serve_app.engine.grammar.closing import Closed
from serve_app.engine.grammar.compiler import Grammars, GrammarSpec, Job, JobLimits
from tests.engine.grammars import micro_tokenizer, micro_vocabulary

LIMITS = JobLimits(cpu_s=5, wall_s=5, memory_bytes=1 << 30, compiled_bytes=1 << 25, step_s=1)
FACTS = {
    "type": "object",
    "properties": {
        "country": {"type": "string"},
        "kind": {"enum": ["dark", "dark_blue", "light"]},
        "population": {"type": "integer"},
        "since": {"type": ["string", "null"]},
        "near": {"type": "array", "items": {"type": "string"}},
        "note": {"type": "string"},
    },
    "required": ["country", "kind", "population", "since"],
    "additionalProperties": False,
}
SAID = {
    "country": "France",
    "kind": "dark_blue",
    "population": 1118100000000,
    "since": 'about "843"',
    "near": ["Spain", "Italy"],
    "note": "é and 😀",
}


class Closer:
    """In this process, where no stranger's schema comes."""

    def __init__(self) -> None:
        import xgrammar

        self.tokenizer = micro_tokenizer()
        self._grammars = Grammars(micro_vocabulary(), xgrammar)

    def ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def close(
        self, schema: object, answer: list[int], most_tokens: int, least_kept: int = 0
    ) -> Closed | None:
        form = {"type": "json_schema", "json_schema": schema, "max_whitespace_cnt": 1}
        tag = json.dumps({"type": "structural_tag", "format": form})
        return self.close_tag(tag, answer, most_tokens, least_kept)

    def close_tag(
        self, tag: str, answer: list[int], most_tokens: int, least_kept: int = 0
    ) -> Closed | None:
        spec = GrammarSpec("structural_tag", tag)
        job = Job(1, spec.kind, spec.text, LIMITS, answer, least_kept, most_tokens)
        closed = self._grammars.closing(job)["closing"]
        return None if closed is None else Closed(**closed)

    def text(self, answer: list[int], closed: Closed) -> str:
        return self.tokenizer.decode([*answer[: closed.kept], *closed.ids])


@pytest.fixture(scope="module")
def closer() -> Closer:
    return Closer()


@pytest.mark.slow
def test_at_every_limit_what_was_said_is_kept_and_nothing_is_half_said(closer: Closer) -> None:
    answer = closer.ids(json.dumps(SAID, ensure_ascii=False))
    shortest = closer.close(FACTS, [], 500)
    assert shortest is not None
    for limit in range(len(shortest.ids), len(answer) + 1):
        closed = closer.close(FACTS, answer[:limit], limit)
        assert closed is not None
        assert closed.kept + len(closed.ids) <= limit
        value = json.loads(closer.text(answer, closed))
        jsonschema.validate(value, FACTS)
        assert value["population"] in (0, SAID["population"])
        # `dark` is not what `dark_blue` was about to be, but what an empty value must be.
        begun = '"kind": "dark_b' in closer.tokenizer.decode(answer[: closed.kept])
        assert value["kind"] == ("dark_blue" if begun else "dark")
        assert value["since"] is None or SAID["since"].startswith(value["since"])
        assert SAID["country"].startswith(value["country"])
    assert closer.close(FACTS, answer, len(answer)) == Closed(len(answer), [], whole=True)


def test_a_text_that_may_not_end_yet_is_left_out_and_not_filled_up(closer: Closer) -> None:
    schema = {
        "type": "object",
        "properties": {"code": {"type": ["string", "null"], "minLength": 5}},
        "required": ["code"],
    }
    answer = closer.ids('{"code": "abcdefg"}')
    for limit in range(len(closer.ids('{"code":null}')), len(answer)):
        closed = closer.close(schema, answer[:limit], limit)
        assert closed is not None
        value = json.loads(closer.text(answer, closed))["code"]
        assert value is None or (len(value) >= 5 and "abcdefg".startswith(value))


def test_the_more_tokens_there_are_the_more_is_kept(closer: Closer) -> None:
    answer = closer.ids(json.dumps(SAID))
    kept = [closer.close(FACTS, answer[:limit], limit) for limit in range(80, len(answer))]
    assert all(one is not None for one in kept)
    numbers = [one.kept for one in kept if one is not None]
    assert numbers == sorted(numbers)


def test_what_was_sent_is_not_taken_back(closer: Closer) -> None:
    answer = closer.ids(json.dumps(SAID))[:90]
    free = closer.close(FACTS, answer, 90)
    assert free is not None
    bound = closer.close(FACTS, answer, 200, least_kept=85)
    assert bound is not None
    assert bound.kept >= 85
    assert closer.close(FACTS, answer, 90, least_kept=90) is None


def test_an_end_is_written_in_the_fewest_tokens(closer: Closer) -> None:
    closed = closer.close({"enum": ["null and void"]}, [], 100)
    assert closed is not None
    assert len(closed.ids) <= len(closer.ids('"null and void"'))


def test_of_several_names_the_one_that_ends_soonest_is_chosen(closer: Closer) -> None:
    schema = {
        "type": "object",
        "properties": {"a_long_optional_name": {"type": "string"}, "b": {"type": "string"}},
        "required": ["b"],
        "additionalProperties": False,
    }
    closed = closer.close(schema, [], 100)
    assert closed is not None
    assert closer.text([], closed) == '{"b":""}'


def test_a_call_is_closed_inside_its_tags(closer: Closer) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    call = {
        "type": "tag",
        "begin": '<tool_call>\n{"name": "weather", "arguments": ',
        "content": {"type": "json_schema", "json_schema": schema},
        "end": "}\n</tool_call>",
    }
    form = {"type": "triggered_tags", "triggers": ["<tool_call>"], "tags": [call]}
    tag = json.dumps({"type": "structural_tag", "format": form})
    whole = 'I say "{ <tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
    answer = closer.ids(whole)
    begin = len(closer.ids('I say "{ '))
    for limit in range(1, len(answer)):
        closed = closer.close_tag(tag, answer[:limit], limit)
        assert closed is not None
        text = closer.text(answer, closed)
        if closed.kept <= begin:
            assert closed.ids == []
            continue
        found = json.loads(text.partition("<tool_call>")[2].removesuffix("</tool_call>"))
        assert "Rome".startswith(found["arguments"]["city"])


# --- generated schemas

NAMES = st.text("abcdefgh_", min_size=1, max_size=8)
LEAVES = st.sampled_from(
    [
        ({"type": "string"}, st.text(max_size=12)),
        ({"type": "integer"}, st.integers(-(2**53), 2**53)),
        ({"type": "number"}, st.integers(-999, 999).map(lambda n: n / 8)),
        ({"type": "boolean"}, st.booleans()),
        ({"enum": ["ab", "abc", "b"]}, st.sampled_from(["ab", "abc", "b"])),
        ({"type": ["integer", "null"]}, st.none() | st.integers(0, 10**6)),
        ({"const": "fixed"}, st.just("fixed")),
    ]
)


def _objects(inner: Any) -> Any:
    def one(fields: dict[str, Any]) -> Any:
        schema = {
            "type": "object",
            "properties": {name: schema for name, (schema, _) in fields.items()},
            "required": [*fields],
            "additionalProperties": False,
        }
        return schema, st.fixed_dictionaries({name: value for name, (_, value) in fields.items()})

    return st.dictionaries(NAMES, inner, min_size=1, max_size=4).map(one)


def _arrays(inner: Any) -> Any:
    return inner.map(lambda of: ({"type": "array", "items": of[0]}, st.lists(of[1], max_size=3)))


SCHEMAS = _objects(st.recursive(LEAVES, lambda of: _objects(of) | _arrays(of), max_leaves=6))


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(SCHEMAS, st.data())
def test_for_every_schema_and_limit_an_answer_is_whole_or_closed_validly(
    closer: Closer, schema_and_values: Any, data: st.DataObject
) -> None:
    schema, values = schema_and_values
    value = data.draw(values)
    answer = closer.ids(json.dumps(value, ensure_ascii=False))
    shortest = closer.close(schema, [], 500)
    assume(shortest is not None and closer.close(schema, answer, len(answer)) is not None)
    assert shortest is not None
    limit = data.draw(st.integers(len(shortest.ids), max(len(shortest.ids), len(answer))))
    closed = closer.close(schema, answer[:limit], limit)
    assert closed is not None
    assert closed.kept + len(closed.ids) <= limit
    found = json.loads(closer.text(answer, closed))
    jsonschema.validate(found, schema)
    if limit >= len(answer):
        assert closed.whole
        assert found == value
