"""What a replica's engine has to do with the requests that the gate has given it: prompts that it
reads, and tokens in its KV pool. Says whether it takes another one, and what a new one waits for.
"""

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from serve_app.api.demand import DemandMeter
from serve_app.api.queue_entry import QueueEntry
from serve_app.core.admission.kv_pool import (
    MEAN_SHARE,
    NO_LIMIT,
    AnswersLeft,
    Held,
    ends_before,
    peak_tokens,
)
from serve_app.core.admission.prefill import (
    STEP_TOKENS,
    PrefillAhead,
    PrefillPace,
    engine_limit_s,
    observe_prefill,
    prompt_token_s,
)
from serve_app.core.admission.queue_drain import (
    Drain,
    ServiceTime,
    estimate_drain,
    estimate_first_drain,
    observe_completion,
)
from serve_app.core.scaling.workload import bounded_total

# Over so long a time is counted which part of it prompts take.
READ_S = 20.0
MAX_READ_FRACTION = 0.9
# What is lent stays for as long as an answer takes, and its lender's own load returns meanwhile:
# it counts as it was at its height in about so long a time.
HEIGHT_S = 60.0


@dataclass(slots=True)
class _Height:
    """The most that something was, the less the longer ago."""

    _value: float = 0.0
    _at_s: float = 0.0

    def observe(self, value: float, now_s: float) -> None:
        self._value, self._at_s = max(value, self.at(now_s)), now_s

    def at(self, now_s: float) -> float:
        return self._value * math.exp((self._at_s - now_s) / HEIGHT_S)


