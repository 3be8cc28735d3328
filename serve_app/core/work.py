"""Demand as work: what a request will cost a replica, and how much of it arrives.

Work is counted in seconds of a replica with all slots busy (`StepModel.request_s`), so a queued
2048-token proof is not a 40-token answer, and a card that is three times as fast has a third of it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from serve_app.core.step_time import StepModel

LENGTHS_KEPT = 256
# The slow mean shows the level, the quick one a step. A quick mean of few arrivals is mostly
# chance, so as many standard errors are taken off it.
SLOW_S = 40.0
QUICK_S = 6.0
STANDARD_ERRORS = 1.5
# In the first seconds one arrival would look like a flood.
MIN_SEEN = 0.25


@dataclass(frozen=True, slots=True)
class LearntLengths:
    """Lengths of the requests that ended last, in tokens. Until there are any, the expected ones.

    A length that its limit has cut counts as it is: for others with that limit it is right.
    """

    expected_prompt_tokens: float
    expected_new_tokens: float
    prompts: tuple[int, ...] = ()
    answers: tuple[int, ...] = ()

    @property
    def prompt_tokens(self) -> float:
        """Mean length of a prompt."""
        if not self.prompts:
            return self.expected_prompt_tokens
        return sum(self.prompts) / len(self.prompts)

    def new_tokens(self, limit: int) -> float:
        """Mean length of an answer that may have `limit` tokens."""
        if not self.answers:
            return min(self.expected_new_tokens, limit)
        cut = [length if length < limit else limit for length in self.answers]
        return sum(cut) / len(cut)


def observe_lengths(
    lengths: LearntLengths, *, prompts: Sequence[int], answers: Sequence[int]
) -> LearntLengths:
    """Learn from requests that ended by themselves or at their limit, in order of their ends."""
    return replace(
        lengths,
        prompts=(*lengths.prompts, *prompts)[-LENGTHS_KEPT:],
        answers=(*lengths.answers, *answers)[-LENGTHS_KEPT:],
    )


def request_work_s(model: StepModel, lengths: LearntLengths, *, slots: int, limit: int) -> float:
    """Expected work of a request that may have `limit` new tokens, in seconds of a full replica."""
    return model.request_s(
        slots=slots, prompt_tokens=lengths.prompt_tokens, new_tokens=lengths.new_tokens(limit)
    )


@dataclass(frozen=True, slots=True)
class ArrivalRate:
    """Work that arrives, as exponentially weighted means read at `read_s`; `since_s` is when the
    counting began. `squares` is of the quick mean's parts, for its error."""

    since_s: float
    read_s: float
    slow: float = 0.0
    quick: float = 0.0
    squares: float = 0.0

    def load(self, now_s: float) -> float:
        """Seconds of work a second, which is the number of full replicas that it keeps busy: the
        slow mean, or the quick one less its error where that is more."""
        age_s = now_s - self.since_s
        if age_s <= 0:
            return 0.0
        slow, quick, squares = _decayed(self, now_s)
        # A mean that has not run for its whole window yet has seen only this part of it.
        slow_seen, quick_seen = (-math.expm1(-age_s / window) for window in (SLOW_S, QUICK_S))
        quick -= STANDARD_ERRORS * math.sqrt(squares)
        return max(slow / max(slow_seen, MIN_SEEN), quick / max(quick_seen, MIN_SEEN))


def observe_arrival(rate: ArrivalRate, *, now_s: float, work_s: float) -> ArrivalRate:
    """Count a request that comes in, whatever becomes of it."""
    slow, quick, squares = _decayed(rate, now_s)
    part = work_s / QUICK_S
    return ArrivalRate(
        rate.since_s, now_s, slow + work_s / SLOW_S, quick + part, squares + part * part
    )


def _decayed(rate: ArrivalRate, now_s: float) -> tuple[float, float, float]:
    """The slow mean, the quick one and its squares, as they are by now."""
    passed_s = now_s - rate.read_s
    kept = math.exp(-passed_s / QUICK_S)
    return rate.slow * math.exp(-passed_s / SLOW_S), rate.quick * kept, rate.squares * kept * kept
