"""vLLM's budget of a reasoning, which ends with the reasoning also where the model ends it."""

from typing import TYPE_CHECKING, Any

from serve_app.engine.vllm.patches.patch import Patch, replace

if TYPE_CHECKING:
    from vllm.config.reasoning import ReasoningConfig
    from vllm.v1.sample.thinking_budget_state import ThinkingBudgetStateHolder


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
    "ThinkingBudgetStateHolder._update_think_state",
    remove_when="the CPU runs model runner V2, or V1 ends the count at the model's own end mark",
    apply=_install,
    replaces=(_HOLDER, f"{_HOLDER}._update_think_state"),
    relies_on=(
        "vllm.v1.sample.thinking_budget_state:maybe_create_thinking_budget_state_holder",
        "vllm.config.reasoning:ReasoningConfig.natural_reasoning_end_token_ids",
    ),
)
