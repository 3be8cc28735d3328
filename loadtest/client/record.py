"""A request and how it went: what the run's lines of JSON hold. Times are from the run's start."""

from array import array
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from itertools import accumulate, pairwise
from typing import Any

DIGITS = 6


class Outcome(StrEnum):
    SERVED = "served"
    REFUSED = "refused"  # the server had no room
    ERROR = "error"
    UNFINISHED = "unfinished"  # the run ended first


@dataclass(frozen=True, slots=True)
class Refusal:
    """One answer of a server without room. `retry_after_s` is None if it did not say."""

    sent_s: float
    ended_s: float
    reason: str
    retry_after_s: float | None


@dataclass(slots=True)
class Record:
    """`sent_s` to `ended_s` is the last attempt; earlier ones were refused and are in `refusals`,
    the last one too if it was. `token_s` is when each chunk with tokens came."""

    number: int
    load: int
    tier: str
    planned_s: float
    input_tokens_asked: int
    output_tokens_asked: int
    clipped: bool = False
    counts: bool = True
    first_sent_s: float | None = None
    sent_s: float | None = None
    ended_s: float | None = None
    outcome: Outcome = Outcome.UNFINISHED
    reason: str | None = None
    detail: str = ""
    refusals: list[Refusal] = field(default_factory=list)
    answer_s: float | None = None
    token_s: array = field(default_factory=lambda: array("d"))
    output_tokens: int | None = None
    tokens_from: str | None = None
    input_tokens: int | None = None
    reasoning_tokens: int | None = None
    finish_reason: str | None = None

    @property
    def served(self) -> bool:
        return self.outcome is Outcome.SERVED

    @property
    def late_s(self) -> float | None:
        """How long after its time it was sent: the generator's own delay."""
        return None if self.first_sent_s is None else self.first_sent_s - self.planned_s

    @property
    def ttft_s(self) -> float | None:
        return self._since_sent(self.token_s[0]) if self.token_s else None

    @property
    def ttfo_s(self) -> float | None:
        return None if self.answer_s is None else self._since_sent(self.answer_s)

    @property
    def e2e_s(self) -> float | None:
        return self._since_sent(self.token_s[-1]) if self.token_s else None

    @property
    def tpot_s(self) -> float | None:
        """As `vllm.benchmarks.serve` has it: (latency - TTFT) / (output tokens - 1)."""
        if self.e2e_s is None or self.ttft_s is None or (self.output_tokens or 0) < 2:
            return None
        return (self.e2e_s - self.ttft_s) / ((self.output_tokens or 0) - 1)

    @property
    def retried_for_s(self) -> float:
        """From the first attempt to the last: what a user waits before it is served at all."""
        if self.sent_s is None or self.first_sent_s is None:
            return 0.0
        return self.sent_s - self.first_sent_s

    @property
    def itl_s(self) -> list[float]:
        return [b - a for a, b in pairwise(self.token_s)]

    def as_dict(self) -> dict[str, Any]:
        """`token_s` as its first and the gaps in ms, which are short to write."""
        document = {
            name: round(value, DIGITS) if isinstance(value, float) else value
            for name in _PLAIN
            if (value := getattr(self, name)) is not None
        }
        document["refusals"] = [asdict(refusal) for refusal in self.refusals]
        if self.token_s:
            document["first_token_s"] = round(self.token_s[0], DIGITS)
            document["gaps_ms"] = [round(gap * 1e3, 2) for gap in self.itl_s]
        return document

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> "Record":
        record = cls(**{name: document[name] for name in _PLAIN if name in document})
        record.outcome = Outcome(record.outcome)
        record.refusals = [Refusal(**refusal) for refusal in document.get("refusals", ())]
        if "first_token_s" in document:
            gaps_s = (gap / 1e3 for gap in document["gaps_ms"])
            record.token_s = array("d", accumulate(gaps_s, initial=document["first_token_s"]))
        return record

    def _since_sent(self, at_s: float) -> float:
        return at_s - (self.sent_s or 0.0)


_PLAIN = tuple(f.name for f in fields(Record) if f.name not in ("refusals", "token_s"))
