"""Prompts that fill the context: the field and the code that clients know."""

from typing import Any

import pytest

from serve_app.api.engine_errors import about_context
from serve_app.api.routes import GENERATING
from serve_app.errors import RequestError, invalid
from tests.api.asgi import FakeEngine, answers, call
from tests.builders import an_edge
from tests.virtual_time import run_virtual

TOO_LONG = (
    "This model's maximum context length is 4096 tokens. However, your prompt contains 5000 input "
    "tokens, which exceeds this limit even without any output tokens. Please reduce the length of "
    "the input prompt."
)
NO_ROOM = "max_tokens must be at least 1, got 0."
FIELDS = {"/v1/completions": "prompt", "/v1/responses": "input"}


def of_vllm(message: str, param: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "BadRequestError", "param": param, "code": 400}}


@pytest.mark.parametrize("path", GENERATING)
def test_a_prompt_that_is_too_long_names_the_field_that_has_it(path: str) -> None:
    error = about_context(invalid(TOO_LONG, "input_tokens"), GENERATING[path], granted=1024)
    assert (error.param, error.code) == (FIELDS.get(path, "messages"), "context_length_exceeded")
    assert error.message == TOO_LONG


@pytest.mark.parametrize(
    "message",
    ["The engine prompt length 4096 exceeds the max_model_len 4096. Please reduce prompt."],
)
def test_each_of_vllms_endpoints_has_words_of_its_own(message: str) -> None:
    error = about_context(invalid(message, "input"), GENERATING["/v1/responses"], granted=1024)
    assert error.code == "context_length_exceeded"


def test_a_prompt_that_leaves_no_room_is_refused_as_one_and_not_that_the_limit_is_zero() -> None:
    full = about_context(invalid(NO_ROOM, "max_tokens"), GENERATING["/v1/completions"], granted=9)
    assert (full.param, full.code) == ("prompt", "context_length_exceeded")
    assert "leaves no token for an answer" in full.message


def test_a_limit_of_zero_and_all_else_stay_as_they_are() -> None:
    for error, granted in (
        (invalid(NO_ROOM, "max_tokens"), 0),
        (RequestError(404, "The model `x` does not exist.", code="model_not_found"), 9),
    ):
        assert about_context(error, GENERATING["/v1/completions"], granted=granted) is error


def test_the_edge_warns_the_client() -> None:
    engine = FakeEngine(answers(of_vllm(NO_ROOM, "max_tokens"), status=400))
    made = run_virtual(call(an_edge(engine), "/v1/chat/completions", {"messages": []}))
    assert (made.status, made.error["param"]) == (400, "messages")
    assert made.error["code"] == "context_length_exceeded"
