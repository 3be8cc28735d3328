"""Fields that are not a client's, and values that vLLM's schemas read too freely."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.api import field_rules
from serve_app.api.field_rules import (
    CLOSED_FIELDS,
    OWN_ARGUMENTS,
    FieldBounds,
    SchemaRules,
    apply_field_rules,
    refuse_excess,
)
from serve_app.api.routes import CHAT_COMPLETIONS, RESPONSES, Endpoint
from serve_app.api.rules import RuleBook, prepare
from serve_app.core.tiers import Tier
from serve_app.errors import RequestError
from tests.builders import KNOWN_FIELDS, some_settings

SCHEMA = {
    "properties": {
        "stream": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
        "ignore_eos": {"type": "boolean"},
        "top_k": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "temperature": {"anyOf": [{"type": "number"}, {"type": "null"}]},
        "stop": {"anyOf": [{"type": "string"}, {"type": "array"}]},
    }
}
RULES = SchemaRules.of(SCHEMA, frozenset({"messages", "tokenize", "language", "tools"}))
ASKS_FOR_NOTHING = [None, False, 0, "", [], {}]


def refusal(payload: dict[str, Any]) -> RequestError:
    with pytest.raises(RequestError) as caught:
        apply_field_rules(payload, RULES)
    assert caught.value.status == (404 if "previous_response_id" in payload else 400)
    return caught.value


@pytest.mark.parametrize("name", CLOSED_FIELDS)
@pytest.mark.parametrize("value", [{"prompt_token_ids": [1]}, "yes", 1, True, ["x"], -5])
def test_a_closed_field_is_refused_with_the_reason(name: str, value: object) -> None:
    error = refusal({name: value})
    assert error.param == name
    assert CLOSED_FIELDS[name] in error.message


@pytest.mark.parametrize("name", CLOSED_FIELDS)
@pytest.mark.parametrize("value", ASKS_FOR_NOTHING)
def test_a_closed_field_that_asks_for_nothing_is_taken_off(name: str, value: object) -> None:
    payload = {name: value, "user": "me"}
    apply_field_rules(payload, RULES)
    assert payload == {"user": "me"}


@pytest.mark.parametrize("name", ["kv_transfer_params", "ec_transfer_params"])
def test_a_closed_field_is_closed_among_the_engines_arguments_too(name: str) -> None:
    assert refusal({"vllm_xargs": {name: "x"}}).param == "vllm_xargs"
    apply_field_rules({"vllm_xargs": {"of_a_plug_in": 1}}, RULES)


@pytest.mark.parametrize("name", ["tierserve_lean", "tierserve_resumed_ids", "tierserve_x"])
@pytest.mark.parametrize("value", [1, None, [], [5, 1], ["a", "b"]])
def test_what_the_patches_read_is_closed_whatever_it_is(name: str, value: object) -> None:
    """The engine's process believes what it finds there."""
    assert name in (error := refusal({"vllm_xargs": {"of_a_plug_in": 1, name: value}})).message
    assert error.param == "vllm_xargs"


def test_the_patches_arguments_all_begin_alike() -> None:
    sources = (Path(field_rules.__file__).parents[1] / "engine" / "vllm").rglob("*.py")
    named = {
        key
        for source in sources
        for line in re.findall(r"^_[\w, ]+ = .*$", source.read_text(), re.MULTILINE)
        for key in re.findall(r'"(tierserve\w*)"', line)
    }
    assert len(named) >= 4
    assert all(name.startswith(OWN_ARGUMENTS) for name in named)


@given(st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.none()))
def test_booleans_and_integers_are_what_they_say(value: object) -> None:
    for name, kind in (("stream", bool), ("ignore_eos", bool), ("top_k", int)):
        right = value is None or type(value) is kind
        if right:
            apply_field_rules({name: value}, RULES)
        else:
            error = refusal({name: value})
            assert (error.param, error.code) == (name, "invalid_type")
    apply_field_rules({"temperature": value, "stop": value}, RULES)


@pytest.mark.parametrize(
    "given",
    [
        {"tokenize": True, "padding": "max_length", "max_length": 16_000_000},
        {"return_tensors": "pt"},
        {"messages": []},
        {"chat_template": "{{ 1 }}"},
        {"tools": [{}]},
        {"tokenizer_kwargs": {}},
        {"enable_thinking": {"a": "b"}},
        {"language": "x" * 2000},
        {"language": ["x"] * 100_000},
        {"k" * 100_000: 1},
    ],
)
def test_a_template_gets_its_own_variables_and_short_values_only(given: dict[str, Any]) -> None:
    error = refusal({"chat_template_kwargs": given})
    assert error.param == "chat_template_kwargs"
    assert len(error.message) < 300


@pytest.mark.parametrize(
    "given", [{"enable_thinking": False}, {"language": "de"}, {"reasoning_effort": None}, {}, None]
)
def test_a_templates_own_variables_are_taken(given: dict[str, Any] | None) -> None:
    apply_field_rules({"chat_template_kwargs": given}, RULES)


@pytest.mark.parametrize(
    ("payload", "param"),
    [
        ({"prompt_logprobs": 20}, "prompt_logprobs"),
        ({"prompt_logprobs": 2, "n": 2}, "n"),
        ({"echo": True, "logprobs": 20}, "logprobs"),
        ({"echo": True, "logprobs": 1, "n": 8}, "n"),
        ({"repetition_detection": {"max_pattern_size": 10_000}}, "repetition_detection"),
        ({"repetition_detection": {"min_count": 1e9}}, "repetition_detection"),
    ],
)
def test_work_that_holds_up_everybody_is_bounded(payload: dict[str, Any], param: str) -> None:
    assert refusal(payload).param == param


@pytest.mark.parametrize(
    "payload",
    [
        {"echo": True, "logprobs": 1},
        {"prompt_logprobs": 0},
        {"logprobs": 20, "n": 8},
        {"echo": True, "logprobs": True},
        {"repetition_detection": {"max_pattern_size": 20, "min_count": 4}},
        {"repetition_detection": "x"},
    ],
)
def test_what_evaluations_ask_for_is_taken(payload: dict[str, Any]) -> None:
    apply_field_rules(payload, RULES)


@pytest.mark.parametrize("kind", ["image_url", "input_image", "audio_url", "video_url", "file"])
@pytest.mark.parametrize("field", ["messages", "input"])
def test_what_is_no_text_is_refused_before_anybody_looks_at_its_url(field: str, kind: str) -> None:
    part = {"type": kind, "image_url": {"url": "http://169.254.169.254/latest/meta-data"}}
    with pytest.raises(RequestError, match="text only") as caught:
        refuse_excess({field: [{"role": "user", "content": [part]}]}, FieldBounds(4096, 10**6))
    assert caught.value.param == field


@pytest.mark.parametrize(
    ("endpoint", "asked", "stored"),
    [(RESPONSES, True, False), (RESPONSES, False, False), (CHAT_COMPLETIONS, True, True)],
)
def test_no_response_is_stored_whoever_asks_for_it(
    endpoint: Endpoint, asked: bool, stored: bool
) -> None:
    prompt = {"input": "hi"} if endpoint is RESPONSES else {"prompt": "hi"}
    book = RuleBook(Tier.CHAT, some_settings(), 8, "chat", KNOWN_FIELDS)
    prepared = prepare({**prompt, "store": asked}, endpoint, book)
    assert prepared.payload["store"] is stored
