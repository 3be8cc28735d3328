"""Reads a streamed chat completion while hundreds of others come in.

What costs time here is added to every gap that is measured, so a chunk with a token is known by its
bytes. JSON is parsed of the few events without one (the role, the end, the usage, an error) and of
those in which the answer may begin. `TextReader` parses every event, for those who want the words.
"""

import json
import re
from array import array
from dataclasses import dataclass
from typing import Any

# A string that is not empty. Inside a text the quotes are escaped, so that no text looks like it.
_ANSWER = re.compile(rb'"(?:content|text)"\s*:\s*"[^"]')
_OTHER_TOKEN = re.compile(rb'"reasoning(?:_content)?"\s*:\s*"[^"]|"tool_calls"\s*:\s*\[\s*\{')
_REASONING_END = b"</think>"
_REASONING_BEGIN = "<think>"
_DATA = b"data:"


@dataclass(frozen=True, slots=True)
class StreamError:
    """An error event inside a stream that had begun."""

    code: str
    message: str


class StreamReader:
    """`token_s`: when each event with a token came, on the caller's clock."""

    __slots__ = ("_last", "_rest", "answer_s", "done", "error", "finish_reason", "token_s", "usage")

    def __init__(self) -> None:
        self.token_s: array[float] = array("d")
        self.answer_s: float | None = None
        self.done = False
        self.error: StreamError | None = None
        self.finish_reason: str | None = None
        self.usage: dict[str, Any] = {}
        self._rest = b""
        self._last = b""

    def feed(self, block: bytes, now_s: float) -> None:
        """Take what came at `now_s`, wherever it was cut."""
        if self._rest:
            block = self._rest + block
        if b"\r" in block:
            block = block.replace(b"\r\n", b"\n")
        *events, self._rest = block.split(b"\n\n")
        for event in events:
            self._take(event, now_s)

    def close(self, now_s: float) -> None:
        """The stream ended: its last event may have no empty line behind it."""
        if self._rest:
            self._take(self._rest, now_s)
            self._rest = b""
        if self.finish_reason is None and self._last:
            self._read(self._last)

    def _take(self, event: bytes, now_s: float) -> None:
        answers = _ANSWER.search(event) is not None
        if not (answers or _OTHER_TOKEN.search(event)):
            self._take_rare(event)
            return
        if not event.startswith(_DATA) and b"\ndata:" not in event:
            return  # a comment, whatever it says
        self.token_s.append(now_s)
        self._last = event
        if answers and self.answer_s is None and _content(event).strip():
            self.answer_s = now_s
        if answers and _REASONING_END in event:
            self.answer_s = None  # reasoning inside the content: the answer is yet to come

    def _take_rare(self, event: bytes) -> None:
        payload = _payload(event)
        if payload == b"[DONE]":
            self.done = True
        elif payload:
            self._read(event)

    def _read(self, event: bytes) -> None:
        document = _document(event)
        error = document.get("error")
        if error:
            found = error if isinstance(error, dict) else {"message": str(error)}
            code = found.get("code") or found.get("type") or "unknown"
            self.error = StreamError(str(code), str(found.get("message", "")))
        if isinstance(document.get("usage"), dict):
            self.usage = document["usage"]
        for choice in document.get("choices") or ():
            self.finish_reason = choice.get("finish_reason") or self.finish_reason


class TextReader(StreamReader):
    """Keeps the words too: `content`, `reasoning`, and tierserve's `metadata` of the answer."""

    __slots__ = ("content", "metadata", "reasoning")

    def __init__(self) -> None:
        super().__init__()
        self.content = ""
        self.reasoning = ""
        self.metadata: dict[str, Any] = {}

    @property
    def answer(self) -> str:
        return after_reasoning(self.content)

    @property
    def all_reasoning(self) -> str:
        """From its own field, or from the content."""
        inline = self.content.removesuffix(self.answer).strip()
        end = _REASONING_END.decode()
        return self.reasoning or inline.removeprefix(_REASONING_BEGIN).removesuffix(end)

    def _take(self, event: bytes, now_s: float) -> None:
        super()._take(event, now_s)
        document = _document(event)
        self.metadata = document.get("tierserve") or self.metadata
        for choice in document.get("choices") or ():
            delta = choice.get("delta") or {}
            self.reasoning += delta.get("reasoning") or delta.get("reasoning_content") or ""
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
            if content := delta.get("content"):
                self.content += content
                if not self.answer.strip():
                    self.answer_s = None  # what came so far was reasoning
                elif self.answer_s is None:
                    self.answer_s = now_s


def after_reasoning(content: str) -> str:
    """The answer in a content that may hold the reasoning too: servers without a reasoning parser
    leave it there, its opening tag often swallowed by the chat template."""
    _, end, after = content.rpartition(_REASONING_END.decode())
    if end:
        return after
    start = content.lstrip()[: len(_REASONING_BEGIN)]
    return "" if start and _REASONING_BEGIN.startswith(start) else content


def _payload(event: bytes) -> bytes:
    lines = [line[len(_DATA) :] for line in event.split(b"\n") if line.startswith(_DATA)]
    return b"\n".join(lines).strip()


def _document(event: bytes) -> dict[str, Any]:
    try:
        document = json.loads(_payload(event))
    except ValueError:
        return {"error": {"code": "no_json", "message": event[:200].decode(errors="replace")}}
    return document if isinstance(document, dict) else {}


def _content(event: bytes) -> str:
    """The text of the first choice, after reasoning that ends in it."""
    for choice in _document(event).get("choices") or ():
        text = (choice.get("delta") or {}).get("content") or choice.get("text") or ""
        return str(text).rpartition(_REASONING_END.decode())[2]
    return ""
