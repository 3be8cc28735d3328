"""One answer to one problem in one run: a line of `answers.jsonl`."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

# How a thought ended. The first three are tierserve's words; `unfinished` is also said here of a
# server that tells nothing but stopped at its limit before any answer.
CUT, COMPLETE, OFF, UNFINISHED = "cut", "complete", "off", "unfinished"


@dataclass(slots=True)
class Answer:
    """None is what the server did not tell, or what did not happen; never 0 in its place.

    Times are seconds from sending the last attempt; `started_s` and `ended_s` are Unix time.
    """

    problem: str
    run: int
    text: str = ""
    thought: str = ""
    correct: bool = False
    # The result as found in the text, and why there is none if the grader gave up.
    extracted: str | None = None
    grade_note: str | None = None
    # An HTTP status, or `connection`, `stream` for one that broke; None for an answer.
    error: str | None = None
    error_text: str | None = None
    finish_reason: str | None = None
    thought_end: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    reasoning_tokens: int | None = None
    # To the first token of any kind, to the first token of the answer, to the last token.
    ttft_s: float | None = None
    ttfo_s: float | None = None
    e2e_s: float | None = None
    started_s: float = 0.0
    ended_s: float = 0.0
    # Times that the server said 429 with a Retry-After, and was asked again.
    told_to_wait: int = 0

    @property
    def answered(self) -> bool:
        return self.error is None

    @property
    def empty(self) -> bool:
        return self.answered and not self.text.strip()

    @property
    def thought_was_cut(self) -> bool:
        return self.thought_end in (CUT, UNFINISHED)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Self:
        """Fields of a later version are left out."""
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in row.items() if name in known})
