"""A tier's rules for request bodies, by the issue's words."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.api.request_body import as_json, parse_object
from serve_app.api.routes import (
    CHAT_COMPLETIONS,
    COMPLETIONS,
    MESSAGES,
    RESPONSES,
    Endpoint,
)
from serve_app.config.answers import SamplingConfig
from serve_app.core.tiers import Tier
from serve_app.errors import RequestError
from tests.api.bodies import BODY_OF, ENDPOINTS, refusal
from tests.builders import KNOWN_FIELDS, a_prepared, some_settings

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)

FOREIGN = {"thinking", "enable_thinking", "reasoning", "functions", "best_of", "guided_json"}
OBJECTS = st.dictionaries(
    st.sampled_from(
        ["role", "type", "content", "name", "function", "effort", "text", "tool_calls"]
    ),
    JSON_VALUES
    | st.sampled_from(["user", "assistant", "function", "text", "thinking", "tool_use"]),
)
NEARLY_RIGHT: Any = {
    "messages": st.lists(OBJECTS | OBJECTS.map(lambda of: {**of, "role": "assistant"}), max_size=3),
    "tools": st.lists(OBJECTS, max_size=2),
    "input": st.lists(OBJECTS, max_size=2),
    "thinking": OBJECTS,
    "reasoning": OBJECTS,
    "output_config": OBJECTS,
    "tool_choice": OBJECTS,
}


# --- bodies


def test_the_short_form_is_a_conversation_of_one_message() -> None:
    payload = a_prepared({"prompt": "hi"}).payload
    assert payload["messages"] == [{"role": "user", "content": "hi"}]
    assert "prompt" not in payload


@pytest.mark.parametrize("prompt", [None, 5, ["hi"], {"text": "hi"}])
def test_a_short_form_that_is_no_text_is_refused(prompt: object) -> None:
    assert refusal({"prompt": prompt}).param == "prompt"


def test_a_prompt_beside_messages_is_refused_since_one_of_them_would_be_lost() -> None:
    assert refusal({**BODY_OF[CHAT_COMPLETIONS.name], "prompt": "hi"}).param == "prompt"


def test_a_body_without_messages_is_told_both_forms() -> None:
    error = refusal({"model": "chat"})
    assert error.param == "messages"
    assert '{"prompt": "..."}' in error.message


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'"x"', b"null", b"\xff", b'{"a":' + b"[" * 5000, b'{"temperature": NaN}',
     b'{"temperature": Infinity}', b'{"prompt": "\\ud800"}'],
)  # fmt: skip
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        parse_object(body)
    assert (caught.value.status, caught.value.code) == (400, "invalid_json")


def test_a_number_that_reads_as_infinity_is_refused() -> None:
    with pytest.raises(RequestError, match="too large"):
        as_json(parse_object(b'{"temperature": 1e999}'))


@given(st.dictionaries(st.text(), JSON_VALUES))
def test_every_json_object_is_taken_as_it_is_but_for_integers_beyond_64_bits(
    payload: dict[str, Any],
) -> None:
    if holds_large_integer(payload):
        with pytest.raises(RequestError) as caught:
            parse_object(as_json(payload))
        assert (caught.value.status, caught.value.code) == (400, "integer_too_large")
    else:
        assert parse_object(as_json(payload)) == payload


def holds_large_integer(value: object) -> bool:
    if isinstance(value, dict):
        return any(map(holds_large_integer, value.values()))
    if isinstance(value, list):
        return any(map(holds_large_integer, value))
    return isinstance(value, int) and not -(2**63) <= value < 2**63


@ENDPOINTS
@settings(max_examples=30)
@given(data=st.data())
def test_whatever_a_client_sends_the_rules_answer_or_refuse_with_a_400(
    endpoint: Endpoint, data: st.DataObject
) -> None:
    names = sorted(KNOWN_FIELDS[endpoint.path] | {"prompt", "max_new_tokens", "n"} | FOREIGN)
    payload = data.draw(st.dictionaries(st.sampled_from(names), JSON_VALUES, max_size=4))
    payload |= data.draw(st.fixed_dictionaries({}, optional=NEARLY_RIGHT))
    settings = some_settings(system_prompt="Be brief.")
    with suppress(RequestError):
        prepared = a_prepared(dict(payload), endpoint=endpoint, settings=settings)
        assert 1 <= prepared.sequences <= 8
        assert prepared.max_new_tokens <= settings.max_new_tokens


# --- sequences


def test_one_request_needs_one_slot_for_each_sequence() -> None:
    assert a_prepared().sequences == 1
    assert a_prepared(n=None).sequences == 1
    assert a_prepared(n=3).sequences == 3


@pytest.mark.parametrize(
    ("prompt", "sequences"),
    [("one", 1), (["one", "two"], 2), ([1, 2, 3], 1), ([[1, 2], [3]], 2), ([], 1)],
)
def test_legacy_completions_need_a_slot_for_each_prompt(prompt: object, sequences: int) -> None:
    assert a_prepared({"prompt": prompt}, endpoint=COMPLETIONS).sequences == sequences
    assert a_prepared({"prompt": prompt}, endpoint=COMPLETIONS, n=2).sequences == 2 * sequences


def test_more_sequences_than_slots_can_never_run_and_are_refused() -> None:
    assert a_prepared(n=8, slots=8).sequences == 8
    assert refusal(n=9, slots=8).param == "n"
    too_many = ["x"] * 9
    assert refusal({"prompt": too_many}, endpoint=COMPLETIONS, slots=8).param == "prompt"


@pytest.mark.parametrize("copies", ["2", 2.0, True, -1])
def test_a_number_of_sequences_that_is_none_is_refused(copies: object) -> None:
    assert refusal(n=copies).param == "n"


# --- what the tier fills in


def test_the_model_may_be_left_out_and_is_kept_if_given() -> None:
    assert a_prepared(tier=Tier.REASONING).payload["model"] == "reasoning"
    assert a_prepared(model=None).payload["model"] == "chat"
    assert a_prepared(model="org/other").payload["model"] == "org/other"


def test_sampling_defaults_fill_what_the_request_leaves_out() -> None:
    settings = some_settings(sampling=SamplingConfig(temperature=0.6, top_p=0.95))
    assert a_prepared(settings=settings).payload["temperature"] == 0.6
    payload = a_prepared(settings=settings, temperature=0, top_p=None).payload
    assert (payload["temperature"], payload["top_p"]) == (0, 0.95)


def test_sampling_defaults_that_an_endpoint_does_not_know_are_left_out() -> None:
    settings = some_settings(sampling=SamplingConfig(top_k=20, repetition_penalty=1.1))
    payload = a_prepared(BODY_OF[MESSAGES.name], endpoint=MESSAGES, settings=settings).payload
    assert payload["top_k"] == 20
    assert "repetition_penalty" not in payload


SYSTEM = {"role": "system", "content": "Be brief."}
SAMPLING = {"temperature": 0.6, "top_p": 0.95}
BRIEF = some_settings(system_prompt="Be brief.")


def test_the_system_prompt_comes_first_unless_the_request_brings_one() -> None:
    assert a_prepared(settings=BRIEF).payload["messages"][0] == SYSTEM
    for role in ("system", "developer"):
        own = [{"role": role, "content": "Sing."}, {"role": "user", "content": "hi"}]
        assert a_prepared({"messages": own}, settings=BRIEF).payload["messages"] == own


@pytest.mark.parametrize(
    ("endpoint", "field"), [(RESPONSES, "instructions"), (MESSAGES, "system")], ids=lambda v: str(v)
)
def test_the_system_prompt_goes_where_the_endpoint_has_it(endpoint: Endpoint, field: str) -> None:
    body = BODY_OF[endpoint.name]
    assert a_prepared(body, endpoint=endpoint, settings=BRIEF).payload[field] == "Be brief."
    assert a_prepared(body | {field: None}, endpoint=endpoint, settings=BRIEF).payload[field] == (
        "Be brief."
    )
    own = a_prepared(body | {field: "Sing."}, endpoint=endpoint, settings=BRIEF).payload
    assert own[field] == "Sing."


def test_anthropic_messages_get_no_system_role_among_the_messages() -> None:
    payload = a_prepared(BODY_OF[MESSAGES.name], endpoint=MESSAGES, settings=BRIEF).payload
    assert payload["messages"] == BODY_OF[MESSAGES.name]["messages"]


def test_legacy_completions_get_no_system_prompt() -> None:
    payload = a_prepared({"prompt": "hi"}, endpoint=COMPLETIONS, settings=BRIEF).payload
    assert payload == {"prompt": "hi", "model": "chat", **SAMPLING}


@pytest.mark.parametrize(("stream", "streaming"), [(True, True), (False, False), (None, False)])
def test_streaming_is_what_the_request_says(stream: object, streaming: bool) -> None:
    assert a_prepared(stream=stream).streaming is streaming


def test_the_rules_applied_twice_change_nothing_as_a_forwarded_request_needs() -> None:
    settings = some_settings(system_prompt="Be brief.", sampling=SamplingConfig(temperature=0.5))
    once = a_prepared(settings=settings, n=2).payload
    assert a_prepared(json.loads(json.dumps(once)), settings=settings).payload == once
