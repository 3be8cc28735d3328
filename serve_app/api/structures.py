"""What binds an answer to a grammar: tools, response formats and `structured_outputs`, with the
bounds on their schemas.

vLLM reads a tool without parameters as one that takes anything, whose arguments a model then makes
up; OpenAI reads it as one that takes none.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from serve_app.api.routes import COMPLETIONS, MESSAGES, RESPONSES, Endpoint
from serve_app.core.structure.schema_limits import (
    Refusal,
    SchemaLimits,
    refusal_of_choices,
    refusal_of_draft,
    refusal_of_schema,
    refusal_of_text,
)
from serve_app.errors import RequestError, invalid

# In the order in which vLLM takes them, where several are asked for.
_KINDS = ("json", "json_object", "regex", "choice", "grammar", "structural_tag")
# What stands around the schemas of a field: tools, functions, tags.
WRAPPER_NESTING = 16
# Where a body has none of these, nothing binds its answer and there is no schema in it.
STRUCTURE_FIELDS = frozenset(
    {"tools", "response_format", "text", "output_config", "structured_outputs"}
)
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


def binding_field(payload: Mapping[str, Any], endpoint_name: str) -> str | None:
    """The field that binds the answer to a grammar, for an error to name. vLLM binds calls to their
    tools' schemas where the model may call, too."""
    field = structure_field(payload, endpoint_name)
    return field or ("tools" if payload.get("tools") else None)


def structure_field(payload: Mapping[str, Any], endpoint_name: str) -> str | None:
    """The field, as an error names it; None where nothing binds the answer. vLLM lets tools that
    must be called win over a format, and a format over `structured_outputs`."""
    if payload.get("tools") and _calls_are_bound(payload, endpoint_name):
        return "tools"
    if endpoint_name == RESPONSES.name:
        form, name = _part(_part(payload, "text"), "format"), "text.format"
    elif endpoint_name == MESSAGES.name:
        form, name = _part(_part(payload, "output_config"), "format"), "output_config.format"
    else:
        form, name = _part(payload, "response_format"), "response_format"
    # Of any type, as everything that a client sends.
    if form.get("type") is not None and form["type"] != "text":
        return name
    asked = _part(payload, "structured_outputs")
    kind = next((kind for kind in _KINDS if asked.get(kind) is not None), None)
    return None if kind is None else f"structured_outputs.{kind}"


def refuse_structures(payload: Mapping[str, Any], endpoint_name: str, limits: SchemaLimits) -> None:
    """Raise RequestError 400 for what no compiler, template or schema of vLLM's should see. To be
    asked before vLLM's handlers, which walk through it on the event loop."""
    for field, value in _structures(payload, endpoint_name):
        _refuse_where(field, _refusal_of(field, value, limits))
    _refuse_no_form(payload)
    if payload.get("tool_choice") != "none":
        for field, schema in tool_schemas(payload, endpoint_name):
            _refuse_where(field, refusal_of_draft(schema))
    for field, value in _structures(payload, endpoint_name):
        if field not in ("tools", "structured_outputs.choice"):
            _refuse_where(field, refusal_of_draft(value))


def _refuse_where(field: str, refusal: Refusal | None) -> None:
    if refusal is not None:
        raise invalid(f"`{field}` is refused. {refusal.message}", param=field, code=refusal.code)


def _refuse_no_form(payload: Mapping[str, Any]) -> None:
    """What names no form or several: vLLM answers these with a list of all that there are."""
    form = _part(payload, "response_format")
    named = form.get("json_schema")
    if form.get("type") == "json_schema" and isinstance(named, Mapping):
        field = "response_format.json_schema.schema"
        if named.get("schema") is None:
            raise RequestError(
                400, f"`{field}` is missing.", param=field, code="missing_required_parameter"
            )
    asked = payload.get("structured_outputs")
    if not isinstance(asked, Mapping):
        return
    kinds = [kind for kind in _KINDS if asked.get(kind) is not None]
    if len(kinds) != 1:
        given = "none" if not kinds else " and ".join(f"`{kind}`" for kind in kinds)
        raise invalid(
            f"`structured_outputs` must have one of {', '.join(f'`{kind}`' for kind in _KINDS)}; "
            f"it has {given}.",
            param="structured_outputs",
        )


def _calls_are_bound(payload: Mapping[str, Any], endpoint_name: str) -> bool:
    choice = payload.get("tool_choice")
    if endpoint_name == MESSAGES.name:
        return _part(payload, "tool_choice").get("type") in ("any", "tool") or _is_strict(payload)
    if isinstance(choice, Mapping) or choice == "required":
        return True
    if choice == "none":
        return False
    return payload.get("parallel_tool_calls") is False or _is_strict(payload)


def _is_strict(payload: Mapping[str, Any]) -> bool:
    tools = payload.get("tools")
    return isinstance(tools, list) and any(
        isinstance(tool, Mapping)
        and (tool.get("strict") is True or _part(tool, "function").get("strict") is True)
        for tool in tools
    )


def _structures(payload: Mapping[str, Any], endpoint_name: str) -> Iterator[tuple[str, Any]]:
    """Fields that hold schemas, and each kind of `structured_outputs`."""
    if endpoint_name == RESPONSES.name:
        yield "text.format", _part(payload, "text").get("format")
    elif endpoint_name == MESSAGES.name:
        yield "output_config.format", _part(payload, "output_config").get("format")
    else:
        yield "response_format", payload.get("response_format")
    yield "tools", payload.get("tools")
    asked = payload.get("structured_outputs")
    if asked is not None and not isinstance(asked, Mapping):
        yield "structured_outputs", asked
        return
    for kind in _KINDS:
        yield f"structured_outputs.{kind}", _part(payload, "structured_outputs").get(kind)


def _refusal_of(field: str, value: Any, limits: SchemaLimits) -> Refusal | None:
    if value is None:
        return None
    if field == "structured_outputs":
        return Refusal("structure_invalid", "It must be an object.")
    kind = field.removeprefix("structured_outputs.")
    if kind == "choice":
        return refusal_of_choices(value, limits)
    if kind in ("regex", "grammar"):
        if not isinstance(value, str):
            return Refusal("structure_invalid", "It must be a text.")
        return refusal_of_text(value, limits)
    if isinstance(value, str):
        # JSON as text is parsed by the guard, and walked through then.
        size_bytes = len(value.encode("utf-8", "surrogatepass"))
        over = size_bytes > limits.max_bytes
        return refusal_of_schema(value, limits) if over else None
    wrapped = SchemaLimits(limits.max_bytes, limits.max_nesting + WRAPPER_NESTING, limits.max_nodes)
    return refusal_of_schema(value, limits if kind == "json" else wrapped)


def _part(payload: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = payload.get(name)
    return value if isinstance(value, Mapping) else {}


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


def _of_form(place: str, form: str, given: object) -> RequestError:
    if given is None:
        return RequestError(
            400,
            f"`{place}` is missing: {form}.",
            param=place,
            code="missing_required_parameter",
        )
    return invalid(f"`{place}` must be {form}.", param=place, code="invalid_type")


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


def _check_choice(payload: Mapping[str, Any]) -> None:
    """Of chat completions: vLLM's errors for these repeat the request as Python."""
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
