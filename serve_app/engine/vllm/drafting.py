"""Which of vLLM's drafted tokens the next step verifies, decided in the engine's process.

Drafts end where a promise begins: inside of what is drafted, model runner V1 knows no `min_p`, no
bias, and no generator of a request's own, and counts a reasoning's budget by guesses. What has no
draft is sampled as without speculation. `patches/draft_limits.py` calls it once a step.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from serve_app.core.placement.engine_args import SPECULATION_KEY, SPECULATION_MEASURED
from serve_app.core.speculation.draft_lengths import (
    Acceptance,
    Offered,
    StepCost,
    draft_lengths,
    observe_cost,
    observe_draft,
)
from serve_app.engine.vllm.lean_params import lean_of

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.config import SpeculativeConfig, VllmConfig
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

# The methods that `engine.speculation` knows, and how it has vLLM run them.
METHODS = ("ngram", "suffix")
RUNNER_VARIABLE, RUNNER_V1 = "VLLM_USE_V2_MODEL_RUNNER", "0"
# Below it vLLM samples greedily.
_GREEDY = 1e-5
# Where drafts do not pay they are looked for in one of so many steps; and so often a step does
# without them, or with them, for the other kind's time to be known.
LOOK_EVERY_STEPS = 16
COMPARE_EVERY_STEPS = 64
# As long is looked on before drafts count as not paying.
STEPS_WITHOUT = 8


def limits_drafts(config: "SpeculativeConfig | None") -> bool:
    """Whether drafts are limited here: those of `engine.speculation`. Others are as vLLM has
    them."""
    chosen = os.environ.get(RUNNER_VARIABLE) == RUNNER_V1
    return config is not None and config.method in METHODS and chosen


@dataclass(frozen=True, slots=True)
class StepTaken:
    """A step that read no prompt, of which only the end is not known: the next one's begin."""

    began_s: float
    sequences: int
    drafts: int


