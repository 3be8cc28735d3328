"""The end of a stream that is bound to JSON, while it is open whether its limit will cut it.

An answer that has met its limit inside of JSON goes back to the last place from which it can be
closed (`engine/grammar/closing.py`), so the last tokens of a stream wait until it has ended.
"""

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from serve_app.engine.answer_text import answer_at
from serve_app.engine.continuation import Written

if TYPE_CHECKING:
    from serve_app.engine.vllm.types import CompletionOutput, RequestOutput


@dataclass(slots=True)
class OpenTail:
    """Of one sequence, whose tokens are kept back once there are more than `begins_at`. `is_open`
    says of the answer's text whether it is inside of JSON; None: it is nothing else."""

    sequence: Written
    begins_at: int
    is_open: Callable[[str], bool] | None
    decode: Callable[[Sequence[int]], str]
    # With the length of the answer's text up to their end. That is without the thought's.
    _results: "list[tuple[RequestOutput, int]]" = field(default_factory=list)
    _text: str = ""
    _sent_chars: int = 0

    def take(self, result: "RequestOutput") -> "list[RequestOutput]":
        """What may be sent, now that this result with one output has been taken."""
        output = result.outputs[0]
        self._text += self._answer_text(output)
        self._results.append((result, len(self._text)))
        if output.finish_reason is None and self._keeps_back():
            return []
        released, self._results = self._results, []
        self._sent_chars = len(self._text)
        return [result for result, _ in released]

    def cut(
        self, kept_tokens: int, ids: Sequence[int], text: str, like: "RequestOutput"
    ) -> "Iterator[RequestOutput]":
        """What was kept back up to `kept_tokens` of the sequence, and a result in the shape of
        `like` with the rest of the answer's whole `text`, ended with `ids`."""
        left = kept_tokens - len(self.sequence.token_ids)
        left += sum(len(result.outputs[0].token_ids) for result, _ in self._results)
        kept_back, sent = iter(self._results), self._sent_chars
        rest: list[CompletionOutput] = []
        for result, chars in kept_back:
            output = result.outputs[0]
            if len(output.token_ids) > left:
                rest = [output, *(following.outputs[0] for following, _ in kept_back)]
                break
            left -= len(output.token_ids)
            sent = chars
            yield result
        kept = [token for output in rest for token in output.token_ids][:left]
        logprobs = [one for output in rest for one in output.logprobs or ()][:left]
        yield result_of(like, [*kept, *ids], text[sent:], logprobs)

    def _answer_text(self, output: "CompletionOutput") -> str:
        thought = self.sequence.facts.thought
        if thought is None:
            return output.text
        return "" if thought.is_open else output.text[answer_at(output, thought, self.decode) :]

    def _keeps_back(self) -> bool:
        if len(self.sequence.token_ids) <= self.begins_at:
            return False
        return self.is_open is None or self.is_open(self._text)


def result_of(
    like: "RequestOutput", ids: Sequence[int], text: str, logprobs: Sequence[Any] = ()
) -> "RequestOutput":
    """A result with one output in the shape of `like`, of ids of which the model has written only
    the first ones, those that have log probabilities."""
    output = copy(like.outputs[0])
    output.token_ids, output.text = list(ids), text
    output.finish_reason = output.stop_reason = None
    if output.logprobs is not None:
        none: Any = [None] * (len(ids) - len(logprobs))
        output.logprobs = [*logprobs, *none]
    result = copy(like)
    result.outputs, result.finished = [output], False
    return result


def one_by_one(result: "RequestOutput") -> "Iterator[RequestOutput]":
    """A result for each of its outputs."""
    for output in result.outputs:
        single = copy(result)
        single.outputs = [output]
        single.finished = result.finished and output is result.outputs[-1]
        yield single
