"""vLLM's validation errors, as it writes them, become sentences that name the client's field."""

import time

import pytest

from serve_app.api.engine_errors import in_plain_words, models_named

OF_TEMPERATURE = (
    "1 validation error:\n  {'type': 'float_parsing', 'loc': 'body.temperature', 'msg': 'Input "
    "should be a valid number, unable to parse string as a number', 'input': 'x'}"
)
OF_LIMIT = (
    "1 validation error:\n  {'type': 'value_error', 'loc': 'body.max_tokens', 'msg': 'Value error, "
    "max_tokens must be positive', 'input': '0', 'ctx': {'error': ValueError('max_tokens must be "
    "positive')}}"
)
OF_SCHEMA = (
    "2 validation errors:\n  {'type': 'dict_type', 'loc': 'body.response_format.json_schema.schema'"
    ", 'msg': 'Input should be an object', 'input': 'True'}\n  {'type': 'literal_error', 'loc': "
    "'body.response_format.type', 'msg': \"Input should be 'structural_tag'\", 'input': 'x'}"
)
OF_MESSAGE = (
    "2 validation errors:\n  {'type': 'missing', 'loc': "
    "'body.messages.0.ChatCompletionDeveloperMessageParam.content', 'msg': 'Field required', "
    "'input': '<dict of 0 items>'}\n  {'type': 'missing', 'loc': 'body.messages.0.str.content', "
    "'msg': 'Field required', 'input': '<dict of 0 items>'}"
)
OF_PART = (
    "2 validation errors for ValidatorIterator\n0.ChatCompletionMessageFunctionToolCallParam."
    "function\n  Field required [type=missing, input_value={}, input_type=dict]\n    For further "
    "information visit https://errors.pydantic.dev/2.14/v/missing\n0.type\n  Field required"
)


@pytest.mark.parametrize(
    ("message", "words", "field"),
    [
        (
            OF_TEMPERATURE,
            "`temperature`: Input should be a valid number, unable to parse string as a number.",
            "temperature",
        ),
        (OF_LIMIT, "`max_tokens`: max_tokens must be positive.", "max_tokens"),
        (
            OF_SCHEMA,
            "`response_format.json_schema.schema`: Input should be an object.",
            "response_format.json_schema.schema",
        ),
        (OF_MESSAGE, "`messages[0].content`: Field required.", "messages[0].content"),
        (OF_PART, "`[0].function`: Field required.", "[0].function"),
    ],
)
def test_the_field_that_was_meant_is_named_and_no_python(
    message: str, words: str, field: str
) -> None:
    assert in_plain_words(message, "body.whatever") == (words, field)


def test_other_messages_stay_as_they_are() -> None:
    said = "token_id(s) [5] in logit_bias contain out-of-vocab token ids."
    assert in_plain_words(said, "logit_bias") == (said, "logit_bias")
    assert in_plain_words(said, None) == (said, None)


@pytest.mark.parametrize(
    "message", ["3 validation errors", "1 validation error for X\n", "7 validation errors:\n  {"]
)
def test_what_is_not_understood_says_so_without_python(message: str) -> None:
    words, field = in_plain_words(message, "body.input")
    assert words == "The body does not fit the endpoint's schema."
    assert field == "input"


@pytest.mark.parametrize(
    "message",
    [
        "The model `" + " (parameter=" * 350_000 + "` does not exist.",
        "The model `" + " (parameter=" * 350_000 + ")",
        "1 validation error:\n" + "'loc': '" * 500_000,
        "1 validation error for X\n" + "a\n  b [type=" * 350_000,
        "1 validation error for X\n" + "a" * 4_000_000,
    ],
    ids=["parameters", "parameters to the end", "places", "parts", "one word"],
)
def test_what_a_client_has_written_into_a_message_takes_no_time(message: str) -> None:
    began_s = time.process_time()
    words, _ = in_plain_words(message, None)
    assert time.process_time() - began_s < 0.1
    assert len(words) <= 20_000


def test_what_vllm_adds_of_its_own_is_taken_off() -> None:
    said = "The prompt is too long. (parameter=prompt, value=5)"
    assert in_plain_words(said, "prompt") == ("The prompt is too long.", "prompt")


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ("n must be at least 1, got 0.", "n"),
        ("top_k must be 0 (disable), or at least 1, got -5.", "top_k"),
        ("min_p must be in [0, 1], got 2.0.", "min_p"),
        ("presence_penalty must be in [-2, 2], got 5.0.", "presence_penalty"),
        ("stop cannot contain an empty string.", "stop"),
        ("You must pass at least one prompt", "prompt"),
        ("Cannot apply chat template to an empty conversation.", "messages"),
        ("nothing must be as it was.", None),
        ("The model must be fed.", None),
    ],
)
def test_the_field_that_a_sentence_begins_with_is_named(message: str, field: str | None) -> None:
    assert in_plain_words(message, None) == (message, field)


@pytest.mark.parametrize(
    "message",
    [
        "'NoneType' object is not iterable",
        "string indices must be integers, not 'str'",
        "'function'",
        "'dict' object has no attribute 'strip'",
        "argument of type 'int' is not iterable",
        "allowed_token_ids is not None and empty!",
    ],
)
def test_pythons_own_words_are_kept_from_clients(message: str) -> None:
    words, _ = in_plain_words(message, "tools")
    assert words == (
        "The body does not fit the endpoint's schema: `tools` is missing, empty, or of another "
        "type (GET /openapi.json)."
    )


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("Not one is specified: {'json': None, 'regex': None}", "Not one is specified."),
        ("It cannot be converted: ['x']", "It cannot be converted."),
        ("It cannot be empty. Got bad_words=['']", "It cannot be empty."),
        ("Invalid value for `function`: `{'a': 1}`!", "Invalid value for `function`: this value!"),
    ],
)
def test_values_as_python_writes_them_are_left_out(message: str, words: str) -> None:
    assert in_plain_words(message, "x") == (words, "x")


def test_a_model_that_is_not_served_is_answered_with_all_that_are() -> None:
    said = "The model `usr` does not exist. Valid aliases: chat, micro-r1."
    assert models_named(said, ["chat", "reasoning"]) == (
        "The model `usr` does not exist. /v1 has `chat`, `reasoning`, `micro-r1`; /api/chat has "
        "`chat`, `micro-r1`."
    )
    assert models_named("Not here.", ["chat"]) == "Not here."
