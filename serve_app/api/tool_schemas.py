"""The tools of a request, each with a schema of its arguments that says what the client means.

vLLM reads a tool without parameters as one that takes anything, whose arguments a model then makes
up; OpenAI reads it as one that takes none.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from serve_app.api.endpoints import COMPLETIONS, MESSAGES, RESPONSES, Endpoint
from serve_app.errors import RequestError, invalid

NO_ARGUMENTS: Mapping[str, Any] = {
    "type": "object",
    "properties": {},
    "additionalProperties": False,
}
# Beside one of these a schema needs no `type` to be one of objects.
_OTHER_FORMS = frozenset({"$ref", "allOf", "anyOf", "oneOf", "enum", "const", "not", "if"})


def complete_tools(payload: dict[str, Any], endpoint: Endpoint) -> None:
    """Write out what a tool leaves out, in place. Raises RequestError 400 that names the tool
    whose form or schema is no tool's."""
    tools = payload.get("tools")
    if endpoint is COMPLETIONS or tools is None:
        return
    if not isinstance(tools, list):
        raise invalid("`tools` must be a list.", param="tools", code="invalid_type")
    completed = [_completed(tool, at, endpoint) for at, tool in enumerate(tools)]
    payload["tools"] = [*map(_strictly, completed)] if _demands_call(payload) else completed
    if endpoint not in (MESSAGES, RESPONSES):
        _check_choice(payload)


def tool_schemas(payload: Mapping[str, Any], endpoint_name: str) -> Iterator[tuple[str, Any]]:
    """The schema of each tool's arguments, with its place."""
    tools = payload.get("tools")
    for at, tool in enumerate(tools if isinstance(tools, list) else ()):
        if not isinstance(tool, Mapping):
            continue
        if endpoint_name == MESSAGES.name:
            yield f"tools[{at}].input_schema", tool.get("input_schema")
        elif endpoint_name == RESPONSES.name:
            yield f"tools[{at}].parameters", tool.get("parameters")
        elif isinstance(function := tool.get("function"), Mapping):
            yield f"tools[{at}].function.parameters", function.get("parameters")


def _completed(tool: object, at: int, endpoint: Endpoint) -> Any:
    place = f"tools[{at}]"
    if not isinstance(tool, Mapping):
        raise invalid(f"`{place}` must be an object.", param=place, code="invalid_type")
    if endpoint is MESSAGES:
        if tool.get("type") not in (None, "custom"):
            raise invalid(
                f"`{place}.type` must be `custom`, or left out: tools of Anthropic's own are not "
                "known here. Describe the tool by its `name` and `input_schema`.",
                param=f"{place}.type",
            )
        return _with_schema(tool, "input_schema", place)
    if endpoint is RESPONSES:
        return _with_schema(tool, "parameters", place) if tool.get("type") == "function" else tool
    if "function" not in tool and "name" in tool:
        raise invalid(
            f'`{place}` has its `name` beside `type`: send {{"type": "function", "function": '
            '{"name": ..., "parameters": ...}}.',
            param=f"{place}.function",
        )
    function = tool.get("function")
    if not isinstance(function, Mapping):
        raise _of_form(f"{place}.function", "an object with a `name` and `parameters`", function)
    if not isinstance(function.get("name"), str):
        raise _of_form(f"{place}.function.name", "a text", function.get("name"))
    return {**tool, "function": _with_schema(function, "parameters", f"{place}.function")}


def _with_schema(owner: Mapping[str, Any], name: str, place: str) -> dict[str, Any]:
    schema = owner.get(name)
    place = f"{place}.{name}"
    if schema is None or schema == {}:
        return {**owner, name: dict(NO_ARGUMENTS)}
    if not isinstance(schema, Mapping):
        raise invalid(f"`{place}` must be a JSON schema.", param=place, code="invalid_type")
    kind = schema.get("type")
    if kind is None and not _OTHER_FORMS & schema.keys():
        return {**owner, name: {**schema, "type": "object"}}
    if kind is not None and kind != "object" and not (isinstance(kind, list) and "object" in kind):
        raise invalid(
            f'`{place}.type` must be "object": the arguments of a call are named.',
            param=f"{place}.type",
        )
    return {**owner, name: schema}


def _demands_call(payload: Mapping[str, Any]) -> bool:
    """By the choice of any endpoint; Anthropic's is an object always."""
    choice = payload.get("tool_choice")
    if isinstance(choice, Mapping):
        return choice.get("type") not in ("auto", "none")
    return choice == "required"


def _strictly(tool: dict[str, Any]) -> dict[str, Any]:
    """vLLM lets a tool whose `strict` is false have any arguments, no object even. A call that is
    demanded keeps to the schema all the same."""
    function = tool.get("function")
    if isinstance(function, Mapping) and function.get("strict") is False:
        tool = {**tool, "function": {k: v for k, v in function.items() if k != "strict"}}
    return {k: v for k, v in tool.items() if k != "strict" or v is not False}


def _of_form(place: str, form: str, given: object) -> RequestError:
    if given is None:
        return RequestError(
            400,
            f"`{place}` is missing: {form}.",
            param=place,
            code="missing_required_parameter",
        )
    return invalid(f"`{place}` must be {form}.", param=place, code="invalid_type")


def _check_choice(payload: Mapping[str, Any]) -> None:
    """Of chat completions: vLLM's words for these repeat the request in Python's."""
    choice, names = payload.get("tool_choice"), [_name(tool) for tool in payload["tools"]]
    if choice is None or choice in ("none", "auto", "required"):
        return
    if isinstance(choice, Mapping) and choice.get("type", "function") == "function":
        function = choice.get("function")
        name = function.get("name") if isinstance(function, Mapping) else None
        if isinstance(name, str):
            if name in names:
                return
            raise invalid(
                f"`tool_choice` names `{name[:64]}`, which is none of the `tools`.",
                param="tool_choice",
            )
    raise invalid(
        '`tool_choice` must be "none", "auto", "required", or '
        '{"type": "function", "function": {"name": ...}}.',
        param="tool_choice",
    )


def _name(tool: Mapping[str, Any]) -> Any:
    return tool["function"]["name"]
