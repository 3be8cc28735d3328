"""Which field of a request binds its answer to a grammar, and whether it may be handed on."""

from collections.abc import Iterator, Mapping
from typing import Any

from serve_app.api.endpoints import MESSAGES, RESPONSES
from serve_app.api.tool_schemas import tool_schemas
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
    """What names no form or several: vLLM's words for these are a list of all that there are."""
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