@dataclass(slots=True)
class EngineRoom:
    """Filled by the gate (`begin`, `end`) and by the engine (`prompt_counted`, `first_token`).

    `demand` has the speeds and lengths; `kv_tokens` is the engine's pool, 0 where it is not known.
    """

    demand: DemandMeter
    clock_s: Callable[[], float]
    max_wait_s: float
    kv_tokens: int
    pace: PrefillPace = field(default_factory=PrefillPace)
    sequences: int = 0
    # The limit of new tokens of the request that came last stands for those that will.
    typical_limit: int = NO_LIMIT
    # How many tokens of a stream a whole request takes.
    served: ServiceTime = field(default_factory=lambda: ServiceTime(0.0))
    # Several flows come here: the engine is given no more to read than a step takes, and one more,
    # so that no flow's prompt waits there for those of another.
    shared: bool = False
    # With what a stream had got when they began.
    _running: dict[QueueEntry, float] = field(default_factory=dict[QueueEntry, float])
    # Those without a first token yet, in order of their starts; since when the first is read.
    _reading: dict[QueueEntry, None] = field(default_factory=dict[QueueEntry, None])
    _reading_since_s: float = 0.0
    _reading_tokens: float = 0.0
    # Of all that run.
    _prompt_tokens: float = 0.0
    _pool_room: int | None = None
    _answers: AnswersLeft | None = None
    _answers_of: tuple[int, ...] = ()
    _read_tokens_per_s: float = 0.0
    _read_at_s: float = 0.0
    _steps: float = 0.0
    _stepped_tokens: float = 0.0
    _unstepped_tokens: float = 0.0
    _streamed_at_s: float = 0.0
    _own_sequences: int = 0
    _own_height: _Height = field(default_factory=_Height)
    _read_height: _Height = field(default_factory=_Height)

    def begin(self, entry: QueueEntry) -> None:
        """The gate has granted its slots."""
        now_s = self.clock_s()
        if not self._reading:
            self._reading_since_s = now_s
        self._running[entry] = self._count_stream_tokens()
        self._reading[entry] = None
        self.sequences += entry.sequences
        self._reading_tokens += entry.prompt_tokens
        # The step that runs has to end before.
        step_s = self._step_ms() / 1e3
        entry.reckoned_s = step_s + self._reading_tokens * self._reckoned_token_s()
        self._prompt_tokens += entry.prompt_tokens
        self._pool_room = None
        if not entry.borrowed:
            self._own_sequences += entry.sequences
            self._own_height.observe(self._own_sequences, now_s)

    def end(self, entry: QueueEntry) -> None:
        """Its slots are free again."""
        if entry in self._running:
            entry.ran_tokens = self._count_stream_tokens() - self._running.pop(entry)
            self.sequences -= entry.sequences
            if not entry.borrowed:
                self._own_sequences -= entry.sequences
            self._prompt_tokens -= entry.prompt_tokens
            self._pool_room = None
            self._end_reading(entry)

    def prompt_counted(self, entry: QueueEntry, prompt_tokens: int) -> None:
        """The engine has counted the prompt, which was an estimate until now."""
        if entry in self._reading:
            more_tokens = prompt_tokens - entry.prompt_tokens
            self._reading_tokens += more_tokens
            self._prompt_tokens += more_tokens
            entry.reckoned_s = max(0.0, entry.reckoned_s + more_tokens * self._reckoned_token_s())
            entry.prompt_tokens, entry.prompt_counted = prompt_tokens, True

    def first_token(self, entry: QueueEntry) -> bool:
        """Its prompt is read; False if that was known, or is nothing of this engine."""
        if entry not in self._reading:
            return False
        assert entry.started_s is not None
        self._count_stream_tokens()
        now_s = entry.first_token_s = self.clock_s()
        took_s = now_s - entry.started_s
        self.pace = observe_prefill(self.pace, took_s=took_s, reckoned_s=entry.reckoned_s)
        more_tokens_per_s = entry.prompt_tokens / READ_S
        self._read_tokens_per_s = self._tokens_read_per_s(now_s) + more_tokens_per_s
        self._read_at_s = now_s
        self._read_height.observe(self._fraction_read(now_s), now_s)
        self._end_reading(entry)
        return True

    def takes(
        self,
        sequences: int,
        prompt_tokens: float | None = None,
        limit: int | None = None,
        *,
        resumed: bool = False,
    ) -> bool:
        """Whether the engine is given another request now, a typical one where nothing is said: it
        has less to read than it is given at once, and its pool has room for it. One that runs alone
        always is, however long. Streams that another replica has begun come all at once, before
        everybody else: read together they are silent for less long than one after the other."""
        if not self._running:
            return True
        soon = resumed or self._reads_soon()
        return soon and self._pool_fits(sequences, prompt_tokens, limit)

    def reads_handed_over_soon(self) -> bool:
        """Whether a stream that a draining replica would hand over is read soon. It goes on there
        until then, so of those that come this way the engine is given what it reads in one step,
        or in as long as new requests may take: no stream is silent for all others."""
        tokens = sum(entry.prompt_tokens for entry in self._reading if entry.resumed)
        return tokens < STEP_TOKENS or self._reading_s(tokens) < engine_limit_s(self.max_wait_s)

    def ahead(
        self, prompt_tokens: float, queued_tokens: float, flow_tokens: float = 0.0
    ) -> PrefillAhead:
        """What a request with that prompt finds, behind so many tokens of prompts at the gate, and
        so many until those of its flow are read."""
        token_s = self._reckoned_token_s() * self.pace.factor
        engine_s = self._reading_tokens * token_s
        if self._reading:
            first_s = next(iter(self._reading)).prompt_tokens * token_s
            engine_s -= min(self.clock_s() - self._reading_since_s, first_s)
        return PrefillAhead(
            engine_s=max(0.0, engine_s),
            queued_s=queued_tokens * token_s,
            flow_s=flow_tokens * token_s,
            own_s=prompt_tokens * token_s,
            mean_s=self.demand.arriving_prompt_tokens() * token_s,
            open=self.takes(1, prompt_tokens),
        )

    def prefill_s(self, prompt_tokens: float) -> float:
        """Seconds of the GPU that so many prompt tokens take."""
        return prompt_tokens * self._prompt_token_ms() / 1e3

    def decode_fraction(self) -> float:
        """Which part of the time is left for decoding beside the prompts that are read."""
        return 1 - min(self._fraction_read(self.clock_s()), MAX_READ_FRACTION)

    def slots(self, slots: int) -> int:
        """How many of the slots can be busy: fewer where the pool has room for no more."""
        if not self._running or not self.kv_tokens:
            return slots
        more = slots - self.sequences
        if self._surely_fits(more, more * self._typical_prompt_tokens(), self.typical_limit):
            return slots
        return min(slots, max(1, self.sequences + self._sequences_more()))

    def observe_service(self, entry: "QueueEntry") -> None:
        """Learn from a request that ran to its end, whether or not its slots are free already."""
        tokens = entry.ran_tokens
        if entry in self._running:
            tokens = self._count_stream_tokens() - self._running[entry]
        self.served = observe_completion(self.served, tokens / entry.work)
        self.demand.answered(
            prompt_tokens=round(entry.prompt_tokens),
            new_tokens=max(1, round(tokens)),
            sequences=entry.sequences,
        )

    def drain(self, slots: int, mean_work: float) -> Drain:
        """When the slots become free that requests hold, each `mean_work` of a whole one on
        average, and how long such a one has its slot then. How long one has run and will run is
        counted in tokens: the same answer takes longer in a larger batch and beside prompts. What
        is to come runs in a full one."""
        measured, expected = self.served.measured, self.demand.lengths.expected_new_tokens
        new_tokens = (self.served.mean_s if measured else expected) * mean_work
        token_s = self._full_token_s(slots, new_tokens)
        tokens = self._count_stream_tokens()
        sequences = [entry for entry in self._running for _ in range(entry.sequences)]
        ages_s = [(tokens - self._running[entry]) * token_s for entry in sequences]
        if measured:
            works = [entry.work for entry in sequences]
            drain = estimate_drain(self.served.times(token_s), ages_s, slots, works)
            return drain.of_work(mean_work)
        limits = (entry.max_new_tokens or NO_LIMIT for entry in sequences)
        left_s = [
            max(0.0, limit * token_s - age_s) for limit, age_s in zip(limits, ages_s, strict=True)
        ]
        drain = estimate_first_drain(new_tokens * token_s, ages_s, left_s, slots)
        return replace(drain, work=mean_work)

    def stream_token_s(self, more: int = 0) -> float:
        """Seconds between the tokens of a stream, with so many sequences more: steps, and the part
        of the time that prompts take."""
        return self._token_s(more, self._fraction_read(self.clock_s()))

    def step_s(self, sequences: int) -> float:
        """Seconds of a step with so many sequences and no prompts."""
        return self._step_ms(sequences - self.sequences) / 1e3

    def lender_token_s(self, sequences: int, prompt_tokens: float) -> float:
        """The same beside what would be lent, while its own load is at its height."""
        now_s = self.clock_s()
        own = max(0.0, self._own_height.at(now_s) - self._own_sequences)
        read_s = self.prefill_s(prompt_tokens)
        fraction = max(self._fraction_read(now_s), self._read_height.at(now_s)) + read_s / READ_S
        return self._token_s(sequences + own, fraction)

    def _token_s(self, more: float, fraction: float) -> float:
        return self._step_ms(more) / 1e3 / (1 - min(fraction, MAX_READ_FRACTION))

    def _full_token_s(self, slots: int, new_tokens: float) -> float:
        """Seconds between the tokens of a stream while all slots are busy, with requests of so many
        new tokens and prompts like those that run: as many prompts are read as answers end, so both
        take their parts of the time. What prompts took in the last seconds says less of what is to
        come: it is next to nothing when a flood begins, and rises with every long prompt."""
        step_s = self._step_ms(max(0, slots - self.sequences)) / 1e3
        read_s = max(slots, self.sequences) * self.prefill_s(self._usual_prompt_tokens())
        read_s *= self.pace.factor
        decode_s = max(new_tokens * step_s, 1e-6)
        return step_s / (1 - min(read_s / (read_s + decode_s), MAX_READ_FRACTION))

    def _usual_prompt_tokens(self) -> float:
        """Of a sequence that runs."""
        mean_tokens = self.demand.lengths.prompt_tokens
        if not self._running:
            return mean_tokens
        running_tokens = [entry.prompt_tokens for entry in self._running]
        return bounded_total(running_tokens, mean_tokens) / self.sequences

    def _count_stream_tokens(self) -> float:
        """What a stream would have got that began when the replica did: a token with each step, and
        since the last one that the engine has reported as many as its speed says."""
        now_s, since_s, demand = self.clock_s(), self._streamed_at_s, self.demand
        if demand.steps != self._steps:
            self._stepped_tokens += demand.steps - self._steps
            self._steps, since_s, self._unstepped_tokens = demand.steps, demand.stepped_at_s, 0.0
        if self._running:
            self._unstepped_tokens += (now_s - since_s) / max(self.stream_token_s(), 1e-6)
        self._streamed_at_s = now_s
        return self._stepped_tokens + self._unstepped_tokens

    def _end_reading(self, entry: QueueEntry) -> None:
        if entry in self._reading:
            del self._reading[entry]
            self._reading_tokens -= entry.prompt_tokens
            self._reading_since_s = self.clock_s()

    def _reads_soon(self) -> bool:
        if not self._reading:
            return True
        if self.shared and self._reading_tokens >= STEP_TOKENS:
            return False
        return self._reading_s(self._reading_tokens) < engine_limit_s(self.max_wait_s)

    def _reading_s(self, tokens: float) -> float:
        return tokens * self._reckoned_token_s() * self.pace.factor

    def _pool_fits(self, sequences: int, prompt_tokens: float | None, limit: int | None) -> bool:
        if not self.kv_tokens:
            return True
        if prompt_tokens is None:
            prompt_tokens = self._typical_prompt_tokens()
        if limit is None:
            limit = self.typical_limit
        if self._surely_fits(sequences, prompt_tokens, limit):
            return True
        if self.sequences + sequences > self._mean_sequences():
            return False
        left = self._answers_left().after(0.0, limit)
        new = (prompt_tokens, left), *[(0.0, left)] * (sequences - 1)
        return peak_tokens([*new, *self._in_pool()]) <= self.kv_tokens

    def _surely_fits(self, sequences: int, prompt_tokens: float, limit: int) -> bool:
        """Whether all that runs and so many more would fit into the pool at their ends, if those
        came at once: more than the peak, and known without a look at each."""
        whole_tokens = (self.sequences + sequences) * self._answers_left().whole_tokens(limit)
        return self._prompt_tokens + prompt_tokens + whole_tokens <= self.kv_tokens

    def _sequences_more(self) -> int:
        """How many more typical ones fit into the pool; below 0, how many have to end before the
        next end leaves room for another."""
        if self._pool_room is None:
            present, pool_tokens = self._in_pool(), self.kv_tokens
            left = self._answers_left().after(0.0, self.typical_limit)
            one = (self._typical_prompt_tokens(), left)
            most = self._mean_sequences() - self.sequences
            counts = range(1, max(0, most) + 1)
            more = bisect_left(
                counts, True, key=lambda more: peak_tokens([one] * more + present) > pool_tokens
            )
            if more == 0:
                more = min(0, most, 1 - ends_before(one, present, pool_tokens))
            self._pool_room = more
        return self._pool_room

    def _mean_sequences(self) -> int:
        """How many the pool holds of those that were, at a moment."""
        mean_tokens = self._typical_prompt_tokens() + self._answers_left().held_tokens
        return int(self.kv_tokens * MEAN_SHARE / max(1.0, mean_tokens))

    def _typical_prompt_tokens(self) -> float:
        """Of those that run: before many have ended, they say more than those that have."""
        if not self._running:
            return self.demand.lengths.prompt_tokens
        return self._prompt_tokens / len(self._running)

    def _in_pool(self) -> list[Held]:
        answers, tokens = self._answers_left(), self._count_stream_tokens()
        pool: list[Held] = []
        for entry, began in self._running.items():
            limit, made = entry.max_new_tokens or NO_LIMIT, 0.0
            if entry.first_token_s is not None:
                made = min(tokens - began, limit)
            one = made, answers.after(made, limit)
            pool.append((entry.prompt_tokens + one[0], one[1]))
            pool.extend([one] * (entry.sequences - 1))
        return pool

    def _answers_left(self) -> AnswersLeft:
        lengths = self.demand.lengths
        if self._answers is None or self._answers_of is not lengths.answers:
            self._answers_of = lengths.answers
            self._answers = AnswersLeft.learn(lengths.answers, lengths.expected_new_tokens)
        return self._answers

    def _fraction_read(self, now_s: float) -> float:
        """Which part of the time prompts take, by what is known now of a prompt token."""
        return self.prefill_s(self._tokens_read_per_s(now_s))

    def _tokens_read_per_s(self, now_s: float) -> float:
        return self._read_tokens_per_s * math.exp((self._read_at_s - now_s) / READ_S)

    def _prompt_token_ms(self) -> float:
        return self.demand.derived.per_prompt_token_ms * self.demand.speed.prefill_factor

    def _step_ms(self, more: float = 0.0) -> float:
        return self.demand.derived.step_ms(self.sequences + more) * self.demand.speed.decode_factor

    def _reckoned_token_s(self) -> float:
        return prompt_token_s(self._prompt_token_ms(), self._step_ms())
