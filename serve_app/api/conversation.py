"""A request's conversation as the engine's templates know it: roles, parts, tool calls, and the
prompt rules of the model's family. What a template would drop is converted or refused.

A chat template renders the roles that it knows and says nothing of the others, so a message of
another role would be lost without a word.
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from serve_app.api.routes import COMPLETIONS, MESSAGES, RESPONSES, Endpoint
from serve_app.config.answers import PromptingConfig
from serve_app.core.reasoning.prompt_rules import NO_RULES, TEXT_PARTS, PromptRules, shape_messages
from serve_app.errors import RequestError, invalid

_ROLES: Mapping[Endpoint, tuple[str, ...]] = {
    MESSAGES: ("user", "assistant", "system"),
    RESPONSES: ("user", "assistant", "system", "developer"),
}
_CHAT_ROLES = ("system", "developer", "user", "assistant", "tool")
MAX_SHOWN_CHARS = 32
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
# Whose content may be left out: an assistant may only call, and a tool may have said nothing.
_MAY_BE_SILENT = frozenset({"assistant", "tool", "function"})
# What vLLM reads as text or reasoning; pictures and sounds have been refused before.
_KNOWN_PARTS = frozenset({*TEXT_PARTS, "refusal", "thinking", "reasoning", "tool_reference"})


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


def prompt_rules(config: PromptingConfig, *, r1: bool, thinks: bool) -> PromptRules:
    """The rules of a tier: what its settings leave open, the model's family decides."""
    return PromptRules(
        fold_system=r1 if config.fold_system is None else config.fold_system,
        strip_thoughts=r1 if config.strip_thoughts is None else config.strip_thoughts,
        force_thought=thinks if config.force_thought is None else config.force_thought,
    )


def shape_prompt(
    payload: dict[str, Any], endpoint: Endpoint, rules: PromptRules, directive: str | None
) -> None:
    """Shape the conversation in place. A prompt for the legacy endpoint is the client's own."""
    if endpoint is COMPLETIONS:
        return
    if endpoint is not RESPONSES and directive is None and rules == NO_RULES:
        return
    field = "input" if endpoint is RESPONSES else "messages"
    messages = payload.get(field)
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    if not isinstance(messages, list):
        return
    begun = continues_last(payload, endpoint)
    aside = {MESSAGES: "system", RESPONSES: "instructions"}.get(endpoint)
    # Of another type it is for the engine's schema to refuse, by its own name.
    system = payload.get(aside) if aside else None
    if aside and rules.fold_system and system and isinstance(system, str | list):
        messages = [{"role": "system", "content": payload.pop(aside)}, *messages]
    shaped = shape_messages(messages, rules, directive, continues_last=begun)
    payload[field] = [_in_form(message, endpoint) for message in shaped]


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


def check_parts(message: Mapping[str, Any], place: str) -> None:
    """Raises RequestError 400 that names the content, the part of it, or the call."""
    content = message.get("content")
    if content is None and message.get("role") not in _MAY_BE_SILENT:
        raise _missing_part(f"{place}.content", "a text, or a list of parts")
    for at, part in enumerate(content if isinstance(content, list) else ()):
        _check_part(part, f"{place}.content[{at}]")
    calls = message.get("tool_calls")
    if calls is None:
        return
    if not isinstance(calls, list):
        raise _wrong_part(f"{place}.tool_calls", "a list")
    for at, call in enumerate(calls):
        _check_call(call, f"{place}.tool_calls[{at}]")


def _check_part(part: object, place: str) -> None:
    if isinstance(part, str):
        return
    if not isinstance(part, Mapping):
        raise _wrong_part(place, 'an object, such as {"type": "text", "text": "..."}')
    kind = part.get("type")
    if kind is not None and not isinstance(kind, str):
        raise _wrong_part(f"{place}.type", "a text")
    if kind in TEXT_PARTS and not isinstance(part.get("text"), str):
        if part.get("text") is None:
            raise _missing_part(f"{place}.text", "a text")
        raise _wrong_part(f"{place}.text", "a text")
    if kind not in _KNOWN_PARTS:
        named = "missing" if kind is None else f"`{kind[:MAX_SHOWN_CHARS]}`"
        raise invalid(
            f"`{place}.type` is {named}: a part of a message is of type `text`.",
            param=f"{place}.type",
        )


def _check_call(call: object, place: str) -> None:
    if not isinstance(call, Mapping):
        raise _wrong_part(place, "an object with `id` and `function`")
    if not isinstance(call.get("id"), str):
        raise _missing_part(f"{place}.id", "the id that the result's `tool_call_id` names")
    function = call.get("function")
    if not isinstance(function, Mapping):
        raise _missing_part(f"{place}.function", "an object with `name` and `arguments`")
    if not isinstance(function.get("name"), str):
        raise _missing_part(f"{place}.function.name", "a text")


def _missing_part(place: str, form: str) -> RequestError:
    message = f"`{place}` is missing: {form}."
    return RequestError(400, message, param=place, code="missing_required_parameter")


def _wrong_part(place: str, form: str) -> RequestError:
    return invalid(f"`{place}` must be {form}.", param=place, code="invalid_type")


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


def _in_form(message: Any, endpoint: Endpoint) -> Any:
    """What has been put in front of a list of parts is named as the endpoint names text."""
    content = message.get("content") if isinstance(message, dict) else None
    if endpoint is not RESPONSES or not isinstance(content, list):
        return message
    parts = [
        {**part, "type": "input_text"}
        if isinstance(part, dict) and part.get("type") == "text"
        else part
        for part in content
    ]
    return {**message, "content": parts}
