"""Demand as work: what a request will cost a replica, and how much of it arrives.

Work is counted in seconds of a replica with all slots busy (`StepModel.request_s`), so a queued
2048-token proof is not a 40-token answer, and a card that is three times as fast has a third of it.
"""

import math
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
        return sum(min(length, limit) for length in self.answers) / len(self.answers)


def observe_lengths(lengths: LearntLengths, *, prompt_tokens: int, answer: int) -> LearntLengths:
    """Learn from a request that ended by itself or at its limit."""
    return replace(
        lengths,
        prompts=(*lengths.prompts, prompt_tokens)[-LENGTHS_KEPT:],
        answers=(*lengths.answers, answer)[-LENGTHS_KEPT:],
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
        current, age_s = _decayed(self, now_s), now_s - self.since_s
        if age_s <= 0:
            return 0.0
        # A mean that has not run for its whole window yet has seen only this part of it.
        slow_seen, quick_seen = (-math.expm1(-age_s / window) for window in (SLOW_S, QUICK_S))
        quick = current.quick - STANDARD_ERRORS * math.sqrt(current.squares)
        return max(current.slow / max(slow_seen, MIN_SEEN), quick / max(quick_seen, MIN_SEEN))


def observe_arrival(rate: ArrivalRate, *, now_s: float, work_s: float) -> ArrivalRate:
    """Count a request that comes in, whatever becomes of it."""
    current = _decayed(rate, now_s)
    return replace(
        current,
        slow=current.slow + work_s / SLOW_S,
        quick=current.quick + work_s / QUICK_S,
        squares=current.squares + (work_s / QUICK_S) ** 2,
    )


def _decayed(rate: ArrivalRate, now_s: float) -> ArrivalRate:
    passed_s = now_s - rate.read_s
    slow, quick = (math.exp(-passed_s / window) for window in (SLOW_S, QUICK_S))
    return ArrivalRate(
        rate.since_s, now_s, rate.slow * slow, rate.quick * quick, rate.squares * quick**2
    )
