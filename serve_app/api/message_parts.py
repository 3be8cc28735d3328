"""The parts of a message of chat completions, refused by their own place where they are none.

vLLM reads them late, one message at a time, and names a part by its number alone.
"""

from collections.abc import Mapping
from typing import Any

from serve_app.core.reasoning.prompt_rules import TEXT_PARTS
from serve_app.errors import RequestError, invalid

# Whose content may be left out: an assistant may only call, and a tool may have said nothing.
_MAY_BE_SILENT = frozenset({"assistant", "tool", "function"})
# What vLLM reads as text or reasoning; pictures and sounds have been refused before.
_KNOWN_PARTS = frozenset({*TEXT_PARTS, "refusal", "thinking", "reasoning", "tool_reference"})
MAX_SHOWN_CHARS = 32


def check_parts(message: Mapping[str, Any], place: str) -> None:
    """Raises RequestError 400 that names the content, the part of it, or the call."""
    content = message.get("content")
    if content is None and message.get("role") not in _MAY_BE_SILENT:
        raise _missing(f"{place}.content", "a text, or a list of parts")
    for at, part in enumerate(content if isinstance(content, list) else ()):
        _check_part(part, f"{place}.content[{at}]")
    calls = message.get("tool_calls")
    if calls is None:
        return
    if not isinstance(calls, list):
        raise _wrong(f"{place}.tool_calls", "a list")
    for at, call in enumerate(calls):
        _check_call(call, f"{place}.tool_calls[{at}]")


def _check_part(part: object, place: str) -> None:
    if isinstance(part, str):
        return
    if not isinstance(part, Mapping):
        raise _wrong(place, 'an object, such as {"type": "text", "text": "..."}')
    kind = part.get("type")
    if kind is not None and not isinstance(kind, str):
        raise _wrong(f"{place}.type", "a text")
    if kind in TEXT_PARTS and not isinstance(part.get("text"), str):
        if part.get("text") is None:
            raise _missing(f"{place}.text", "a text")
        raise _wrong(f"{place}.text", "a text")
    if kind not in _KNOWN_PARTS:
        named = "missing" if kind is None else f"`{kind[:MAX_SHOWN_CHARS]}`"
        raise invalid(
            f"`{place}.type` is {named}: a part of a message is of type `text`.",
            param=f"{place}.type",
        )


def _check_call(call: object, place: str) -> None:
    if not isinstance(call, Mapping):
        raise _wrong(place, "an object with `id` and `function`")
    if not isinstance(call.get("id"), str):
        raise _missing(f"{place}.id", "the id that the result's `tool_call_id` names")
    function = call.get("function")
    if not isinstance(function, Mapping):
        raise _missing(f"{place}.function", "an object with `name` and `arguments`")
    if not isinstance(function.get("name"), str):
        raise _missing(f"{place}.function.name", "a text")


def _missing(place: str, form: str) -> RequestError:
    message = f"`{place}` is missing: {form}."
    return RequestError(400, message, param=place, code="missing_required_parameter")


def _wrong(place: str, form: str) -> RequestError:
    return invalid(f"`{place}` must be {form}.", param=place, code="invalid_type")
