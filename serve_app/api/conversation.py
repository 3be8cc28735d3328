"""Messages as the engine's templates know them: what a template would drop is converted or refused.

A chat template renders the roles that it knows and says nothing of the others, so a message of
another role would be lost without a word.
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from serve_app.api.endpoints import MESSAGES, RESPONSES, Endpoint
from serve_app.api.message_parts import check_parts
from serve_app.core.reasoning.prompt_rules import TEXT_PARTS
from serve_app.errors import RequestError, invalid

_ROLES: Mapping[Endpoint, tuple[str, ...]] = {
    MESSAGES: ("user", "assistant", "system"),
    RESPONSES: ("user", "assistant", "system", "developer"),
}
_CHAT_ROLES = ("system", "developer", "user", "assistant", "tool")
# What other interfaces call them.
_MEANT = {
    "ai": "assistant",
    "bot": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "human": "user",
    "customer": "user",
    "ipython": "tool",
    "tool_result": "tool",
    "function": "tool",
    "instructions": "system",
}
_TOOL_RESULTS: Mapping[Endpoint, str] = {
    MESSAGES: "the result of a tool is a block `tool_result` of a message of role `user`",
    RESPONSES: "the result of a tool is an item of type `function_call_output`",
}
MAX_SHOWN_CHARS = 32


def take_conversation(payload: dict[str, Any], endpoint: Endpoint) -> None:
    """Write the conversation as the endpoint's templates know it, in place: OpenAI's older
    `function_call` and its results as tool calls, and a reply to be continued as vLLM names it.
    Raises RequestError 400 that names the message."""
    field = "input" if endpoint is RESPONSES else "messages"
    messages = payload.get(field)
    if not isinstance(messages, list):
        return
    for index, message in enumerate(messages):
        _check(message, f"{field}[{index}]", endpoint)
        if endpoint not in _ROLES:
            check_parts(message, f"{field}[{index}]")
    if endpoint is MESSAGES:
        payload[field] = _continuable(messages)
    elif endpoint is not RESPONSES:
        payload[field] = _with_tool_calls(messages)
        _take_continuation(payload)


def continues_last(payload: Mapping[str, Any], endpoint: Endpoint) -> bool:
    """Whether the last message is the beginning of the answer. To be asked behind
    `take_conversation`."""
    if endpoint is not MESSAGES:
        return payload.get("continue_final_message") is True
    messages = payload.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    return isinstance(last, Mapping) and _is_prefill(last)


def _check(message: object, place: str, endpoint: Endpoint) -> None:
    if not isinstance(message, Mapping):
        # An item of `input` may be many things, of which vLLM's schema knows the list.
        if endpoint is RESPONSES:
            return
        raise invalid(f"`{place}` must be an object.", param=place, code="invalid_type")
    role = message.get("role")
    roles = _ROLES.get(endpoint, _CHAT_ROLES)
    if endpoint is RESPONSES and (role is None or message.get("type", "message") != "message"):
        return
    if role is None:
        raise RequestError(
            400,
            f"`{place}.role` is missing: one of {_listed(roles)}.",
            param=f"{place}.role",
            code="missing_required_parameter",
        )
    if not isinstance(role, str):
        raise invalid(
            f"`{place}.role` must be a text: one of {_listed(roles)}.",
            param=f"{place}.role",
            code="invalid_type",
        )
    converted = endpoint not in _ROLES and role == "function"
    if role not in roles and not converted:
        raise _unknown_role(role, f"{place}.role", roles, endpoint)


def _unknown_role(role: str, place: str, roles: Sequence[str], endpoint: Endpoint) -> RequestError:
    lowered = role.strip().lower()
    meant = _MEANT.get(lowered, lowered)
    advice = ""
    if meant == "tool" and endpoint in _TOOL_RESULTS:
        advice = f": {_TOOL_RESULTS[endpoint]}"
    elif close := get_close_matches(meant[:MAX_SHOWN_CHARS], roles, n=1, cutoff=0.6):
        advice = f"; did you mean `{close[0]}`?"
    shown = role[:MAX_SHOWN_CHARS]
    return invalid(
        f"`{place}` is `{shown}`, which is none of {_listed(roles)}{advice}", param=place
    )


def _listed(roles: Sequence[str]) -> str:
    *most, last = (f"`{role}`" for role in roles)
    return f"{', '.join(most)} and {last}"


def _with_tool_calls(messages: Sequence[Any]) -> list[Any]:
    """OpenAI's interface had functions before tools: one call in a message, and its result under
    the function's name. A result without a call before it keeps its place and text too."""
    converted: list[Any] = []
    waiting: dict[str, str] = {}
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            converted.append(message)
        elif message["role"] == "function":
            converted.append(_tool_message(message, index, waiting))
        elif message.get("function_call") is not None and message["role"] == "assistant":
            converted.append(_calling_message(message, index, waiting))
        else:
            converted.append(message)
    return converted


