"""Limits of new tokens and fields that would mislead, by the issue's words."""

from typing import Any

import pytest

from serve_app.api.routes import (
    CHAT_COMPLETIONS,
    COMPLETIONS,
    MESSAGES,
    RESPONSES,
    Endpoint,
)
from serve_app.core.tiers import Tier
from serve_app.errors import RequestError
from tests.api.bodies import BODY_OF, ENDPOINTS, refusal
from tests.builders import KNOWN_FIELDS, a_prepared, some_settings


def limit_written(endpoint: Endpoint, payload: dict[str, Any]) -> Any:
    return next((payload[name] for name in endpoint.limit_fields if payload.get(name)), None)


# --- new tokens


@pytest.mark.parametrize(("tier", "limit"), [(Tier.CHAT, 1024), (Tier.REASONING, 2048)])
@pytest.mark.parametrize(
    ("endpoint", "field"),
    [
        (CHAT_COMPLETIONS, "max_completion_tokens"),
        (RESPONSES, "max_output_tokens"),
        (MESSAGES, "max_tokens"),
    ],
    ids=["chat", "responses", "messages"],
)
def test_the_tiers_limit_is_the_default(
    tier: Tier, limit: int, endpoint: Endpoint, field: str
) -> None:
    prepared = a_prepared(BODY_OF[endpoint.name], endpoint=endpoint, tier=tier)
    assert prepared.payload[field] == prepared.max_new_tokens == limit


def test_the_legacy_endpoint_keeps_its_own_small_default() -> None:
    assert "max_tokens" not in a_prepared({"prompt": "hi"}, endpoint=COMPLETIONS).payload


@ENDPOINTS
def test_null_means_the_tiers_limit_and_not_the_whole_context(endpoint: Endpoint) -> None:
    nulls = dict.fromkeys(endpoint.limit_fields)
    payload = a_prepared(BODY_OF[endpoint.name] | nulls, endpoint=endpoint).payload
    assert limit_written(endpoint, payload) == 1024


@ENDPOINTS
def test_each_name_of_the_limit_is_taken_up_to_the_tiers_limit_and_not_beyond(
    endpoint: Endpoint,
) -> None:
    for field in endpoint.limit_fields:
        body = BODY_OF[endpoint.name]
        assert a_prepared(body | {field: 1024}, endpoint=endpoint).payload[field] == 1024
        assert refusal(body | {field: 1025}, endpoint=endpoint).param == field


def test_the_smaller_of_two_limits_says_how_long_the_answer_may_be() -> None:
    assert a_prepared(max_tokens=10, max_completion_tokens=20).max_new_tokens == 10


def test_a_changed_limit_of_the_tier_holds() -> None:
    settings = some_settings(max_new_tokens=50)
    assert a_prepared(settings=settings).payload["max_completion_tokens"] == 50
    assert "50" in refusal(settings=settings, max_tokens=51).message


@ENDPOINTS
@pytest.mark.parametrize("value", ["100", "9999", 5.0, 9999.5, True, False, -1, [], {}])
def test_a_limit_that_is_no_natural_number_is_refused(endpoint: Endpoint, value: object) -> None:
    for field in endpoint.limit_fields:
        assert refusal(BODY_OF[endpoint.name] | {field: value}, endpoint=endpoint).param == field


def test_min_tokens_above_the_limit_are_refused() -> None:
    assert refusal(min_tokens=1025).param == "min_tokens"


# --- fields that would mislead


@pytest.mark.parametrize(
    ("endpoint", "field", "meant"),
    [
        (CHAT_COMPLETIONS, "max_new_tokens", "max_completion_tokens"),
        (CHAT_COMPLETIONS, "max_output_tokens", "max_completion_tokens"),
        (CHAT_COMPLETIONS, "num_predict", "max_completion_tokens"),
        (CHAT_COMPLETIONS, "temprature", "temperature"),
        (CHAT_COMPLETIONS, "top-p", "top_p"),
        (CHAT_COMPLETIONS, "stop_sequences", "stop"),
        (CHAT_COMPLETIONS, "num_return_sequences", "n"),
        (CHAT_COMPLETIONS, "json_schema", "response_format"),
        (CHAT_COMPLETIONS, "tool_choise", "tool_choice"),
        (COMPLETIONS, "max_new_tokens", "max_tokens"),
        (COMPLETIONS, "max_completion_tokens", "max_tokens"),
        (RESPONSES, "max_tokens", "max_output_tokens"),
        (RESPONSES, "max_completion_tokens", "max_output_tokens"),
        (MESSAGES, "max_completion_tokens", "max_tokens"),
    ],
)
def test_a_field_that_would_silently_do_nothing_is_refused_with_what_was_meant(
    endpoint: Endpoint, field: str, meant: str
) -> None:
    error = refusal(BODY_OF[endpoint.name] | {field: 5}, endpoint=endpoint)
    assert (error.param, error.code) == (field, "unknown_parameter")
    assert f"`{meant}`" in error.message


@ENDPOINTS
@pytest.mark.parametrize(
    "field",
    ["metadata", "store", "service_tier", "prompt_cache_key", "safety_identifier", "verbosity",
     "prompt_cache_retention", "modalities", "trace_id", "my_app", "customer"],
)  # fmt: skip
def test_a_clients_own_data_and_harmless_fields_of_openai_are_kept(
    endpoint: Endpoint, field: str
) -> None:
    assert (
        a_prepared(BODY_OF[endpoint.name] | {field: "x"}, endpoint=endpoint).payload[field] == "x"
    )


@ENDPOINTS
def test_no_field_that_vllm_knows_is_refused_as_unknown(endpoint: Endpoint) -> None:
    for field in KNOWN_FIELDS[endpoint.path] - {"n", "messages", "prompt"}:
        body = BODY_OF[endpoint.name] | {field: BODY_OF[endpoint.name].get(field)}
        assert a_prepared(body, endpoint=endpoint)


@pytest.mark.parametrize(
    ("fields", "refused"),
    [
        ({"logprobs": True, "top_logprobs": 20, "n": 8, "max_tokens": 1000}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 20, "n": 8, "max_tokens": 1000, "stream": True}, None),
        ({"logprobs": True, "top_logprobs": 20}, None),
        ({"logprobs": True, "n": 8}, None),
        ({"logprobs": True, "top_logprobs": 5, "n": 8}, None),
    ],
)
def test_a_whole_answer_holds_only_so_many_log_probabilities(
    fields: dict[str, Any], refused: str | None
) -> None:
    if refused is None:
        a_prepared(**fields)
        return
    with pytest.raises(RequestError, match="Stream it") as caught:
        a_prepared(**fields)
    assert caught.value.param == refused


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        (None, "missing_required_parameter"),
        ("hi", "invalid_type"),
        (5, "invalid_type"),
        ({"role": "user"}, "invalid_type"),
        (True, "invalid_type"),
    ],
)
def test_messages_that_are_no_list_are_refused_by_name(messages: object, code: str) -> None:
    with pytest.raises(RequestError) as caught:
        a_prepared({"messages": messages})
    assert (caught.value.param, caught.value.code) == ("messages", code)
