"""Other servers' and older clients' fields are taken where they are clear, and never lost."""

from typing import Any

import pytest

from serve_app.api.foreign_fields import take_foreign_fields
from serve_app.api.routes import CHAT_COMPLETIONS, COMPLETIONS, MESSAGES, RESPONSES, Endpoint
from serve_app.errors import RequestError
from tests.builders import a_prepared

HI = {"messages": [{"role": "user", "content": "hi"}]}


def taken(payload: dict[str, Any], endpoint: Endpoint = CHAT_COMPLETIONS) -> dict[str, Any]:
    take_foreign_fields(payload, endpoint)
    return payload


def refused(payload: dict[str, Any], endpoint: Endpoint = CHAT_COMPLETIONS) -> RequestError:
    with pytest.raises(RequestError) as caught:
        take_foreign_fields(payload, endpoint)
    assert caught.value.status == 400
    return caught.value


@pytest.mark.parametrize(
    "off",
    [
        {"thinking": {"type": "disabled"}},
        {"thinking": False},
        {"enable_thinking": False},
        {"reasoning": {"effort": "none"}},
        {"reasoning": {"enabled": False}},
    ],
    ids=str,
)
def test_thinking_off_is_off_in_whatever_words(off: dict[str, Any]) -> None:
    assert taken(dict(off)) == {"reasoning_effort": "none"}


def test_off_is_off_whatever_else_is_said() -> None:
    for off in ({"enable_thinking": False}, {"thinking": {"type": "disabled"}}):
        assert taken({**off, "reasoning_effort": "high"}) == {"reasoning_effort": "none"}


@pytest.mark.parametrize(
    ("given", "own"),
    [
        (
            {"thinking": {"type": "enabled", "budget_tokens": 50}},
            {
                "thinking_token_budget": 50,
                "chat_template_kwargs": {"enable_thinking": True},
            },
        ),
        ({"thinking_budget": 50}, {"thinking_token_budget": 50}),
        ({"reasoning": {"max_tokens": 50}}, {"thinking_token_budget": 50}),
        ({"reasoning": {"effort": "low"}}, {"reasoning_effort": "low"}),
        ({"reasoning": {"exclude": True}}, {"include_reasoning": False}),
        ({"enable_thinking": True}, {"chat_template_kwargs": {"enable_thinking": True}}),
        ({"thinking": None, "enable_thinking": None, "reasoning": None}, {}),
        ({"guided_json": {"type": "object"}}, {"structured_outputs": {"json": {"type": "object"}}}),
        ({"guided_regex": "a+"}, {"structured_outputs": {"regex": "a+"}}),
        ({"guided_choice": ["a"]}, {"structured_outputs": {"choice": ["a"]}}),
        ({"guided_grammar": "root ::= a"}, {"structured_outputs": {"grammar": "root ::= a"}}),
        ({"guided_json": None, "guided_choice": None}, {}),
        ({"best_of": 1}, {}),
        ({"best_of": 3, "n": 3}, {"n": 3}),
        ({"functions": [], "function_call": "none"}, {}),
    ],
    ids=str,
)
def test_what_is_clear_is_written_in_the_endpoints_own_words(
    given: dict[str, Any], own: dict[str, Any]
) -> None:
    assert taken(dict(given)) == own


def test_each_endpoint_has_words_of_its_own() -> None:
    assert taken({"reasoning_effort": "low"}, RESPONSES) == {"reasoning": {"effort": "low"}}
    assert taken({"enable_thinking": False}, RESPONSES) == {"reasoning": {"effort": "none"}}
    assert taken({"reasoning_effort": "low"}, MESSAGES) == {"output_config": {"effort": "low"}}
    disabled = {"thinking": {"type": "disabled"}}
    assert taken({"enable_thinking": False}, MESSAGES) == disabled
    assert taken({"output_config": {"effort": "none"}}, MESSAGES) == {
        "output_config": {},
        **disabled,
    }


