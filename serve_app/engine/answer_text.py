"""The text of an output where its thought ends: in step with its ids, and without blanks before the
answer."""

from collections.abc import Callable, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

from serve_app.core.reasoning.trace import ThoughtEnd, ThoughtTrace
from serve_app.engine.continuation import Written

if TYPE_CHECKING:
    from serve_app.engine.vllm.types import CompletionOutput


def in_step(output: "CompletionOutput", sequence: Written) -> "CompletionOutput | None":
    """The output, with what was deferred of it; None while it is deferred itself.

    Where stop strings are looked for, vLLM gives the last signs of its text later than their ids.
    Its parser divides a stream's text where the thought's end stands, and loses signs where it does
    not stand there yet.
    """
    thought = sequence.facts.thought
    if sequence.deferred is not None:
        output, sequence.deferred = _joined(sequence.deferred, output), None
    if thought is None or not thought.is_open or output.finish_reason is not None:
        return output
    marks = thought.marks
    if marks.end in output.token_ids and marks.end_text not in output.text:
        sequence.deferred = output
        return None
    return output


def without_blanks(
    output: "CompletionOutput", sequence: Written, decode: Callable[[Sequence[int]], str]
) -> None:
    """Take the line ends away that stand between a thought and its answer: they are the thought's
    form, not the answer's."""
    thought = sequence.facts.thought
    if thought is None or thought.is_open or sequence.answer_begun:
        return
    at = answer_at(output, thought, decode)
    answer = output.text[at:].lstrip("\n")
    output.text = output.text[:at] + answer
    sequence.answer_begun = bool(answer)


def answer_at(
    output: "CompletionOutput", thought: ThoughtTrace | None, decode: Callable[[Sequence[int]], str]
) -> int:
    """Where in an output's text the answer begins. The thought may have ended before or in it; its
    mark may stand in the answer once more, and spelt out in the thought."""
    ids, text = list(output.token_ids), output.text
    if thought is None or thought.end is ThoughtEnd.OFF or thought.answer_tokens >= len(ids):
        return 0
    mark = thought.marks.end_text
    at = text.find(mark)
    if text.count(mark) > 1:
        for _ in range(decode(ids[: ids.index(thought.marks.end)]).count(mark)):
            at = text.find(mark, at + 1)
    return 0 if at < 0 else at + len(mark)


def rewrite_end(output: "CompletionOutput", kept: int, ids: list[int], text: str) -> None:
    """Give a whole answer another end."""
    output.token_ids, output.text = [*list(output.token_ids)[:kept], *ids], text
    if output.logprobs is not None:
        none: Any = [None] * len(ids)
        output.logprobs = [*output.logprobs[:kept], *none]  # pyrefly: ignore


def without_end(output: "CompletionOutput", *, ended: bool) -> "CompletionOutput":
    """The output of a sequence that goes on; `ended`: its last id is the model's own end."""
    output = copy(output)
    output.finish_reason = output.stop_reason = None
    if ended:
        output.token_ids = list(output.token_ids)[:-1]
        output.logprobs = None if output.logprobs is None else output.logprobs[:-1]
    return output


def _joined(first: "CompletionOutput", then: "CompletionOutput") -> "CompletionOutput":
    output = copy(then)
    output.token_ids = [*first.token_ids, *then.token_ids]
    output.text = first.text + then.text
    if first.logprobs is not None and then.logprobs is not None:
        output.logprobs = [*first.logprobs, *then.logprobs]  # pyrefly: ignore
    return output
