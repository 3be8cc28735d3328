"""Anthropic's last message of the assistant begins the answer."""

from types import SimpleNamespace
from typing import Any

import pytest

from serve_app.engine.vllm.patches.assistant_prefill import continuing_prefill

USER = {"role": "user", "content": "hi"}


def converted(*messages: dict[str, Any]) -> Any:
    request = SimpleNamespace(
        messages=list(messages), add_generation_prompt=True, continue_final_message=False
    )
    return continuing_prefill(lambda given, *, option: given)(request, option=1)


def test_a_last_message_of_the_assistant_is_continued() -> None:
    request = converted(USER, {"role": "assistant", "content": "Tom has"})
    assert (request.add_generation_prompt, request.continue_final_message) == (False, True)


@pytest.mark.parametrize(
    "last",
    [
        USER,
        {"role": "assistant", "content": ""},
        {"role": "assistant", "reasoning": "x"},
        {"role": "assistant", "content": "I look.", "tool_calls": [{"id": "1"}]},
        {"role": "tool", "content": "42"},
    ],
    ids=str,
)
def test_what_begins_no_answer_is_a_turn_of_its_own(last: dict[str, Any]) -> None:
    request = converted(USER, last)
    assert (request.add_generation_prompt, request.continue_final_message) == (True, False)


def test_no_messages_are_no_beginning() -> None:
    assert converted().add_generation_prompt is True
