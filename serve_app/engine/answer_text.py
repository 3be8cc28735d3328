"""The text of an output where its thought ends: in step with its ids, and without blanks before the
answer."""

from copy import copy
from typing import Any

from serve_app.engine.lacks import Written


def in_step(output: Any, sequence: Written) -> Any | None:
    """The output, with those that were held back; None while it is held back itself.

    Where stop strings are looked for, vLLM gives the last signs of its text later than their ids.
    Its parser divides a stream's text where the thought's end stands, and loses signs where it does
    not stand there yet.
    """
    thought = sequence.facts.thought
    if sequence.held is not None:
        output, sequence.held = _joined(sequence.held, output), None
    if thought is None or not thought.is_open or output.finish_reason is not None:
        return output
    marks = thought.marks
    if marks.end in output.token_ids and marks.end_text not in output.text:
        sequence.held = output
        return None
    return output


def without_blanks(output: Any, sequence: Written) -> None:
    """Take the line ends away that stand between a thought and its answer: they are the thought's
    form, not the answer's."""
    thought = sequence.facts.thought
    if thought is None or thought.is_open or sequence.answer_begun:
        return
    before, mark, answer = output.text.rpartition(thought.marks.end_text)
    answer = answer.lstrip("\n")
    output.text = before + mark + answer
    sequence.answer_begun = bool(answer)


def _joined(first: Any, then: Any) -> Any:
    output = copy(then)
    output.token_ids = [*first.token_ids, *then.token_ids]
    output.text = first.text + then.text
    if then.logprobs is not None:
        output.logprobs = [*first.logprobs, *then.logprobs]
    return output
