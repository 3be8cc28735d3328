"""What a replica learns of its tier's demand: its speed, the lengths of requests, their rate."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from serve_app.core.scaling.step_time import StepModel, StepSpeed, observe_step
from serve_app.core.scaling.workload import (
    AnswerRate,
    ArrivalRate,
    LearntLengths,
    observe_answers,
    observe_arrival,
    observe_lengths,
)

_NO_LIMIT = 1 << 30


@dataclass(slots=True)
class DemandMeter:
    """Filled by the engine (`step`, `finished`) and by the gate (`arrived`); read for autoscaling.

    `derived` is the GPU's step time before anything was measured. All work is in seconds of this
    replica with `slots` sequences at once.
    """

    derived: StepModel
    lengths: LearntLengths
    clock_s: Callable[[], float]
    slots: int = 1
    speed: StepSpeed = field(default_factory=StepSpeed)
    arrivals: ArrivalRate = field(init=False)
    answers: AnswerRate = field(init=False)
    # The engine's steps so far, each a token for every stream and one with drafts as many as it
    # made, and when the last one was.
    steps: float = 0.0
    stepped_at_s: float = 0.0
    # Since the answers were counted last.
    ended: int = 0

    def __post_init__(self) -> None:
        now_s = self.clock_s()
        self.arrivals = ArrivalRate(now_s, now_s)
        self.answers = AnswerRate(now_s)

    def step(
        self,
        *,
        took_ms: float,
        sequences: int,
        prompt_tokens: int,
        steps: int = 1,
        tokens: int | None = None,
    ) -> None:
        """The engine has done a step, right after another one; or so many alike. It has made so
        many tokens, by default one for each sequence."""
        self.steps += steps if tokens is None else steps * tokens / max(sequences, 1)
        self.stepped_at_s = self.clock_s()
        self.speed = observe_step(
            self.speed,
            self.derived,
            took_ms=took_ms,
            sequences=sequences,
            prompt_tokens=prompt_tokens,
            steps=steps,
            tokens=tokens,
        )

    def finished(self, *, prompt_tokens: int, new_tokens: int) -> None:
        """A request ended by itself or at its limit."""
        self.ended += 1
        self.lengths = observe_lengths(
            self.lengths, prompts=(prompt_tokens,), answers=(new_tokens,)
        )

    def arrived(
        self, *, sequences: int, max_new_tokens: int, prompt_tokens: float | None = None
    ) -> None:
        """A request came in for the first time, whatever becomes of it. A prompt of unknown length
        counts as a mean one."""
        known = self.lengths.prompt_tokens if prompt_tokens is None else prompt_tokens
        self.arrivals = observe_arrival(
            self.arrivals,
            now_s=self.clock_s(),
            requests=sequences * self.typical_part(max_new_tokens),
            prompt_tokens=known,
        )

    def typical_part(self, max_new_tokens: int) -> float:
        """How much of a typical answer one with this limit is expected to be, at most 1."""
        return self.lengths.new_tokens(max_new_tokens) / max(self.lengths.new_tokens(_NO_LIMIT), 1)

    def queued_requests(self, waiting: Iterable[tuple[int, int]], in_engine: int) -> float:
        """What waits, in typical requests: (sequences, limit of new tokens) of each request at the
        gate, and a number of requests inside the engine."""
        by_limit: Counter[int] = Counter()
        for sequences, limit in waiting:
            by_limit[limit] += sequences
        # A long queue has few different limits, and each costs a look at all learnt lengths.
        return in_engine + sum(n * self.typical_part(limit) for limit, n in by_limit.items())

    def figures(self, output_tokens: float) -> dict[str, float]:
        """What this replica has learnt, as `ReplicaLoad` has it. `output_tokens` is the engine's
        counter of tokens made so far."""
        now_s = self.clock_s()
        arrivals, speed, lengths = self.arrivals.at(now_s), self.speed, self.length_figures()
        self.answers = observe_answers(
            self.answers, now_s=now_s, tokens_total=output_tokens, ended=self.ended
        )
        self.ended = 0
        return {
            "slow_rps": arrivals.slow.requests_per_s,
            "quick_rps": arrivals.quick.requests_per_s,
            "slow_prompt_tokens_per_s": arrivals.slow.prompt_tokens_per_s,
            "quick_prompt_tokens_per_s": arrivals.quick.prompt_tokens_per_s,
            "observed_s": arrivals.read_s - arrivals.since_s,
            "base_ms": self.derived.base_ms,
            "per_sequence_ms": self.derived.per_sequence_ms,
            "per_prompt_token_ms": self.derived.per_prompt_token_ms,
            "decode_factor": speed.decode_factor,
            "prefill_factor": speed.prefill_factor,
            **lengths,
            "new_tokens": self.answers.mean_tokens(lengths["new_tokens"]),
        }

    def length_figures(self) -> dict[str, float]:
        """Of `figures`, what is known of lengths."""
        lengths = self.lengths
        return {
            "prompt_tokens": lengths.prompt_tokens,
            "new_tokens": lengths.new_tokens(_NO_LIMIT),
            "variation": lengths.variation,
            "answers_seen": float(len(lengths.answers)),
        }
