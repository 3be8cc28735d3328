"""Why a sequence is continued when its generation has ended, and with what parameters."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from serve_app.core.generation import SequenceFacts
from serve_app.core.reasoning.trace import ThoughtTrace
from serve_app.engine.grammar.structure import is_unfinished
from serve_app.engine.reasoning_stop import CLOSED
from serve_app.engine.vllm.stop_scope import stop_behind

if TYPE_CHECKING:
    from serve_app.engine.vllm.types import CompletionOutput, SamplingParams

REPETITION = "repetition"
# An answer of blanks is none: it may not end again before so many tokens.
LEAST_ANSWER_TOKENS = (1, 8, 8)


class ContinuationReason(Enum):
    """It has no end of its reasoning, no answer behind it, or no end of the JSON that it is."""

    THOUGHT_END = "thought end"
    ANSWER = "answer"
    STRUCTURE = "structure"


@dataclass(slots=True)
class Written:
    """One sequence as far as it has been written, over all turns."""

    facts: SequenceFacts
    token_ids: list[int] = field(default_factory=list[int])
    continuation: ContinuationReason | None = None
    # An output whose text does not yet reach as far as its ids.
    deferred: "CompletionOutput | None" = None
    answer_begun: bool = False

    def goes_on(self, token_ids: Sequence[int]) -> bool:
        """Whether these ids neither end its thought nor begin its answer: nothing is to be patched
        of them, as of nearly all."""
        if self.deferred is not None:
            return False
        thought = self.facts.thought
        if thought is None or self.answer_begun:
            return True
        return thought.is_open and thought.marks.end not in token_ids

    def take(self, token_ids: Sequence[int]) -> None:
        self.token_ids += token_ids
        self.facts.tokens += len(token_ids)
        if self.facts.thought is not None:
            self.facts.thought.take(token_ids)

    def keep(self, tokens: int) -> None:
        """Take back all tokens but these, which end in the answer."""
        dropped = len(self.token_ids) - tokens
        del self.token_ids[tokens:]
        self.facts.tokens = tokens
        if self.facts.thought is not None:
            self.facts.thought.answer_tokens -= dropped

    @property
    def answer(self) -> list[int]:
        """The ids behind the thought."""
        thought = self.facts.thought
        if thought is None:
            return self.token_ids
        return self.token_ids[len(self.token_ids) - thought.answer_tokens :]


def ended_by_eos(output: "CompletionOutput", eos: int | None) -> bool:
    """Whether the last id is the model's own end, or one of several, which is no part of what is
    gone on with."""
    if output.finish_reason != "stop" or not output.token_ids:
        return False
    return output.token_ids[-1] == (eos if output.stop_reason is None else output.stop_reason)


def continuation_reason(
    sequence: Written,
    output: "CompletionOutput",
    params: "SamplingParams",
    left_tokens: int,
    *,
    decode: Callable[[Sequence[int]], str],
) -> ContinuationReason | None:
    """None where the sequence is whole, was aborted, or has no token left to go on with."""
    reason, thought = output.finish_reason, sequence.facts.thought
    if reason not in ("stop", "length", REPETITION, CLOSED):
        return None
    if thought is not None and thought.is_open:
        return _of_open_thought(thought, reason, left_tokens)
    if reason == "stop":
        if left_tokens < 1:
            return None
        # The blanks before an answer belong to the form of a thought, so a stop string found in
        # them is not the answer's.
        blank = thought is not None and _is_blank(sequence, decode)
        return ContinuationReason.ANSWER if blank else None
    return ContinuationReason.STRUCTURE if is_unfinished(params, decode(sequence.answer)) else None


def _of_open_thought(
    thought: ThoughtTrace, reason: str, left_tokens: int
) -> ContinuationReason | None:
    closable = left_tokens > len(thought.marks.closing)
    return ContinuationReason.THOUGHT_END if closable and reason != "length" else None


def _is_blank(sequence: Written, decode: Callable[[Sequence[int]], str]) -> bool:
    answer = sequence.answer
    return len(answer) <= max(LEAST_ANSWER_TOKENS) and not decode(answer).strip()


def next_params(
    params: "SamplingParams",
    left_tokens: int,
    turn: int,
    index: int,
    reason: ContinuationReason | None,
) -> "SamplingParams":
    """Parameters of the turn that continues the sequence `index`."""
    following = params.clone()
    # The thought has ended, or is about to be closed.
    stop_behind(following, None)
    if params.seed is not None:
        # As vLLM seeds the sequences of one request.
        following.seed = params.seed + index
    following.n, following.thinking_token_budget = 1, None
    following.max_tokens, following.min_tokens = max(1, left_tokens), 0
    if reason is ContinuationReason.ANSWER:
        following.min_tokens = min(LEAST_ANSWER_TOKENS[turn - 1], following.max_tokens)
    return following
