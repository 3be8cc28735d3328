"""The prompt rules of the DeepSeek-R1 distills: what a conversation becomes before its template.

The makers' own advice (model card, "Usage Recommendations"): no system prompt, every instruction in
the user's message; each reply begins with a thought; mathematics asks for steps and a boxed answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

# Word for word from the model card of deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B.
MATH_DIRECTIVE = r"Please reason step by step, and put your final answer within \boxed{}."
BOXED = r"\boxed"
SYSTEM_ROLES = ("system", "developer")
# The last two are of the Responses endpoint.
TEXT_PARTS = ("text", "input_text", "output_text")
THOUGHT_START, THOUGHT_END = "<think>", "</think>"
# As the models' makers write a thought that is not to be.
NO_THOUGHT = "<think>\n\n</think>\n\n"
# Under both names servers give a thought back, and clients send it again with the history.
REASONING_FIELDS = frozenset({"reasoning", "reasoning_content"})


@dataclass(frozen=True, slots=True)
class PromptRules:
    """`force_thought` is for the answer guard, which opens it behind the prompt's ids: messages
    cannot do it."""

    fold_system: bool
    strip_thoughts: bool
    force_thought: bool


NO_RULES = PromptRules(fold_system=False, strip_thoughts=False, force_thought=False)
R1_RULES = PromptRules(fold_system=True, strip_thoughts=True, force_thought=True)


def shape_messages(
    messages: Sequence[Mapping[str, Any]],
    rules: PromptRules,
    task_directive: str | None,
    *,
    continues_last: bool = False,
) -> list[dict[str, Any]]:
    """The messages as the rules want them; the input stays as it is.

    With `continues_last` the last message is the beginning of the answer, so its thought is no
    history and stays; one that begins with the answer itself gets an empty thought in front, since
    the model would think in the midst of it. What has an unexpected shape is left for the engine's
    validation to refuse.
    """
    shaped: list[Any] = list(messages)
    if rules.fold_system:
        shaped = _fold_system(shaped)
    if rules.strip_thoughts:
        past = len(shaped) - continues_last
        shaped = [*map(_without_thought, shaped[:past]), *shaped[past:]]
    if continues_last and rules.force_thought and shaped:
        shaped = [*shaped[:-1], _behind_thought(_fields(shaped[-1]))]
    if task_directive:
        shaped = _directed(shaped, task_directive)
    return [
        dict(_fields(message)) if isinstance(message, Mapping) else message for message in shaped
    ]


def _fields(message: Any) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", message) if isinstance(message, Mapping) else {}


def _positions(messages: Sequence[Any], role: str) -> list[int]:
    return [at for at, message in enumerate(messages) if _fields(message).get("role") == role]


def _is_text(part: Any) -> bool:
    fields = _fields(part)
    return fields.get("type") in TEXT_PARTS and isinstance(fields.get("text"), str)


def _parts(content: Any) -> list[Any] | None:
    return cast("list[Any]", content) if isinstance(content, list) else None


def _text(content: Any) -> str | None:
    """All text of a message, parts joined as vLLM joins them; None where there is no content."""
    if isinstance(content, str):
        return content
    parts = _parts(content)
    if parts is None:
        return None
    return "\n".join(_fields(part)["text"] for part in parts if _is_text(part))


def _system_text(message: Any) -> str | None:
    """None for a message that is no system message, or one that cannot be folded."""
    fields = _fields(message)
    if fields.get("role") not in SYSTEM_ROLES:
        return None
    content = fields.get("content")
    if not all(map(_is_text, _parts(content) or [])):
        return None
    return _text(content)


def _fold_system(messages: list[Any]) -> list[Any]:
    found = {at: text for at, m in enumerate(messages) if (text := _system_text(m)) is not None}
    if not found:
        return messages
    folded = "\n\n".join(filter(None, found.values()))
    users = _positions(messages, "user")
    if not users:
        at, user = min(found), {"role": "user", "content": folded}
    else:
        at, user = users[0], _prefixed(_fields(messages[users[0]]), folded)
    if user is None:
        return messages
    placed = [*messages[:at], user, *messages[at + 1 :]]
    return [message for index, message in enumerate(placed) if index == at or index not in found]


def _prefixed(user: Mapping[str, Any], text: str) -> Mapping[str, Any] | None:
    """The user's message with `text` in front; None where its content is neither text nor parts."""
    content = user.get("content")
    if isinstance(content, str):
        return {**user, "content": "\n\n".join(filter(None, (text, content)))}
    parts = _parts(content)
    if parts is None:
        return None
    return {**user, "content": [{"type": "text", "text": text}, *parts] if text else parts}


