"""One streamed chat completion as it comes: what was thought, what was answered, and when."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from loadtest.evaluation.answer import UNFINISHED, Answer

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionChunk

BEGIN, END = "<think>", "</think>"


def after_thought(content: str) -> str:
    """The answer in a content that may hold the thought too: servers without a reasoning parser
    leave it there, its opening tag often swallowed by the chat template."""
    _, end, after = content.rpartition(END)
    if end:
        return after
    return "" if _opens_thought(content) else content


def _opens_thought(content: str) -> bool:
    start = content.lstrip()[: len(BEGIN)]
    return bool(start) and BEGIN.startswith(start)


@dataclass(slots=True)
class Stream:
    """Collects chunks. Times are seconds since the request was sent."""

    content: str = ""
    thought: list[str] = field(default_factory=list)
    ttft_s: float | None = None
    ttfo_s: float | None = None
    e2e_s: float | None = None
    finish_reason: str | None = None
    usage: Any = None
    told: Mapping[str, Any] = field(default_factory=dict)

    def take(self, chunk: "ChatCompletionChunk", at_s: float) -> None:
        self.usage = chunk.usage or self.usage
        self.told = (chunk.model_extra or {}).get("tierserve") or self.told
        for choice in chunk.choices:
            more = choice.delta.model_extra or {}
            thought = more.get("reasoning") or more.get("reasoning_content") or ""
            content = choice.delta.content or ""
            self.finish_reason = choice.finish_reason or self.finish_reason
            if thought or content:
                self.ttft_s = at_s if self.ttft_s is None else self.ttft_s
                self.e2e_s = at_s
            if thought:
                self.thought.append(thought)
            if content:
                self._take_content(content, at_s)

    def fill(self, answer: Answer) -> None:
        """Write down what was heard, once the stream has ended."""
        text = after_thought(self.content)
        inline = self.content.removesuffix(text).strip().removeprefix(BEGIN).removesuffix(END)
        answer.text = text
        answer.thought = "".join(self.thought) or inline
        answer.finish_reason = self.finish_reason
        answer.ttft_s, answer.ttfo_s, answer.e2e_s = self.ttft_s, self.ttfo_s, self.e2e_s
        answer.thought_end, told_tokens = self._told_thought()
        if answer.thought_end is None and self.finish_reason == "length" and not text.strip():
            answer.thought_end = UNFINISHED
        if self.usage is not None:
            answer.prompt_tokens = self.usage.prompt_tokens
            answer.completion_tokens = self.usage.completion_tokens
            details = self.usage.completion_tokens_details
            answer.reasoning_tokens = None if details is None else details.reasoning_tokens
        if answer.reasoning_tokens is None:
            answer.reasoning_tokens = told_tokens

    def _take_content(self, content: str, at_s: float) -> None:
        self.content += content
        if not after_thought(self.content).strip():
            self.ttfo_s = None  # what came so far was the thought
        elif self.ttfo_s is None:
            self.ttfo_s = at_s

    def _told_thought(self) -> tuple[str | None, int | None]:
        """How tierserve says that the thought ended, and how many tokens it had."""
        thoughts = self.told.get("thoughts") or []
        if not thoughts:
            return None, None
        return thoughts[0].get("end"), thoughts[0].get("tokens")
