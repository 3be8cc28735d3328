"""What is in the events of a stream, however many tokens are in one of them: an event has what the
engine has made since the last one, and that depends on how busy the machine is."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

# What a replica puts into an event beside what it was asked for: the edge writes the first one's.
TIMES = ("created", "created_at", "completed_at")
_UNCOUNTED = ("sequence_number", "logprobs")
_TEXTS = ("text", "thinking", "partial_json")


def timeless(event: str) -> Any:
    """An event's content, without the times in it."""
    data = event.partition("data: ")[2]
    return data if data == "[DONE]" else without(json.loads(data), TIMES)


def without(content: Any, names: Sequence[str]) -> Any:
    """JSON without what has one of these names, anywhere in it."""
    if isinstance(content, dict):
        return {key: without(value, names) for key, value in content.items() if key not in names}
    if isinstance(content, list):
        return [without(value, names) for value in content]
    return content


@dataclass
class Content:
    """`parts` by choice, what follows one another of the same kind as one. `logprobs` has each
    token's beside them."""

    parts: dict[str, list[tuple[str, Any]]] = field(default_factory=dict)
    tokens: dict[str, list[str]] = field(default_factory=dict)
    logprobs: dict[str, list[float]] = field(default_factory=dict)

    def add(self, choice: str, kind: str, value: Any) -> None:
        """Text joins text before it; anything else stands for itself."""
        if value is None or value == "":
            return
        parts = self.parts.setdefault(choice, [])
        if isinstance(value, str) and parts and parts[-1][0] == kind:
            parts[-1] = (kind, parts[-1][1] + value)
        else:
            parts.append((kind, value))

    def add_logprob(self, choice: str, token: str, logprob: float | None) -> None:
        self.tokens.setdefault(choice, []).append(token)
        self.logprobs.setdefault(choice, []).append(0.0 if logprob is None else logprob)


def content(events: Sequence[Any]) -> Content:
    """Of events without their times."""
    found = Content()
    for event in events:
        if isinstance(event, str):
            found.add("end", event, True)
        elif "choices" in event:
            _take_choices(found, event)
        else:
            _take_typed(found, event)
    return found


def _take_choices(found: Content, event: dict[str, Any]) -> None:
    """Of chat and legacy completions."""
    for choice in event["choices"]:
        index, delta = str(choice["index"]), choice.get("delta") or {}
        found.add(index, "role", delta.get("role"))
        found.add(index, "reasoning", delta.get("reasoning"))
        found.add(index, "content", delta.get("content"))
        for call in delta.get("tool_calls") or ():
            function = call["function"]
            if call.get("id"):
                found.add(index, "call", (call["index"], call["id"], function.get("name")))
            found.add(index, f"arguments {call['index']}", function.get("arguments"))
        found.add(index, "text", choice.get("text"))
        if choice.get("finish_reason"):
            found.add(index, "end", (choice["finish_reason"], choice.get("stop_reason")))
        _take_logprobs(found, index, choice.get("logprobs") or {})
    if not event["choices"]:
        found.add("usage", "usage", (event["id"], event["usage"]))


def _take_logprobs(found: Content, index: str, logprobs: dict[str, Any]) -> None:
    for each in logprobs.get("content") or ():
        found.add_logprob(index, each["token"], each["logprob"])
    of_text = [logprobs.get(key) or () for key in ("tokens", "token_logprobs", "text_offset")]
    for token, logprob, offset in zip(*of_text, strict=True):
        found.add_logprob(index, f"{token} at {offset}", logprob)


def _take_typed(found: Content, event: dict[str, Any]) -> None:
    """Of Responses and Messages, whose events have a type."""
    delta = event.get("delta")
    if isinstance(delta, str):
        found.add("all", f"{event['type']} {event['output_index']}", delta)
    elif isinstance(delta, dict) and (text := [delta[key] for key in _TEXTS if key in delta]):
        found.add("all", f"{delta['type']} {event['index']}", text[0])
    else:
        found.add("all", "event", without(event, _UNCOUNTED))