def _calling_message(
    message: Mapping[str, Any], index: int, waiting: dict[str, str]
) -> dict[str, Any]:
    place, call = f"messages[{index}].function_call", message["function_call"]
    name = call.get("name") if isinstance(call, Mapping) else None
    if not isinstance(name, str):
        raise invalid(f"`{place}` must have a `name` and `arguments`.", param=place)
    if message.get("tool_calls"):
        raise invalid(f"Send `tool_calls` or `{place}`, not both.", param=place)
    call_id = waiting[name] = f"call_{index}"
    function = {"name": name, "arguments": call.get("arguments") or "{}"}
    kept = {key: value for key, value in message.items() if key != "function_call"}
    kept.setdefault("content", None)
    return {**kept, "tool_calls": [{"id": call_id, "type": "function", "function": function}]}


def _tool_message(
    message: Mapping[str, Any], index: int, waiting: dict[str, str]
) -> dict[str, Any]:
    name = message.get("name")
    if not isinstance(name, str):
        place = f"messages[{index}].name"
        raise invalid(
            f"`{place}` must name the function whose result this is. `function` messages are the "
            "older form: a message of role `tool` with its `tool_call_id` says the same.",
            param=place,
        )
    content = message.get("content")
    call_id = waiting.pop(name, f"call_{name}")
    return {
        "role": "tool",
        "name": name,
        "tool_call_id": call_id,
        "content": "" if content is None else content,
    }


def _take_continuation(payload: dict[str, Any]) -> None:
    """DeepSeek's and Mistral's word for a reply that is to be continued is `prefix` in it."""
    messages = payload["messages"]
    last = messages[-1] if messages else None
    if isinstance(last, Mapping) and last.get("role") == "assistant" and "prefix" in last:
        payload["messages"] = [
            *messages[:-1],
            {name: value for name, value in last.items() if name != "prefix"},
        ]
        if last["prefix"] is True:
            payload["continue_final_message"] = True
    if payload.get("continue_final_message") is True:
        # vLLM's default asks for a new reply as well, which the template then refuses.
        payload.setdefault("add_generation_prompt", False)


def _continuable(messages: list[Any]) -> list[Any]:
    """Anthropic's clients begin the answer with a last message of the assistant. An empty one
    begins nothing."""
    if not messages or messages[-1].get("role") != "assistant":
        return messages
    content = messages[-1].get("content")
    if isinstance(content, str) or (
        isinstance(content, list) and all(_kind(part) == "text" for part in content)
    ):
        return messages if _text_of(content).strip() else messages[:-1]
    if isinstance(content, list) and not _is_prefill(messages[-1]) and _only_thinks(content):
        place = f"messages[{len(messages) - 1}].content"
        raise invalid(
            f"`{place}` has no text to continue: reasoning is not continued. Leave the message "
            "out, or begin the answer with a block of type `text`.",
            param=place,
        )
    return messages


def _is_prefill(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    if message.get("role") != "assistant" or not _text_of(content).strip():
        return False
    return isinstance(content, str) or all(_kind(part) != "tool_use" for part in content or ())


def _only_thinks(parts: Sequence[Any]) -> bool:
    thoughts = ("thinking", "redacted_thinking", "text")
    return bool(parts) and all(_kind(part) in thoughts for part in parts)


def _kind(part: object) -> object:
    return part.get("type") if isinstance(part, Mapping) else None


def _text_of(content: object) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = (
        part.get("text")
        for part in content
        if isinstance(part, Mapping) and part.get("type") in TEXT_PARTS
    )
    return "".join(text for text in texts if isinstance(text, str))
