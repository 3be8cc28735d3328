"""What a replica learns of its tier's demand: its speed, the lengths of requests, their rate."""

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from serve_app.core.scaling.step_time import StepModel, StepSpeed, observe_step
from serve_app.core.scaling.workload import (
    EXPECTED_COUNTS_AS,
    LENGTHS_KEPT,
    NO_LIMIT,
    AnswerRate,
    ArrivalRate,
    LearntLengths,
    LengthFigures,
    bounded_total,
    observe_answers,
    observe_arrival,
    observe_lengths,
)


@dataclass(slots=True)
class DemandMeter:
    """Filled by the engine (`step`, `finished`) and by the gate (`arrived`, `answered`); read for
    autoscaling.

    `derived` is the GPU's step time before anything was measured. All work is in seconds of this
    replica with `slots` sequences at once. `lengths` are those of all requests of the engine, `own`
    those of the tier's own: what it lends to the other tier is no demand of this one.
    """

    derived: StepModel
    lengths: LearntLengths
    clock_s: Callable[[], float]
    slots: int = 1
    speed: StepSpeed = field(default_factory=StepSpeed)
    own: LearntLengths = field(init=False)
    arrivals: ArrivalRate = field(init=False)
    answers: AnswerRate = field(init=False)
    # Prompts of the tier's own that came last, whatever became of them, in tokens.
    arrived_prompts: deque[float] = field(default_factory=lambda: deque[float](maxlen=LENGTHS_KEPT))
    # The engine's steps so far, each a token for every stream and one with drafts as many as it
    # made, and when the last one was.
    steps: float = 0.0
    stepped_at_s: float = 0.0
    # Of the tier's own, since the answers were counted last.
    ended: int = 0
    ended_tokens: int = 0
    # The engine's counter of tokens when it was looked at last, and those of the tier's own.
    _output_tokens: float = 0.0
    _own_tokens: float = 0.0

    def __post_init__(self) -> None:
        now_s = self.clock_s()
        self.own = self.lengths
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
        """A request ended by itself or at its limit, the tier's own or one of the other tier."""
        self.lengths = observe_lengths(
            self.lengths, prompts=(prompt_tokens,), answers=(new_tokens,)
        )

    def answered(self, *, prompt_tokens: int, new_tokens: int, sequences: int = 1) -> None:
        """One of the tier's own was answered to its end."""
        self.ended += sequences
        self.ended_tokens += sequences * new_tokens
        self.own = observe_lengths(
            self.own, prompts=(prompt_tokens,), answers=(new_tokens,) * sequences
        )

    def arrived(
        self, *, sequences: int, max_new_tokens: int, prompt_tokens: float | None = None
    ) -> None:
        """A request came in for the first time, whatever becomes of it. A prompt of unknown length
        counts as a mean one."""
        known = self.own.prompt_tokens if prompt_tokens is None else prompt_tokens
        self.arrived_prompts.append(known)
        self.arrivals = observe_arrival(
            self.arrivals,
            now_s=self.clock_s(),
            requests=sequences * self.typical_part(max_new_tokens),
            prompt_tokens=known,
        )

    def arriving_prompt_tokens(self) -> float:
        """Mean length of a prompt as they arrive. It says sooner than those of ended requests what
        a flood on a fresh replica is made of."""
        expected_count = EXPECTED_COUNTS_AS * (1 - len(self.arrived_prompts) / LENGTHS_KEPT)
        total = bounded_total(self.arrived_prompts, self.own.expected_prompt_tokens, expected_count)
        return total / (expected_count + len(self.arrived_prompts))

    def typical_part(self, max_new_tokens: int) -> float:
        """How much of a typical answer one with this limit is expected to be, at most 1."""
        return self.own.new_tokens(max_new_tokens) / max(self.own.new_tokens(NO_LIMIT), 1)

    def queued_requests(self, waiting: Iterable[tuple[int, int]], in_engine: int) -> float:
        """What waits, in typical requests: (sequences, limit of new tokens) of each request at the
        gate, and a number of requests inside the engine."""
        by_limit: Counter[int] = Counter()
        for sequences, limit in waiting:
            by_limit[limit] += sequences
        # A long queue has few different limits, and each costs a look at all learnt lengths.
        return in_engine + sum(n * self.typical_part(limit) for limit, n in by_limit.items())

    def figures(self, output_tokens: float, *, own_part: float = 1.0) -> dict[str, float]:
        """What this replica has learnt, as `ReplicaLoad` has it. `output_tokens` is the engine's
        counter of tokens made so far, `own_part` what part of those that run now is the tier's own:
        a step makes a token for each."""
        now_s = self.clock_s()
        arrivals, speed, lengths = self.arrivals.at(now_s), self.speed, self.length_figures()
        self._own_tokens += own_part * max(0.0, output_tokens - self._output_tokens)
        self._output_tokens = output_tokens
        self.answers = observe_answers(
            self.answers,
            now_s=now_s,
            tokens_total=self._own_tokens,
            ended=self.ended,
            ended_tokens=self.ended_tokens,
        )
        self.ended = self.ended_tokens = 0
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
            "prompt_tokens": lengths.prompt_tokens,
            "new_tokens": self.answers.mean_tokens(lengths.new_tokens, lengths.memoryless),
            "variation": lengths.variation,
            "answers_seen": lengths.answers_seen,
        }

    def length_figures(self) -> LengthFigures:
        """What is known of the lengths of the tier's own requests."""
        return LengthFigures.of(self.own)