@pytest.mark.parametrize(
    ("payload", "endpoint", "param", "advice"),
    [
        ({"best_of": 3}, COMPLETIONS, "best_of", "use `n`"),
        ({"best_of": 3, "n": 2}, COMPLETIONS, "best_of", "use `n`"),
        ({"functions": [{"name": "f"}]}, CHAT_COMPLETIONS, "functions", "use `tools`"),
        ({"function_call": {"name": "f"}}, CHAT_COMPLETIONS, "function_call", "use `tools`"),
        ({"functions": [{"name": "f"}]}, MESSAGES, "functions", '"input_schema"'),
        ({"guided_json": {}}, MESSAGES, "guided_json", "`output_config.format`"),
        (
            {"guided_json": {}, "guided_regex": "a"},
            CHAT_COMPLETIONS,
            "guided_regex",
            "`guided_json`",
        ),
        (
            {"guided_json": {}, "structured_outputs": {"regex": "a"}},
            CHAT_COMPLETIONS,
            "guided_json",
            "`structured_outputs`",
        ),
        ({"guided_decoding_backend": "x"}, CHAT_COMPLETIONS, "guided_decoding_backend", "leave"),
        ({"thinking": "off"}, CHAT_COMPLETIONS, "thinking", '{"type": "disabled"}'),
        ({"thinking": {"type": "on"}}, CHAT_COMPLETIONS, "thinking.type", "disabled"),
        ({"enable_thinking": "no"}, CHAT_COMPLETIONS, "enable_thinking", "true or false"),
        ({"reasoning": "low"}, CHAT_COMPLETIONS, "reasoning", '{"effort": "low"}'),
        ({"reasoning": {"foo": 1}}, CHAT_COMPLETIONS, "reasoning.foo", "`effort`"),
        ({"enable_thinking": False}, COMPLETIONS, "enable_thinking", "/v1/chat/completions"),
        ({"thinking_token_budget": 5}, RESPONSES, "thinking_token_budget", "reasoning.effort"),
        ({"thinking_budget": 5}, MESSAGES, "thinking_budget", "budget_tokens"),
        ({"format": "json"}, CHAT_COMPLETIONS, "format", "`response_format`"),
        (
            {"thinking_token_budget": 5, "thinking_budget": 6},
            CHAT_COMPLETIONS,
            "thinking_budget",
            "`thinking_token_budget`",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_taken_says_what_to_use(
    payload: dict[str, Any], endpoint: Endpoint, param: str, advice: str
) -> None:
    error = refused(payload, endpoint)
    assert error.param == param
    assert advice in error.message


@pytest.mark.parametrize("own", [-1, 1e300, "x", ["a"], True, {"regex": "a"}], ids=str)
def test_an_answer_has_one_form_whatever_the_other_is(own: object) -> None:
    payload = {"guided_json": {}, "structured_outputs": own}
    with pytest.raises(RequestError) as refused:
        take_foreign_fields(payload, CHAT_COMPLETIONS)
    assert refused.value.param == "guided_json"


def test_a_later_error_names_the_field_as_the_client_wrote_it() -> None:
    with pytest.raises(RequestError) as caught:  # the model of these tests does not think
        a_prepared(HI, thinking={"type": "enabled", "budget_tokens": 5})
    assert caught.value.param == "thinking.budget_tokens"
    prepared = a_prepared(HI, guided_regex="a+")
    assert prepared.written_as == {"structured_outputs.regex": "guided_regex"}


def test_fields_that_nobody_reads_are_warned_of_and_harmless_ones_are_not() -> None:
    warned = a_prepared(HI, verbosity="low", mystery=1, metadata={"a": "b"}).warnings
    assert warned == ("unknown here, and without effect: mystery, verbosity",)
    # A header takes no line ends and no letters beyond ASCII.
    assert a_prepared({**HI, "a\r\nb": 1, "ü": 2}).warnings == (
        "unknown here, and without effect: 2 fields",
    )
    assert a_prepared(HI, user="me", store=True).warnings == ()