@dataclass(slots=True)
class Drafting:
    """Of one engine. `end_id` ends a reasoning, None where the model has none; `measured`: drafts
    are verified where that makes more tokens a second, and everywhere otherwise."""

    end_id: int | None
    measured: bool
    clock_s: Callable[[], float] = time.perf_counter
    began_s: float = 0.0
    last: StepTaken | None = None
    rows_seen: set[int] = field(default_factory=set[int])
    costs: dict[int, StepCost] = field(default_factory=dict[int, StepCost])
    seen: dict[str, Acceptance] = field(default_factory=dict[str, Acceptance])
    # What was drafted for a sequence's next step, verified or not.
    offers: dict[str, list[int]] = field(default_factory=dict[str, "list[int]"])
    of_all: Acceptance = field(default_factory=Acceptance)
    steps: int = 0
    without: int = 0
    reason: str = ""

    @classmethod
    def of(cls, config: "VllmConfig") -> "Drafting":
        reasoning, added = config.reasoning_config, config.additional_config
        natural = reasoning.natural_reasoning_end_token_ids if reasoning is not None else None
        setting = added.get(SPECULATION_KEY) if isinstance(added, dict) else None
        return cls(natural[-1] if natural else None, setting == SPECULATION_MEASURED)

    def step_begins(self, scheduled: "SchedulerOutput") -> None:
        """A step takes until the next one begins: what the scheduler and the outputs need between
        two is saved with a step, too. An engine whose sequences have all ended may have waited."""
        now_s, last = self.clock_s(), self.last
        self.began_s, self.last = now_s, None
        goes_on = bool(scheduled.scheduled_cached_reqs.req_ids)
        if last is None or not goes_on:
            return
        rows = last.sequences + last.drafts
        if rows not in self.rows_seen:
            # Kernels for so many rows are generated or chosen in the first step that has them: on a
            # CPU that took 6.5 ms more where a step takes 2.
            self.rows_seen.add(rows)
            return
        size = last.sequences.bit_length()
        cost = self.costs.get(size, StepCost())
        took_s = now_s - last.began_s
        self.costs[size] = observe_cost(cost, took_s=took_s, drafts=last.drafts)

    def needs_drafts(self) -> bool:
        """False where they have not paid of late, in most steps."""
        return self.without < STEPS_WITHOUT or self.steps % LOOK_EVERY_STEPS == 0

    def limited(
        self,
        runner: "GPUModelRunner",
        scheduled: "SchedulerOutput",
        made: Sequence[Sequence[int]],
        drafts: Sequence[Sequence[int]],
    ) -> list[list[int]]:
        """What is left of the drafts, after a step that has made these ids of each sequence."""
        self.steps += 1
        allowed = [
            list(draft[: room(runner, at, self.end_id, draft)]) if draft else []
            for at, draft in enumerate(drafts)
        ]
        if not self.measured:
            return allowed
        self._learn(runner, scheduled, made)
        ids = runner.input_batch.req_ids
        self.offers = {ids[at]: draft for at, draft in enumerate(allowed) if draft}
        lengths = self._lengths([ids[at] for at in range(len(allowed))], allowed)
        self.without = 0 if any(lengths) else self.without + 1
        return [draft[:length] for draft, length in zip(allowed, lengths, strict=True)]

    def skipped(
        self, runner: "GPUModelRunner", scheduled: "SchedulerOutput", made: Sequence[Sequence[int]]
    ) -> None:
        """A step for whose next one nothing was drafted."""
        self.steps += 1
        self._learn(runner, scheduled, made)
        self.offers = {}

    def _learn(
        self, runner: "GPUModelRunner", scheduled: "SchedulerOutput", made: Sequence[Sequence[int]]
    ) -> None:
        ids = runner.input_batch.req_ids
        for at, request_id in enumerate(ids[: len(made)]):
            offer = self.offers.get(request_id)
            if offer and made[at]:
                before = self.seen.get(request_id, Acceptance())
                self.seen[request_id] = observe_draft(before, offer, made[at])
                self.of_all = observe_draft(self.of_all, offer, made[at])
        if len(self.seen) > 2 * len(ids):
            self.seen = {key: self.seen[key] for key in ids if key in self.seen}
        drafts = sum(map(len, scheduled.scheduled_spec_decode_tokens.values()))
        if scheduled.total_num_scheduled_tokens == len(made) + drafts:
            # It has read no prompt.
            self.last = StepTaken(self.began_s, len(made), drafts)

    def _lengths(self, ids: Sequence[str], allowed: Sequence[Sequence[int]]) -> list[int]:
        cost = self.costs.get(len(allowed).bit_length(), StepCost())
        prior = self.of_all.chance(0.5)
        offered = [
            Offered(len(draft), self.seen.get(request_id, Acceptance()).chance(prior))
            for request_id, draft in zip(ids, allowed, strict=True)
        ]
        lengths, self.reason = draft_lengths(offered, cost, sequences=len(allowed))
        if self.steps % COMPARE_EVERY_STEPS == 0:
            lengths = [0] * len(lengths) if any(lengths) else [draft.tokens for draft in offered]
            self.reason = "compared with the other kind of step"
        return lengths


def room(runner: "GPUModelRunner", at: int, end_id: int | None, draft: Sequence[int]) -> int:
    """How many of these drafted ids the promises to the request in this row allow."""
    state = runner.requests[runner.input_batch.req_ids[at]]
    params = state.sampling_params
    made = len(state.output_token_ids)
    if params is None or not may_draft(params, made):
        return 0
    most = len(draft)
    if params.max_tokens is not None:
        # The step makes one token more than it accepts.
        most = min(most, params.max_tokens - made - 1)
    holder: Any = runner.input_batch.thinking_budget_state_holder
    if holder is not None and (left := holder.tokens_to_draft(at)) is not None:
        if lean_of(params) is not None:
            return 0
        most = min(most, left)
    if end_id in draft:
        # What stands behind the end of a reasoning is bound otherwise.
        most = min(most, draft.index(end_id))
    return max(0, most)


def may_draft(params: "SamplingParams", made: int) -> bool:
    """Whether a request of these parameters, that has made so many tokens, is sampled from drafts
    as it is without."""
    seeded = params.seed is not None and params.temperature >= _GREEDY
    penalties = (
        params.presence_penalty or params.frequency_penalty or params.repetition_penalty != 1.0
    )
    return not (
        seeded
        or penalties
        or params.min_p > _GREEDY
        or params.logit_bias
        or params.bad_words
        or params.logprobs is not None
        or params.min_tokens > made
    )
