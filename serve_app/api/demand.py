"""What a replica learns of its tier's demand: how fast it is, how long requests are, what comes."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from serve_app.core.step_time import StepModel, StepSpeed, observe_step
from serve_app.core.work import (
    ArrivalRate,
    LearntLengths,
    observe_arrival,
    observe_lengths,
    request_work_s,
)


@dataclass(slots=True)
class DemandMeter:
    """Filled by the engine (`step`, `finished`) and by the gate (`arrived`); read for autoscaling.

    `derived` is the card's step time before anything was measured. All work is in seconds of this
    replica with `slots` sequences at once.
    """

    derived: StepModel
    lengths: LearntLengths
    clock_s: Callable[[], float]
    slots: int = 1
    speed: StepSpeed = field(default_factory=StepSpeed)
    arrivals: ArrivalRate = field(init=False)

    def __post_init__(self) -> None:
        now_s = self.clock_s()
        self.arrivals = ArrivalRate(now_s, now_s)

    def step(self, *, took_ms: float, sequences: int, prompt_tokens: int) -> None:
        """The engine has done a step, right after another one."""
        self.speed = observe_step(
            self.speed,
            self.derived,
            took_ms=took_ms,
            sequences=sequences,
            prompt_tokens=prompt_tokens,
        )

    def finished(self, *, prompt_tokens: int, new_tokens: int) -> None:
        """A request ended by itself or at its limit."""
        self.lengths = observe_lengths(
            self.lengths, prompts=(prompt_tokens,), answers=(new_tokens,)
        )

    def arrived(self, *, sequences: int, max_new_tokens: int) -> None:
        """A request came in for the first time, whatever becomes of it."""
        self.arrivals = observe_arrival(
            self.arrivals,
            now_s=self.clock_s(),
            work_s=sequences * self.work_s(max_new_tokens),
        )

    def arriving_load(self) -> float:
        """Work that arrives, in seconds a second."""
        return self.arrivals.load(self.clock_s())

    def work_s(self, max_new_tokens: int) -> float:
        """Expected work of one sequence with this limit."""
        model = self.speed.applied_to(self.derived)
        return request_work_s(model, self.lengths, slots=self.slots, limit=max_new_tokens)

    def typical_s(self) -> float:
        """Work of a typical request of the tier."""
        return self.work_s(_NO_LIMIT)

    def token_s(self) -> float:
        """Seconds of this replica that a token takes, whichever tier's it is."""
        return self.speed.applied_to(self.derived).token_s(self.slots)

    def queued_s(self, waiting: Iterable[tuple[int, int]], in_engine: int) -> float:
        """Work of what waits: (sequences, limit of new tokens) of each request at the gate, and a
        number of requests inside the engine."""
        by_limit: Counter[int] = Counter()
        for sequences, limit in waiting:
            by_limit[limit] += sequences
        # A long line has few different limits, and each costs a look at all learnt lengths.
        at_gate = sum(count * self.work_s(limit) for limit, count in by_limit.items())
        return at_gate + in_engine * self.typical_s()


_NO_LIMIT = 1 << 30
