"""A tool without parameters takes none, and what is no tool is refused by its place."""

from typing import Any

import pytest

from serve_app.api.routes import CHAT_COMPLETIONS, COMPLETIONS, MESSAGES, RESPONSES, Endpoint
from serve_app.api.structures import complete_tools
from serve_app.errors import RequestError

NONE = {"type": "object", "properties": {}, "additionalProperties": False}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}}


def completed(tool: object, endpoint: Endpoint = CHAT_COMPLETIONS, **more: Any) -> Any:
    payload = {"tools": [tool], **more}
    complete_tools(payload, endpoint)
    return payload["tools"][0]


def refused(tool: object, endpoint: Endpoint = CHAT_COMPLETIONS, **more: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        completed(tool, endpoint, **more)
    assert caught.value.status == 400
    return caught.value


def chat_tool(**function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "now", **function}}


@pytest.mark.parametrize("given", [{}, {"parameters": None}, {"parameters": {}}], ids=str)
def test_a_tool_without_parameters_takes_none(given: dict[str, Any]) -> None:
    assert completed(chat_tool(**given)) == chat_tool(parameters=NONE)
    tool = {"type": "function", "name": "now", **given}
    assert completed(tool, RESPONSES)["parameters"] == NONE


@pytest.mark.parametrize("given", [{}, {"input_schema": None}, {"input_schema": {}}], ids=str)
def test_an_anthropic_tool_without_a_schema_takes_none(given: dict[str, Any]) -> None:
    assert completed({"name": "now", **given}, MESSAGES) == {"name": "now", "input_schema": NONE}


def test_a_schema_of_arguments_is_one_of_objects() -> None:
    assert completed(chat_tool(parameters=CITY)) == chat_tool(parameters=CITY)
    untyped = {"properties": CITY["properties"]}
    assert completed(chat_tool(parameters=untyped))["function"]["parameters"] == CITY
    reference = {"$ref": "#/$defs/A", "$defs": {"A": CITY}}
    assert completed(chat_tool(parameters=reference)) == chat_tool(parameters=reference)


@pytest.mark.parametrize(
    ("tool", "endpoint", "param"),
    [
        (None, CHAT_COMPLETIONS, "tools[0]"),
        ({}, CHAT_COMPLETIONS, "tools[0].function"),
        ({"type": "function", "name": "now"}, CHAT_COMPLETIONS, "tools[0].function"),
        ({"type": "function", "function": {}}, CHAT_COMPLETIONS, "tools[0].function.name"),
        (chat_tool(parameters=[]), CHAT_COMPLETIONS, "tools[0].function.parameters"),
        (
            chat_tool(parameters={"type": "string"}),
            CHAT_COMPLETIONS,
            "tools[0].function.parameters.type",
        ),
        (
            {"type": "function", "name": "now", "parameters": {"type": "array"}},
            RESPONSES,
            "tools[0].parameters.type",
        ),
        ({"name": "now", "input_schema": 5}, MESSAGES, "tools[0].input_schema"),
        ({"type": "web_search_20250305", "name": "web_search"}, MESSAGES, "tools[0].type"),
    ],
    ids=str,
)
def test_what_is_no_tool_is_refused_by_its_place(
    tool: object, endpoint: Endpoint, param: str
) -> None:
    assert refused(tool, endpoint).param == param


@pytest.mark.parametrize("choice", ["any", 5, {"type": "function"}, {"type": "allowed_tools"}])
def test_a_choice_that_is_none_says_what_there_is(choice: object) -> None:
    error = refused(chat_tool(), tool_choice=choice)
    assert error.param == "tool_choice"
    assert '"required"' in error.message


def test_a_choice_names_one_of_the_tools() -> None:
    choice = {"type": "function", "function": {"name": "then"}}
    assert "`then`" in refused(chat_tool(), tool_choice=choice).message
    named = {"type": "function", "function": {"name": "now"}}
    assert completed(chat_tool(), tool_choice=named) == chat_tool(parameters=NONE)


def test_a_demanded_call_keeps_to_its_schema_even_where_that_is_not_strict() -> None:
    loose = chat_tool(parameters=CITY, strict=False)
    assert completed(loose, tool_choice="required") == chat_tool(parameters=CITY)
    assert completed(loose, tool_choice="auto") == loose


def test_tools_of_another_type_or_route_are_left_alone() -> None:
    assert completed({"type": "custom", "name": "x"}, RESPONSES) == {"type": "custom", "name": "x"}
    assert completed(5, COMPLETIONS) == 5
