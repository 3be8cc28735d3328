"""vLLM's budget of a reasoning, which ends with the reasoning also where the model ends it, and
with its request, and counts an output that is there when its request joins the batch."""

from typing import TYPE_CHECKING, Any

from serve_app.engine.vllm.patches.patch import Patch, replace

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.config.reasoning import ReasoningConfig
    from vllm.v1.sample.logits_processor.interface import BatchUpdate
    from vllm.v1.sample.thinking_budget_state import ThinkingBudgetStateHolder

# A closing phrase may have begun so many ids before what its length and the budget say.
COUNT_MARGIN_TOKENS = 2


def ended_with_the_reasoning(
    base: "type[ThinkingBudgetStateHolder]",
) -> "type[ThinkingBudgetStateHolder]":
    """Model runner V1, which the CPU has, looks for the whole closing phrase only: a reasoning that
    the model closes by itself goes on being counted, and the phrase is then written into the
    answer. Runner V2 looks for the mark alone, as is done here."""

    class NaturallyEndedBudget(base):
        def __init__(
            self, reasoning_config: "ReasoningConfig | None", *args: Any, **options: Any
        ) -> None:
            super().__init__(reasoning_config, *args, **options)
            natural = reasoning_config and reasoning_config.natural_reasoning_end_token_ids
            self._natural_end = natural[-1] if natural else None

        def sync_batch(self, batch_update: "BatchUpdate | None") -> None:
            """(1) vLLM leaves the count of an ended request in its row when one without a budget is
            moved there, and writes the closing phrase into that one. The states that logits
            processors keep are moved rightly.
            (2) It counts an output that is there already, of a preempted request or one that began
            elsewhere, as one step: where that ends inside the closing phrase, the phrase would be
            written from its begin once more. Its last ids are counted one by one."""
            from vllm.v1.sample.logits_processor.builtin import process_dict_updates

            if batch_update is None:
                return
            process_dict_updates(self._state, batch_update, self._joining)  # (1)
            # (2) Known by its list: the same update may have moved it to another row.
            joined = {id(output_ids) for *_, output_ids in batch_update.added if output_ids}
            for state in self._state.values():
                if id(output_ids := state["output_tok_ids"]) in joined:
                    self._count(state, output_ids)

        def _joining(
            self, params: "SamplingParams", prompt_ids: list[int] | None, output_ids: list[int]
        ) -> dict[str, Any] | None:
            """The count of a request that joins the batch; None: it has no budget."""
            if not self.is_enabled or params.thinking_token_budget is None:
                return None
            state = self._init_state_entry(prompt_ids, params.thinking_token_budget)
            return {**state, "output_tok_ids": output_ids, "spec_token_ids": []}

        def _count(self, state: dict[str, Any], output_ids: list[int]) -> None:
            one_by_one = len(self.think_end_token_ids) + COUNT_MARGIN_TOKENS
            for until in range(max(1, len(output_ids) - one_by_one), len(output_ids) + 1):
                state["output_tok_ids"] = output_ids[:until]
                self._update_think_state(state)
            # The list that goes on growing.
            state["output_tok_ids"] = output_ids

        def tokens_to_draft(self, index: int) -> int | None:
            """So many tokens may be drafted in this row for the next step to end inside of the
            budget, which the rows of drafts do not force. None: it is not counted there, or not any
            more."""
            state = self._state.get(index)
            if state is None or state["thinking_token_budget"] == -1:
                return None
            output_ids = state["output_tok_ids"]
            if self._natural_end in output_ids[state.get("looked_at", 0) :]:
                return None
            if state["in_end"] or state["start_thinking"] == -1:
                return 0
            counted = len(output_ids) - state["prev_output_length"]
            return max(0, state["check_count_down"] - counted - 1)

        def _update_think_state(self, state: dict[str, Any]) -> None:
            if state["thinking_token_budget"] == -1:
                return
            new_ids = state["output_tok_ids"][state.setdefault("looked_at", 0) :]
            state["looked_at"] = len(state["output_tok_ids"])
            if self._natural_end in new_ids:
                # Its own end or the forced one: there is no second reasoning.
                state["thinking_token_budget"] = -1
                state["in_end"], state["force_index"] = False, []
                return
            super()._update_think_state(state)

    return NaturallyEndedBudget


def _install() -> None:
    from vllm.v1.sample import thinking_budget_state

    replace(thinking_budget_state, "ThinkingBudgetStateHolder", ended_with_the_reasoning)


_HOLDER = "vllm.v1.sample.thinking_budget_state:ThinkingBudgetStateHolder"
PATCH = Patch(
    name="thinking_budget",
    versions=">=0.32,<0.33",
    upstream="vllm/v1/sample/thinking_budget_state.py, "
    "ThinkingBudgetStateHolder._update_think_state and sync_batch; a swap of two rows left a count "
    "behind likewise (github.com/vllm-project/vllm/pull/49613)",
    remove_when="the CPU runs model runner V2, or V1 ends the count at the model's own end mark, "
    "and with its request, and counts the output of a request that joins the batch",
    apply=_install,
    replaces=(_HOLDER, f"{_HOLDER}._update_think_state", f"{_HOLDER}.sync_batch"),
    relies_on=(
        "vllm.v1.sample.thinking_budget_state:maybe_create_thinking_budget_state_holder",
        "vllm.config.reasoning:ReasoningConfig.natural_reasoning_end_token_ids",
        f"{_HOLDER}._init_state_entry",
        "vllm.v1.sample.logits_processor.builtin:process_dict_updates",
    ),
)
