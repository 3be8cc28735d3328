"""The end of a reasoning, made likelier as its budget is spent, where vLLM counts the budget.

vLLM's own way to change logits is a logits processor, which would count each sequence's tokens once
more; with speculative decoding, runner V1 takes none. The budget's state has the count, and knows
whether the reasoning is open. Sequences that do not lean cost a look at their state each step, and
no work on the logits.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from serve_app.engine.vllm.lean_params import lean_of
from serve_app.engine.vllm.patches.patch import Patch, replace
from serve_app.engine.vllm.patches.single_reasoning import ENDED, MOVED

if TYPE_CHECKING:
    import torch
    from vllm import SamplingParams
    from vllm.v1.sample.logits_processor.interface import BatchUpdate
    from vllm.v1.sample.thinking_budget_state import ThinkingBudgetStateHolder
    from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsContext
    from vllm.v1.worker.gpu.sample.thinking_budget import ThinkingBudgetState

# Of a sequence's state, and of V2's state of all: what leans there.
_LEAN, _LEANS, _END = "tierserve_lean", "tierserve_leans", "tierserve_end"


def knowing_what_leans(sync: Callable[..., None]) -> Callable[..., None]:
    """Runner V1: sequences that join the batch, with what their parameters say."""

    def sync_batch(holder: "ThinkingBudgetStateHolder", update: "BatchUpdate | None") -> None:
        # First: a sequence that joins may be moved in the same update, with its state.
        leans = {
            id(output_ids): lean
            for _, params, _, output_ids in (update.added if update else ())
            if (lean := lean_of(params)) is not None
        }
        sync(holder, update)
        if not leans:
            return
        for state in holder._state.values():
            lean = leans.get(id(state["output_tok_ids"]))
            if lean is not None:
                state[_LEAN] = lean

    return sync_batch


def with_a_lean(apply: "Callable[..., torch.Tensor]") -> "Callable[..., torch.Tensor]":
    """Runner V1: the logits of a step, the forced ones among them."""

    def apply_to_logits(
        holder: "ThinkingBudgetStateHolder",
        logits: "torch.Tensor",
        predict_bonus_token: bool,
        spec_token_ids: list[list[int]] | None,
    ) -> "torch.Tensor":
        logits = apply(holder, logits, predict_bonus_token, spec_token_ids)
        rows, biases = list[int](), list[float]()
        for index, state in holder._state.items():
            if _LEAN not in state or not _is_open(state):
                continue
            # Of drafted tokens the first row is the target's: behind them nobody knows yet whether
            # the reasoning is open. Where others have drafts, one without has its row with the
            # bonus tokens.
            if holder.in_spec_mode and predict_bonus_token == bool(state["spec_token_ids"]):
                continue
            budget = state["thinking_token_budget"]
            bias = state[_LEAN].bias(budget - state["check_count_down"], budget)
            row = holder.cu_num_tokens.get(index, logits.shape[0])
            if bias > 0 and row < logits.shape[0]:
                rows.append(row)
                biases.append(bias)
        if rows:
            logits[rows, holder.think_end_token_ids[-1]] += logits.new_tensor(biases)
        return logits

    return apply_to_logits


def _is_open(state: dict[str, Any]) -> bool:
    """Whether its reasoning has neither ended nor is about to be closed."""
    return state["thinking_token_budget"] > 0 and state["in_think"] and not state["in_end"]


def adding_what_leans(add: Callable[..., bool]) -> Callable[..., bool]:
    """Runner V2: a sequence that is given a slot."""

    def add_request(
        state: "ThinkingBudgetState", slot: int, sampling_params: "SamplingParams"
    ) -> bool:
        import numpy as np

        used = add(state, slot, sampling_params)
        lean = lean_of(sampling_params) if used else None
        leans = vars(state).get(_LEANS)
        if lean is not None and leans is None:
            leans = vars(state)[_LEANS] = np.zeros((state.max_num_reqs, 2), dtype=np.float32)
            vars(state)[_END] = int(state.natural_reasoning_end_token_ids[-1])
        if leans is not None:
            leans[slot] = (0.0, 0.0) if lean is None else (lean.most, lean.begins_at)
        return used

    return add_request


def applying_a_lean(apply: Callable[..., None]) -> Callable[..., None]:
    """Runner V2, whose markers are up to date once it has applied the budget."""

    def apply_with_lean(
        state: "ThinkingBudgetState", logits: "torch.Tensor", ctx: "LogitsContext"
    ) -> None:
        import torch

        apply(state, logits, ctx)
        leans = vars(state).get(_LEANS)
        if leans is None or not leans[ctx.idx_mapping_np, 0].any():
            return
        slots = ctx.expanded_idx_mapping.long()
        of_row = torch.from_numpy(leans).to(logits.device, non_blocking=True)[slots]
        most, begins_at = of_row[:, 0], of_row[:, 1]
        start, end = state.cached_last_start[slots], state.cached_last_end[slots]
        # Behind drafted tokens nobody knows yet whether the reasoning is open.
        is_open = (start > end) & (ctx.expanded_local_pos == 0)
        if ENDED in vars(state):
            is_open &= ~vars(state)[ENDED][slots]
            start = start - vars(state)[MOVED][slots]
        begun = start + state.reasoning_start_token_ids.shape[0]
        spent = (state.req_states.total_len.gpu[slots] - begun).float()
        budget = state.thinking_token_budget.gpu[slots].float().clamp(min=1.0)
        is_open &= spent < budget
        share = ((spent / budget - begins_at) / (1.0 - begins_at)).clamp(0.0, 1.0)
        logits[:, vars(state)[_END]] += torch.where(is_open, most * share, 0.0).to(logits.dtype)

    return apply_with_lean


def _install() -> None:
    from vllm.v1.sample import thinking_budget_state
    from vllm.v1.worker.gpu.sample.thinking_budget import ThinkingBudgetState

    # The class that `thinking_budget` has put there, where it is installed.
    holder = thinking_budget_state.ThinkingBudgetStateHolder
    replace(holder, "sync_batch", knowing_what_leans)
    replace(holder, "apply_to_logits", with_a_lean)
    replace(ThinkingBudgetState, "add_request", adding_what_leans)
    replace(ThinkingBudgetState, "apply", applying_a_lean)


_HOLDER = "vllm.v1.sample.thinking_budget_state:ThinkingBudgetStateHolder"
_STATE = "vllm.v1.worker.gpu.sample.thinking_budget:ThinkingBudgetState"
PATCH = Patch(
    name="reasoning_lean",
    versions=">=0.32,<0.33",
    upstream="vllm/v1/sample/thinking_budget_state.py and "
    "vllm/v1/worker/gpu/sample/thinking_budget.py",
    remove_when="vLLM takes a bias of the reasoning's end beside its thinking_token_budget",
    apply=_install,
    replaces=(
        f"{_HOLDER}.sync_batch",
        f"{_HOLDER}.apply_to_logits",
        f"{_STATE}.add_request",
        f"{_STATE}.apply",
    ),
)
