"""The JSON of the fake engine's answers, in vLLM's form."""

import json
from dataclasses import dataclass
from typing import Any, Literal

from serve_app.engine.fake.batch import FakeReply, FakeSequence

Kind = Literal["chat", "legacy"]
# One a token, over and over.
WORDS = ["This", "answer", "is", "made", "up:", "the", "fake", "engine", "has", "no", "model."]


def made_tokens(reply: FakeReply) -> int:
    """Of all its sequences."""
    return sum(sequence.made_tokens for sequence in reply.sequences)


@dataclass(frozen=True, slots=True)
class FakeForm:
    """One answer's JSON. `limit` is the most tokens that a sequence of it may get."""

    kind: Kind
    request_id: str
    model: str
    prompt_tokens: int
    limit: int
    created: int

    def chunk(self, index: int, first: int, last: int, finish_reason: str | None) -> bytes:
        """Tokens `first` to `last` of a sequence, as an event of a stream."""
        text = _text(first, last)
        if self.kind == "legacy":
            said: dict[str, Any] = {"text": text}
        else:
            said = {"delta": {"role": "assistant"} if first == 0 else {}}
            said["delta"]["content"] = text
        choice = {"index": index, **said, "logprobs": None, "finish_reason": finish_reason}
        return _event(self._envelope(".chunk", [choice]))

    def usage_chunk(self, tokens: int) -> bytes:
        return _event({**self._envelope(".chunk", []), "usage": self._usage(tokens)})

    def whole(self, reply: FakeReply) -> bytes:
        choices: list[dict[str, Any]] = []
        for index, sequence in enumerate(reply.sequences):
            text = _text(0, sequence.made_tokens)
            said: dict[str, Any] = {"text": text}
            if self.kind == "chat":
                said = {"message": {"role": "assistant", "content": text}}
            reason = self.finish_reason(sequence)
            choices.append({"index": index, **said, "logprobs": None, "finish_reason": reason})
        return _json({**self._envelope("", choices), "usage": self._usage(made_tokens(reply))})

    def finish_reason(self, sequence: FakeSequence) -> str:
        """Of one that has ended."""
        return "length" if sequence.cut or sequence.reply_tokens == self.limit else "stop"

    def _envelope(self, suffix: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        prefix, kind = ("chatcmpl", "chat.completion" + suffix)
        if self.kind == "legacy":
            prefix, kind = ("cmpl", "text_completion")
        return {
            "id": f"{prefix}-{self.request_id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }

    def _usage(self, tokens: int) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": tokens,
            "total_tokens": self.prompt_tokens + tokens,
        }


def _text(first: int, last: int) -> str:
    words = (WORDS[token % len(WORDS)] for token in range(first, last))
    return "".join(f"{word} " for word in words)


def _event(content: dict[str, Any]) -> bytes:
    return b"data: " + _json(content) + b"\n\n"


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()