def _without_thought(message: Any) -> Any:
    fields = _fields(message)
    if fields.get("role") != "assistant":
        return message
    kept = {name: value for name, value in fields.items() if name not in REASONING_FIELDS}
    content = kept.get("content")
    parts = _parts(content)
    if isinstance(content, str):
        kept["content"] = _answer_in(content)
    elif parts is not None:
        kept["content"] = _answer_parts(parts)
    return kept


def _answer_in(text: str) -> str:
    """What follows the thought. A thought that is never closed goes to the end of the text."""
    _, closed, after = text.rpartition(THOUGHT_END)
    answer = after.lstrip() if closed else text
    before, opened, _ = answer.partition(THOUGHT_START)
    return before.rstrip() if opened else answer


def _answer_parts(parts: list[Any]) -> list[Any] | str:
    """A thought may reach over several text parts; parts of other kinds, such as calls, stay."""
    texts = [_fields(part)["text"] if _is_text(part) else None for part in parts]
    ends = [at for at, text in enumerate(texts) if text is not None and THOUGHT_END in text]
    first = ends[-1] if ends else 0
    kept: list[Any] = []
    open_thought = False
    for at, (part, text) in enumerate(zip(parts, texts, strict=True)):
        if text is None:
            # Mistral's and Anthropic's form of a thought, which vLLM would render as plain text.
            if _fields(part).get("type") != "thinking":
                kept.append(part)
            continue
        if at < first or open_thought:
            continue
        answer = _answer_in(text)
        open_thought = THOUGHT_START in text.rpartition(THOUGHT_END)[2]
        if answer == text:
            kept.append(part)
        elif answer:
            kept.append({**_fields(part), "text": answer})
    return kept or ""


def _behind_thought(message: Mapping[str, Any]) -> Mapping[str, Any]:
    content = message.get("content")
    begun = _text(content)
    if not begun or THOUGHT_START in begun or THOUGHT_END in begun:
        return message
    parts = _parts(content)
    if parts is None:
        return {**message, "content": NO_THOUGHT + begun}
    first = next(at for at, part in enumerate(parts) if _is_text(part))
    opened = {**_fields(parts[first]), "text": NO_THOUGHT + _fields(parts[first])["text"]}
    return {**message, "content": [*parts[:first], opened, *parts[first + 1 :]]}


def _directed(messages: list[Any], directive: str) -> list[Any]:
    users = _positions(messages, "user")
    if not users:
        return messages
    last = _fields(messages[users[-1]])
    content = last.get("content")
    text = _text(content)
    if text is None or directive in text or (BOXED in directive and BOXED in text):
        return messages
    directed = {**last, "content": _followed(content, directive)}
    return [*messages[: users[-1]], directed, *messages[users[-1] + 1 :]]


def _followed(content: Any, directive: str) -> str | list[Any]:
    """Whoever joins the parts may put nothing between them, so the last text gets the directive."""
    parts = _parts(content)
    if parts is None:
        return f"{content}\n{directive}" if content else directive
    texts = [at for at, part in enumerate(parts) if _is_text(part)]
    if not texts:
        return [*parts, {"type": "text", "text": directive}]
    at = texts[-1]
    part = _fields(parts[at])
    return [*parts[:at], {**part, "text": _followed(part["text"], directive)}, *parts[at + 1 :]]
