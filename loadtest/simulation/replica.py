"""A simulated replica: vLLM's continuous batching, step by step, on a card's derived step times."""

from collections import deque
from dataclasses import dataclass, field
from heapq import heappop, heappush

from loadtest.simulation.trace import Request
from serve_app.core.step_time import StepModel
from serve_app.core.work import (
    ArrivalRate,
    LearntLengths,
    observe_arrival,
    observe_lengths,
    request_work_s,
)

# vLLM's default number of tokens in one step on these cards.
STEP_TOKENS = 2048
# Steps that nothing interrupts are taken together, up to about this time.
LONGEST_STRIDE_S = 0.5


@dataclass(slots=True, eq=False)
class Replica:
    """One engine on one card. It is busy until `stride_end_s`, when `end_stride` is due."""

    card: str
    model: StepModel
    slots: int
    lengths: LearntLengths
    ready_s: float
    stopping_s: float | None = None
    borrowed: int = 0
    stride_end_s: float | None = None
    arrivals: ArrivalRate = field(init=False)
    _prompts: deque[list] = field(default_factory=deque)  # pyright: ignore[reportMissingTypeArgument]
    _decoding: list[tuple[int, int, Request]] = field(default_factory=list)
    _steps: int = 0
    _stride_start_s: float = 0.0
    _stride_steps: int = 0
    _stride_prompts: list[Request] = field(default_factory=list)
    _taken: int = 0

    def __post_init__(self) -> None:
        self.arrivals = ArrivalRate(self.ready_s, self.ready_s)

    @property
    def running(self) -> int:
        return len(self._decoding) + len(self._prompts) + len(self._stride_prompts)

    @property
    def waiting_in_engine(self) -> int:
        """Requests that hold a slot but whose prefill has not begun."""
        return sum(1 for request, _ in self._prompts if request.started_s is None)

    @property
    def typical_s(self) -> float:
        """Work of a typical request here, in seconds of this replica when full."""
        return self.work_s(1 << 30)

    def work_s(self, limit: int) -> float:
        return request_work_s(self.model, self.lengths, slots=self.slots, limit=limit)

    def count_arrival(self, request: Request, now_s: float) -> None:
        self.arrivals = observe_arrival(
            self.arrivals, now_s=now_s, work_s=self.work_s(request.limit)
        )

    def take(self, request: Request, now_s: float) -> None:
        """Give it a slot; its prefill begins with the next step."""
        self._prompts.append([request, request.prompt_tokens])
        if self.stride_end_s is None:
            self._begin_stride(now_s)
        elif self._stride_steps > 1:
            self._cut_stride(now_s)

    def end_stride(self, now_s: float) -> list[Request]:
        """The requests that end now; the next steps begin."""
        self._steps += self._stride_steps
        for request in self._stride_prompts:
            # The step that ends a prompt yields the first token.
            self._taken += 1
            heappush(self._decoding, (self._steps + request.new_tokens - 1, self._taken, request))
        self._stride_prompts = []
        ended = []
        while self._decoding and self._decoding[0][0] <= self._steps:
            request = heappop(self._decoding)[2]
            self.lengths = observe_lengths(
                self.lengths, prompt_tokens=request.prompt_tokens, answer=request.new_tokens
            )
            ended.append(request)
        self._begin_stride(now_s)
        return ended

    def _begin_stride(self, now_s: float) -> None:
        sequences = len(self._decoding)
        if not sequences and not self._prompts:
            self.stride_end_s = None
            return
        self._stride_start_s = now_s
        prompt_tokens = self._prefill(STEP_TOKENS - sequences, now_s)
        step_s = self.model.step_ms(sequences, prompt_tokens) / 1e3
        self._stride_steps = 1
        if not prompt_tokens:
            to_end = self._decoding[0][0] - self._steps
            self._stride_steps = max(1, min(to_end, int(LONGEST_STRIDE_S / step_s)))
        self.stride_end_s = now_s + self._stride_steps * step_s

    def _prefill(self, budget: int, now_s: float) -> int:
        """Prompt tokens of this step, in order of arrival."""
        tokens = 0
        while self._prompts and tokens < budget:
            head = self._prompts[0]
            request: Request = head[0]
            if request.started_s is None:
                request.started_s = now_s
            part = min(head[1], budget - tokens)
            head[1] -= part
            tokens += part
            if head[1]:
                break
            self._prompts.popleft()
            self._stride_prompts.append(request)
        return tokens

    def _cut_stride(self, now_s: float) -> None:
        """End the stride with the step that runs now."""
        assert self.stride_end_s is not None
        step_s = (self.stride_end_s - self._stride_start_s) / self._stride_steps
        steps = min(self._stride_steps, int((now_s - self._stride_start_s) / step_s) + 1)
        self._stride_steps = steps
        self.stride_end_s = self._stride_start_s + steps * step_s
