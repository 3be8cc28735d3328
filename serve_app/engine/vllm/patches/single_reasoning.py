"""Model runner V2's budget of a reasoning, which is one for all of it and ends with it."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from serve_app.engine.vllm.patches.patch import Patch, replace

if TYPE_CHECKING:
    import torch
    from vllm.config.reasoning import ReasoningConfig
    from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsContext
    from vllm.v1.worker.gpu.sample.thinking_budget import ThinkingBudgetState
    from vllm.v1.worker.gpu.states import RequestState

# Of the state of all slots: where the reasoning has ended, and by how many tokens its last opening
# mark is behind its first one.
ENDED, MOVED = "tierserve_ended", "tierserve_moved"
_FAR = 2**31 - 1
_SAMPLER = "vllm.v1.worker.gpu.sample.sampler"


def with_one_reasoning(base: "type[ThinkingBudgetState]") -> "type[ThinkingBudgetState]":
    """Runner V2 counts from the last mark that opens a reasoning. A model that writes one inside
    its reasoning begins a new budget with each, and where an answer has one, because it speaks of
    the mark or the model reasons once more, the closing phrase is written into the answer, inside
    of JSON too. As with runner V1, a reasoning has one budget, and there is no second one."""

    class SingleReasoningBudget(base):
        def __init__(
            self, req_states: "RequestState", reasoning_config: "ReasoningConfig | None"
        ) -> None:
            import torch

            super().__init__(req_states, reasoning_config)
            if not self.enabled:
                return
            self._start = int(self.reasoning_start_token_ids[-1])
            self._end = int(self.natural_reasoning_end_token_ids[-1])
            self._first = torch.full_like(self.cached_last_start, -1)
            vars(self)[ENDED] = torch.zeros_like(self._first, dtype=torch.bool)
            vars(self)[MOVED] = torch.zeros_like(self._first)
            # As many tokens as one step adds.
            self._back = torch.arange(1, req_states.num_speculative_steps + 2, device=self.device)

        def apply_staged_writes(self) -> None:
            joined = sorted(set(self._reset_reqs)) if self.enabled else []
            super().apply_staged_writes()
            if joined:
                self._join(joined)

        def apply(self, logits: "torch.Tensor", ctx: "LogitsContext") -> None:
            import torch

            if not self.enabled or not self.use_thinking_budget[ctx.idx_mapping_np].any():
                return
            slots = ctx.idx_mapping.long()
            total = self.req_states.total_len.gpu[slots].long()
            at = total[:, None] - self._back
            ids = self.req_states.all_token_ids.gpu[slots[:, None], at.clamp(min=0)]
            self._look(slots, ids, at, total)
            budgets: Any = self.thinking_token_budget
            given = budgets.gpu
            left = (given - vars(self)[MOVED]).clamp(min=0)
            # Without a budget, vLLM's kernels leave a sequence alone.
            budgets.gpu = torch.where(vars(self)[ENDED] | (given < 0), -1, left)
            try:
                super().apply(logits, ctx)
            finally:
                budgets.gpu = given

        def _join(self, joined: Sequence[int]) -> None:
            """The prompt's last mark, and what is there of an output: preempted and resumed
            requests join with one."""
            import torch

            requests, device = self.req_states, self.device
            slots = torch.tensor(joined, device=device)
            ids = requests.all_token_ids.gpu[slots]
            at = torch.arange(ids.shape[1], device=device).expand_as(ids)
            in_prompt = at < requests.prompt_len.gpu[slots][:, None]
            marks = torch.where((ids == self._start) & in_prompt, at, -1)
            self._first[slots] = marks.amax(dim=1).to(self._first.dtype)
            vars(self)[ENDED][slots] = False
            vars(self)[MOVED][slots] = 0
            total = requests.prefill_len.gpu[slots].long()
            if (requests.prefill_len.np[joined] > requests.prompt_len.np[joined]).any():
                self._look(slots, ids, at, total)

        def _look(
            self,
            slots: "torch.Tensor",
            ids: "torch.Tensor",
            at: "torch.Tensor",
            total: "torch.Tensor",
        ) -> None:
            """Take the ids at these positions into account, as far as they are output."""
            import torch

            begun = self.req_states.prompt_len.gpu[slots].long()
            written = (at >= begun[:, None]) & (at < total[:, None])
            vars(self)[ENDED][slots] |= ((ids == self._end) & written).any(dim=1)
            marks = (ids == self._start) & written
            last = torch.where(marks, at, -1).amax(dim=1).to(self._first.dtype)
            # A prompt that opens no reasoning leaves that to the output.
            opening = torch.where(marks, at, ids.new_tensor(_FAR)).amin(dim=1)
            first = self._first[slots]
            opens = (first < 0) & (last >= 0)
            first = torch.where(opens, opening.to(first.dtype), first)
            self._first[slots] = first
            vars(self)[MOVED][slots] = torch.maximum(vars(self)[MOVED][slots], last - first)

    return SingleReasoningBudget


def _install() -> None:
    from vllm.v1.worker.gpu.sample import thinking_budget

    replace(thinking_budget, "ThinkingBudgetState", with_one_reasoning)
    # The sampler takes it by its name, when it is imported.
    if _SAMPLER in sys.modules:
        made = thinking_budget.ThinkingBudgetState
        replace(sys.modules[_SAMPLER], "ThinkingBudgetState", lambda _: made)


_STATE = "vllm.v1.worker.gpu.sample.thinking_budget:ThinkingBudgetState"
_REQUESTS = "vllm.v1.worker.gpu.states:RequestState"
PATCH = Patch(
    name="single_reasoning",
    versions=">=0.32,<0.33",
    upstream="vllm/v1/worker/gpu/sample/thinking_budget.py, _thinking_budget_kernel",
    remove_when="model runner V2 gives one budget to all of an output's reasonings, or counts the "
    "first one only",
    apply=_install,
    replaces=(_STATE, f"{_STATE}.apply", f"{_STATE}.apply_staged_writes"),
    relies_on=(
        f"{_SAMPLER}:ThinkingBudgetState",
        f"{_STATE}.enabled",
        f"{_STATE}.thinking_token_budget",
        f"{_STATE}.use_thinking_budget",
        f"{_STATE}.reasoning_start_token_ids",
        f"{_STATE}.natural_reasoning_end_token_ids",
        f"{_STATE}.cached_last_start",
        f"{_STATE}.device",
        f"{_STATE}.req_states",
        f"{_STATE}._reset_reqs",
        f"{_REQUESTS}.all_token_ids",
        f"{_REQUESTS}.prompt_len",
        f"{_REQUESTS}.prefill_len",
        f"{_REQUESTS}.total_len",
        f"{_REQUESTS}.num_speculative_steps",
    ),
)
