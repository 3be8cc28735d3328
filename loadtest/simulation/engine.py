"""A simulated engine: vLLM's continuous batching, step by step, with a KV pool.

A step gives each decoding sequence a token and fills what is left of `step_tokens` with prompts in
order of arrival. It takes `base + per_sequence * sequences + per_context * their contexts +
per_prompt_token * prompt tokens`, or what the profile has in its place (`GpuProfile`). Steps
between which nothing changes are taken together, as a *stride*; its duration is the exact sum, as
each step's contexts are longer by a token a sequence.
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

from loadtest.simulation.profile import GpuProfile, pairs
from loadtest.simulation.sim_request import SimRequest
from serve_app.api.demand import DemandMeter

# The meter learns the step time from a step of each kind in so many seconds, not from every one.
LEARN_EVERY_S = 0.5


@dataclass(slots=True, eq=False)
class SimulatedEngine:
    """Busy until `stride_end_s`, when `end_stride` is due; idle where that is None."""

    profile: GpuProfile
    meter: DemandMeter
    stride_end_s: float | None = None
    preempted: int = 0
    output_tokens: int = 0
    # Called when a prompt has been read.
    first_token: Callable[[SimRequest], None] = lambda _: None
    _base_s: float = field(init=False)
    _per_sequence_s: float = field(init=False)
    _per_context_s: float = field(init=False)
    _per_prompt_s: float = field(init=False)
    _per_pair_s: float = field(init=False)
    _begin_s: float = field(init=False)
    _size: float = field(init=False)
    # Of a profile with a curve: what steps took so far, by their sequences. Else it stays None.
    _on_curve_s: dict[int, float] | None = None
    _step_tokens: int = field(init=False)
    _kv_tokens: int = field(init=False)
    # Of sequences that decode: the step that yields the last token, then in order of arrival.
    _decoding: list[tuple[int, int, SimRequest]] = field(default_factory=list)
    _prompts: deque[SimRequest] = field(default_factory=deque)
    _prefilled: list[SimRequest] = field(default_factory=list)
    # Tokens in the KV pool: of sequences that decode, and of prompts on their way.
    _context: int = 0
    _reserved: int = 0
    _steps: int = 0
    _taken: int = 0
    _stride_start_s: float = 0.0
    _stride_steps: int = 0
    _stride_sequences: int = 0
    _stride_prompt_tokens: int = 0
    _first_step_s: float = 0.0
    _growth_s: float = 0.0
    _unlearnt_steps: int = 0
    _learnt_decode_s: float = -math.inf
    _learnt_prompt_s: float = -math.inf

    def __post_init__(self) -> None:
        self._base_s = self.profile.base_ms.value / 1e3
        self.resize(1.0)

    def resize(self, size: float) -> None:
        """Be a part of a GPU: with that part of a batch a step takes as long as it does on the
        whole GPU with the whole batch. It holds from the next stride on."""
        profile = self.profile
        self._per_sequence_s = profile.per_sequence_ms.value / 1e3 / size
        self._per_context_s = profile.per_context_ktoken_ms.value / 1e6 / size
        self._per_prompt_s = profile.per_prompt_token_ms.value / 1e3 / size
        self._per_pair_s = profile.pairs_ms(1e6) / 1e9 / size
        self._begin_s = profile.begin_ms / 1e3 / size
        self._size = size
        self._on_curve_s = None if profile.by_sequences is None else {}
        self._step_tokens = max(1, int(profile.step_tokens.value * size))
        self._kv_tokens = max(1, int(profile.kv_tokens.value * size))

    @property
    def running(self) -> int:
        return len(self._decoding) + len(self._prompts) + len(self._prefilled)

    @property
    def waiting(self) -> int:
        """Requests that hold a slot but no place in the KV pool."""
        return sum(1 for request in self._prompts if not request.in_pool)

    @property
    def kv_usage(self) -> float:
        """Part of the KV pool that is taken."""
        return (self._context + self._reserved) / self._kv_tokens

    def take(self, request: SimRequest, now_s: float) -> bool:
        """Its prefill begins with the next step. Whether `stride_end_s` has changed."""
        self._prompts.append(request)
        if self.stride_end_s is None:
            self._begin_stride(now_s)
            return True
        return self._stride_steps > 1 and self._cut_stride(now_s)

    def end_stride(self, now_s: float) -> list[SimRequest]:
        """The requests that end now; the next steps begin."""
        steps = self._stride_steps
        self._steps += steps
        self._context += self._stride_sequences * steps
        self.output_tokens += self._stride_sequences * steps
        self._learn(now_s)
        ended = self._end_prefills(now_s)
        decoding = self._decoding
        while decoding and decoding[0][0] <= self._steps:
            request = heappop(decoding)[2]
            self._context -= request.pool_tokens + request.tokens_left
            ended.append(request)
        self._begin_stride(now_s)
        return ended

    def work_s(self, prompt_tokens: int, new_tokens: int, slots: int) -> float:
        """Seconds of this engine with all slots busy that a request takes: `StepModel.request_s`,
        and the reading of its own context."""
        mean_context = prompt_tokens + new_tokens / 2
        token_s = self._batch_s(slots) / slots + self._per_context_s * mean_context
        prompt_s = prompt_tokens * self._per_prompt_s + pairs(0, prompt_tokens) * self._per_pair_s
        return new_tokens * token_s + prompt_s + self._begin_s

    def _batch_s(self, sequences: int) -> float:
        """Of a step without contexts and prompts."""
        known = self._on_curve_s
        if known is None:
            return self._base_s + self._per_sequence_s * sequences
        batch_s = known.get(sequences)
        if batch_s is None:
            batch_s = known[sequences] = self.profile.batch_ms(sequences / self._size) / 1e3
        return batch_s

    def _end_prefills(self, now_s: float) -> list[SimRequest]:
        """The step that ends a prompt yields a token. Those for which it is the last one."""
        ended: list[SimRequest] = []
        for request in self._prefilled:
            self._reserved -= request.pool_tokens
            if request.first_token_s is None:
                request.first_token_s = now_s
                self.output_tokens += 1
                self.first_token(request)
            if request.tokens_left == 1:
                ended.append(request)
                continue
            self._taken += 1
            heappush(self._decoding, (self._steps + request.tokens_left - 1, self._taken, request))
            self._context += request.pool_tokens + 1
        self._prefilled.clear()
        return ended

    def _begin_stride(self, now_s: float) -> None:
        if not self._decoding and not self._prompts:
            self.stride_end_s = None
            return
        if self._context + len(self._decoding) + self._reserved > self._kv_tokens:
            self._preempt()
        sequences = len(self._decoding)
        first_s = self._batch_s(sequences) + self._per_context_s * self._context
        prompt_tokens = 0
        if self._prompts:
            prompt_tokens, beside_s = self._prefill(self._step_tokens - sequences, now_s)
            first_s += self._per_prompt_s * prompt_tokens + beside_s
        steps = 1
        if not prompt_tokens:
            room = (self._kv_tokens - self._context - self._reserved) // sequences
            steps = max(1, min(self._decoding[0][0] - self._steps, room))
        self._stride_start_s, self._stride_steps = now_s, steps
        self._stride_sequences, self._stride_prompt_tokens = sequences, prompt_tokens
        self._first_step_s, self._growth_s = first_s, self._per_context_s * sequences
        self.stride_end_s = now_s + self._taking_s(steps)

    def _taking_s(self, steps: int) -> float:
        """So many steps of this stride."""
        return steps * self._first_step_s + self._growth_s * steps * (steps - 1) / 2

    def _prefill(self, budget: int, now_s: float) -> tuple[int, float]:
        """Prompt tokens of this step, and what prompts take beside what each token takes. A prompt
        begins only if the pool can hold it."""
        tokens, beside_s = 0, 0.0
        prompts, decoding = self._prompts, len(self._decoding)
        while prompts and tokens < budget:
            request = prompts[0]
            if not request.in_pool:
                used = self._context + decoding + self._reserved
                if used and used + request.pool_tokens >= self._kv_tokens:
                    break
                self._reserved += request.pool_tokens
                request.in_pool = True
                if request.started_s is None:
                    request.started_s = now_s
            part = min(request.prefill_left, budget - tokens)
            before = request.pool_tokens - request.prefill_left
            beside_s += pairs(before, part) * self._per_pair_s + (0.0 if before else self._begin_s)
            request.prefill_left -= part
            tokens += part
            if request.prefill_left:
                break
            self._prefilled.append(prompts.popleft())
        return tokens, beside_s

    def _preempt(self) -> None:
        """As vLLM: the newest sequences leave the pool, and prefill all their tokens again."""
        while (
            len(self._decoding) > 1
            and self._context + len(self._decoding) + self._reserved > self._kv_tokens
        ):
            newest = max(self._decoding, key=lambda entry: entry[1])
            self._decoding.remove(newest)
            heapify(self._decoding)
            last_step, _, request = newest
            left = last_step - self._steps
            made = request.tokens_left - left
            self._context -= request.pool_tokens + made
            request.pool_tokens += made
            request.prefill_left, request.tokens_left, request.in_pool = (
                request.pool_tokens,
                left,
                False,
            )
            # Behind a prompt that is in the pool with its first part.
            self._prompts.insert(1 if self._prompts and self._prompts[0].in_pool else 0, request)
            self.preempted += 1

    def _cut_stride(self, now_s: float) -> bool:
        """End the stride with the step that runs now."""
        elapsed_s = now_s - self._stride_start_s
        half_growth_s = self._growth_s / 2
        linear_s = self._first_step_s - half_growth_s
        if half_growth_s * elapsed_s > 1e-15:
            root = math.sqrt(linear_s * linear_s + 4 * half_growth_s * elapsed_s)
            done = (root - linear_s) / (2 * half_growth_s)
        else:
            done = elapsed_s / self._first_step_s
        steps = int(done) + 1
        if steps >= self._stride_steps:
            return False
        self._stride_steps = steps
        self.stride_end_s = self._stride_start_s + self._taking_s(steps)
        return True

    def _learn(self, now_s: float) -> None:
        prompt_tokens, steps = self._stride_prompt_tokens, self._stride_steps
        self._unlearnt_steps += steps
        learnt_s = self._learnt_prompt_s if prompt_tokens else self._learnt_decode_s
        if now_s < learnt_s + LEARN_EVERY_S:
            return
        if prompt_tokens:
            self._learnt_prompt_s = now_s
        else:
            self._learnt_decode_s = now_s
        self.meter.step(
            took_ms=(now_s - self._stride_start_s) / steps * 1e3,
            sequences=self._stride_sequences,
            prompt_tokens=prompt_tokens,
            steps=self._unlearnt_steps,
        )
        self._unlearnt_steps = 0
