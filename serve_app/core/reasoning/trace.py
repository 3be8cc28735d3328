"""Follows a generation by its token ids: where its thought ends, and how."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class ThoughtEnd(StrEnum):
    """`off`: there was none; `complete`: the model closed it; `cut`: it was closed for the model;
    `unfinished`: the generation ended inside it."""

    OFF = "off"
    COMPLETE = "complete"
    CUT = "cut"
    UNFINISHED = "unfinished"


@dataclass(frozen=True, slots=True)
class ThoughtMarks:
    """Token ids. `opening` is what begins a thought, `start` its mark among them; `closing` is what
    the engine writes to close one: a transition phrase that ends with `end`; `none` closes in the
    prompt a thought that is not to be. `end_text` is how `end` is written."""

    start: int
    end: int
    opening: tuple[int, ...]
    closing: tuple[int, ...]
    none: tuple[int, ...]
    end_text: str = "</think>"

    def open_tokens(self, prompt: Sequence[int]) -> int | None:
        """Tokens of a thought that the prompt leaves open; None where it leaves none open."""
        for after, token in enumerate(reversed(prompt)):
            if token == self.end:
                return None
            if token == self.start:
                return after
        return None


@dataclass(slots=True)
class ThoughtTrace:
    """One sequence. `budget_tokens` is what its thought was given, None where there was to be none.
    Counted are the ids before the thought's end, those of the transition phrase among them.
    `cut_by`: who closed it before that, if neither the budget nor the model's own failing did."""

    marks: ThoughtMarks
    budget_tokens: int | None
    tokens: int = 0
    answer_tokens: int = 0
    end: ThoughtEnd = ThoughtEnd.UNFINISHED
    cut_by: str | None = None
    _tail: list[int] = field(default_factory=list[int])

    def __post_init__(self) -> None:
        if self.budget_tokens is None:
            self.end = ThoughtEnd.OFF

    @property
    def is_open(self) -> bool:
        return self.end is ThoughtEnd.UNFINISHED

    def take(self, token_ids: Sequence[int]) -> None:
        """The next ids of the sequence, one or more."""
        if not self.is_open:
            self.answer_tokens += len(token_ids)
            return
        if self.marks.end not in token_ids:
            self._think(token_ids)
            return
        at = list(token_ids).index(self.marks.end)
        self._think(token_ids[:at])
        self.answer_tokens = len(token_ids) - at - 1
        self.end = ThoughtEnd.CUT if self._was_cut() else ThoughtEnd.COMPLETE

    def cut(self, closing: Sequence[int]) -> None:
        """The thought was closed with these ids outside its budget."""
        self.take(closing)
        self.end = ThoughtEnd.CUT

    def _think(self, token_ids: Sequence[int]) -> None:
        phrase = len(self.marks.closing) - 1
        self.tokens += len(token_ids)
        if phrase:
            self._tail = [*self._tail, *token_ids[-phrase:]][-phrase:]

    def _was_cut(self) -> bool:
        """A model may write the phrase by itself, but not all of it and the mark before its budget
        ends. Of a phrase that the model has begun by then, vLLM's model runner V2 writes the rest
        only."""
        phrase = self.marks.closing[:-1]
        own_tokens = self.tokens - len(phrase)
        assert self.budget_tokens is not None
        return tuple(self._tail) == phrase and own_tokens <= self.budget_tokens <= self.tokens
