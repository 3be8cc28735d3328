"""The budgets of reasonings in vLLM's own batch, whose rows are given away, filled and swapped."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.engine.vllm.patches.reasoning_lean import knowing_what_leans
from serve_app.engine.vllm.patches.thinking_budget import ended_with_the_reasoning
from tests.engine.budget_cases import CONFIG, PROMPT, VOCABULARY

# As in test_patched_vllm.
pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(300)]

ROWS = 6
# Of a step: which rows end, the budgets of those that join, and two rows that change places.
STEPS = st.lists(
    st.tuples(
        st.sets(st.integers(0, ROWS - 1)),
        st.lists(st.sampled_from([None, 3, 9]), max_size=ROWS),
        st.tuples(st.integers(0, ROWS - 1), st.integers(0, ROWS - 1)),
    ),
    min_size=1,
    max_size=8,
)


def test_vllms_holder_keeps_the_budget_of_one_that_has_ended() -> None:
    """What `thinking_budget` is for: a row that is filled from behind has it still."""
    import vllm.v1.sample.thinking_budget_state as vllms

    batch = Batch(_unpatched(vllms.ThinkingBudgetStateHolder))
    batch.step(set(), [9, None], (0, 0))
    batch.step({0}, [], (0, 0))
    assert batch.budgets() == {0: None}
    assert set(batch.counted()) == {0}


@settings(deadline=None)
@given(STEPS)
def test_a_row_has_the_budget_of_its_request_and_no_other(steps: list[Any]) -> None:
    import vllm.v1.sample.thinking_budget_state as vllms

    patched = ended_with_the_reasoning(_unpatched(vllms.ThinkingBudgetStateHolder))
    batch = Batch(
        type("Leaning", (patched,), {"sync_batch": knowing_what_leans(patched.sync_batch)})
    )
    for step in steps:
        batch.step(*step)
        budgets = {row: budget for row, budget in batch.budgets().items() if budget is not None}
        counted = batch.counted()
        assert {row: state["thinking_token_budget"] for row, state in counted.items()} == budgets
        assert all(state["output_tok_ids"] is batch.output(row) for row, state in counted.items())


class Batch:
    """vLLM's batch of a CPU's model runner, with requests that each have a budget or none."""

    def __init__(self, holder: type) -> None:
        import torch
        from vllm.v1.worker.gpu_input_batch import InputBatch

        cpu = torch.device("cpu")
        self.batch = InputBatch(ROWS, 64, 64, cpu, VOCABULARY, [16], [4])
        self.holder = holder(CONFIG, ROWS, 0, cpu, False)
        self.batch.thinking_budget_state_holder = self.holder
        self.requests: dict[str, Any] = {}
        self._joined = 0

    def step(self, ended: set[int], budgets: list[int | None], swapped: tuple[int, int]) -> None:
        """In vLLM's order: who has ended, who joins, no row left empty, two rows sorted."""
        batch = self.batch
        for name in [batch.req_ids[row] for row in sorted(ended) if row < batch.num_reqs]:
            batch.remove_request(name)
            del self.requests[name]
        for budget in budgets[: ROWS - batch.num_reqs]:
            self._join(budget)
        batch.condense()
        one, other = swapped
        if one != other and max(swapped) < batch.num_reqs:
            batch.swap_states(one, other)
        batch.refresh_metadata()

    def budgets(self) -> dict[int, int | None]:
        """By row, as the requests in them have them."""
        names = enumerate(self.batch.req_ids)
        return {row: self._params(name).thinking_token_budget for row, name in names}

    def counted(self) -> dict[int, dict[str, Any]]:
        """What the holder counts, by row."""
        return dict(self.holder._state)

    def output(self, row: int) -> list[int]:
        return self.requests[self.batch.req_ids[row]].output_token_ids

    def _params(self, name: str) -> Any:
        return self.requests[name].sampling_params

    def _join(self, budget: int | None) -> None:
        from vllm import SamplingParams
        from vllm.v1.worker.gpu_input_batch import CachedRequestState

        self._joined += 1
        name = f"request {self._joined}"
        params = SamplingParams(thinking_token_budget=budget)
        output = [5] * (self._joined % 3)
        request = CachedRequestState(name, PROMPT, [], params, None, ([0],), 0, output)
        self.requests[name] = request
        self.batch.add_request(request)


def _unpatched(holder: Any) -> Any:
    """vLLM's own class, whatever is installed in this process."""
    return next(base for base in holder.__mro__ if base.__module__.startswith("vllm."))
