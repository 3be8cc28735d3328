"""No message is lost in a template: roles are known, converted, or refused by their place."""

from typing import Any

import pytest

from serve_app.api.conversation import continues_last, take_conversation
from serve_app.api.routes import CHAT_COMPLETIONS, MESSAGES, RESPONSES, Endpoint
from serve_app.errors import RequestError

USER = {"role": "user", "content": "hi"}


def taken(messages: list[Any], endpoint: Endpoint = CHAT_COMPLETIONS) -> dict[str, Any]:
    field = "input" if endpoint is RESPONSES else "messages"
    payload = {field: messages}
    take_conversation(payload, endpoint)
    return payload


def refused(messages: list[Any], endpoint: Endpoint = CHAT_COMPLETIONS) -> RequestError:
    with pytest.raises(RequestError) as caught:
        taken(messages, endpoint)
    assert caught.value.status == 400
    return caught.value


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool"])
def test_known_roles_stay_as_they_are(role: str) -> None:
    messages = [USER, {"role": role, "content": "x", "tool_call_id": "1"}]
    assert taken(messages) == {"messages": messages}


@pytest.mark.parametrize(
    ("role", "meant"),
    [
        ("usr", "user"),
        ("User", "user"),
        ("human", "user"),
        ("assistent", "assistant"),
        ("model", "assistant"),
        ("sytem", "system"),
        ("ipython", "tool"),
    ],
)
def test_an_unknown_role_is_refused_with_what_was_meant(role: str, meant: str) -> None:
    error = refused([USER, {"role": role, "content": "x"}])
    assert error.param == "messages[1].role"
    assert f"did you mean `{meant}`?" in error.message
    assert "`system`, `developer`, `user`, `assistant` and `tool`" in error.message


def test_a_role_that_is_like_none_is_refused_without_a_guess() -> None:
    error = refused([{"role": "x" * 100_000, "content": "x"}])
    assert "did you mean" not in error.message
    assert len(error.message) < 200


@pytest.mark.parametrize("endpoint", [CHAT_COMPLETIONS, MESSAGES], ids=lambda e: e.name)
@pytest.mark.parametrize(
    ("message", "param"),
    [
        (None, "messages[1]"),
        ("hi", "messages[1]"),
        ({"content": "x"}, "messages[1].role"),
        ({"role": None, "content": "x"}, "messages[1].role"),
        ({"role": 5, "content": "x"}, "messages[1].role"),
    ],
    ids=str,
)
def test_what_is_no_message_is_refused_by_its_place(
    endpoint: Endpoint, message: object, param: str
) -> None:
    assert refused([USER, message], endpoint).param == param


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "user"}, "content"),
        ({"role": "user", "content": [None]}, "content[0]"),
        ({"role": "user", "content": [{"type": "text"}]}, "content[0].text"),
        ({"role": "user", "content": [{"type": "text", "text": 5}]}, "content[0].text"),
        ({"role": "user", "content": [{"type": "foo", "text": "x"}]}, "content[0].type"),
        ({"role": "user", "content": [{"text": "x"}]}, "content[0].type"),
        ({"role": "assistant", "tool_calls": 5}, "tool_calls"),
        ({"role": "assistant", "tool_calls": [{}]}, "tool_calls[0].id"),
        ({"role": "assistant", "tool_calls": [{"id": "a"}]}, "tool_calls[0].function"),
        (
            {"role": "assistant", "tool_calls": [{"id": "a", "function": {}}]},
            "tool_calls[0].function.name",
        ),
    ],
    ids=str,
)
def test_a_wrong_part_of_a_message_is_refused_by_its_place(
    message: dict[str, Any], param: str
) -> None:
    assert refused([message]).param == f"messages[0].{param}"


def test_a_functions_call_and_result_are_a_tools() -> None:
    call = {"name": "w", "arguments": '{"city": "Paris"}'}
    messages = [
        USER,
        {"role": "assistant", "content": None, "function_call": call},
        {"role": "function", "name": "w", "content": "42"},
    ]
    _, calling, result = taken(messages)["messages"]
    (made,) = calling["tool_calls"]
    assert made["function"] == call
    assert "function_call" not in calling
    assert result == {"role": "tool", "name": "w", "tool_call_id": made["id"], "content": "42"}


def test_a_functions_result_without_a_call_keeps_its_text() -> None:
    _, result = taken([USER, {"role": "function", "name": "w", "content": "42"}])["messages"]
    assert (result["role"], result["content"]) == ("tool", "42")
    nameless = refused([USER, {"role": "function", "content": "42"}])
    assert nameless.param == "messages[1].name"
    assert "`tool_call_id`" in nameless.message


def test_other_endpoints_say_how_a_result_is_sent() -> None:
    result = {"role": "tool", "content": "42"}
    assert "`tool_result`" in refused([USER, result], MESSAGES).message
    error = refused([USER, result], RESPONSES)
    assert error.param == "input[1].role"
    assert "`function_call_output`" in error.message


def test_items_of_responses_that_are_no_messages_stay() -> None:
    items = [{"type": "function_call_output", "call_id": "1", "output": "42"}, "x", USER]
    assert taken(items, RESPONSES) == {"input": items}


def test_a_prefix_is_continued() -> None:
    payload = taken([USER, {"role": "assistant", "content": "Tom has", "prefix": True}])
    assert payload["messages"][-1] == {"role": "assistant", "content": "Tom has"}
    assert (payload["continue_final_message"], payload["add_generation_prompt"]) == (True, False)
    assert continues_last(payload, CHAT_COMPLETIONS)
    plain = taken([USER, {"role": "assistant", "content": "Tom has", "prefix": False}])
    assert not continues_last(plain, CHAT_COMPLETIONS)


@pytest.mark.parametrize(
    ("content", "continued"),
    [
        ("Tom has", True),
        ([{"type": "text", "text": "Tom has"}], True),
        ([{"type": "thinking", "thinking": "x"}, {"type": "text", "text": "Tom"}], True),
        ([{"type": "text", "text": "a"}, {"type": "tool_use", "id": "1", "name": "f"}], False),
    ],
)
def test_anthropics_last_message_begins_the_answer(content: object, continued: bool) -> None:
    payload = taken([USER, {"role": "assistant", "content": content}], MESSAGES)
    assert continues_last(payload, MESSAGES) is continued


@pytest.mark.parametrize("content", ["", " \n", [], [{"type": "text", "text": ""}]])
def test_an_empty_beginning_begins_nothing(content: object) -> None:
    assert taken([USER, {"role": "assistant", "content": content}], MESSAGES) == {
        "messages": [USER]
    }


def test_a_thought_alone_cannot_be_continued() -> None:
    thought = {"role": "assistant", "content": [{"type": "thinking", "thinking": "x"}]}
    assert refused([USER, thought], MESSAGES).param == "messages[1].content"
