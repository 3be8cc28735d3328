"""vLLM's model runner V2 without a model: its states and kernels, driven by hand."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

# Its stand-ins for what CUDA has, before anything takes the originals.
import vllm.v1.worker.cpu.shm  # noqa: F401
from vllm.v1.worker.gpu.sample import thinking_budget
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsContext
from vllm.v1.worker.gpu.states import RequestState

from serve_app.core.reasoning.lean import Lean
from serve_app.engine.vllm.patches.reasoning_lean import adding_what_leans, applying_a_lean
from serve_app.engine.vllm.patches.single_reasoning import with_one_reasoning
from tests.engine.budget_cases import CONFIG, PROMPT, VOCABULARY, Sequenced, asked

CONTEXT, SLOTS = 128, 4
OWN: Any = thinking_budget.ThinkingBudgetState


# As the registry installs them, one behind the other.
Patched: Any = with_one_reasoning(OWN)
Patched.add_request = adding_what_leans(Patched.add_request)
Patched.apply = applying_a_lean(Patched.apply)


class Batch:
    """Slots, of which some have a sequence."""

    def __init__(self, state: Any = Patched, drafts: int = 0) -> None:
        device = torch.device("cpu")
        self.requests: Any = RequestState(SLOTS, CONTEXT, CONTEXT, drafts, VOCABULARY, device)
        self.budgets = state(self.requests, CONFIG)

    def join(
        self, name: str, params: Any, output: Sequence[int] = (), prompt: Sequence[int] = PROMPT
    ) -> int:
        """Its slot."""
        ids = [*prompt, *output]
        self.requests.add_request(name, len(prompt), ids, 0, CONTEXT - len(prompt))
        slot = self.requests.req_id_to_index[name]
        self.budgets.add_request(slot, params)
        self.requests.apply_staged_writes()
        self.budgets.apply_staged_writes()
        return slot

    def leave(self, name: str) -> None:
        self.requests.remove_request(name)

    def write(self, slot: int, *tokens: int) -> None:
        total = int(self.requests.total_len.gpu[slot])
        for at, token in enumerate(tokens, total):
            self.requests.all_token_ids.gpu[slot, at] = token
        self.requests.total_len.gpu[slot] = total + len(tokens)

    def logits(self, slots: Sequence[int], drafts: Sequence[Sequence[int]] | None = None) -> Any:
        """What becomes of logits of 0.0: for each slot one row, and one behind each draft."""
        drafted = drafts or [()] * len(slots)
        rows, at, ids = list[int](), list[int](), list[int]()
        for slot, draft in zip(slots, drafted, strict=True):
            last = int(self.requests.total_len.gpu[slot]) - 1
            rows += [slot] * (len(draft) + 1)
            at += range(len(draft) + 1)
            ids += [int(self.requests.all_token_ids.gpu[slot, last]), *draft]
        logits = torch.zeros(len(rows), VOCABULARY)
        context: Any = LogitsContext(
            expanded_idx_mapping=torch.tensor(rows, dtype=torch.int32),
            idx_mapping=torch.tensor(list(slots), dtype=torch.int32),
            idx_mapping_np=np.array(list(slots)),
            expanded_local_pos=torch.tensor(at, dtype=torch.int32),
            input_ids=torch.tensor(ids, dtype=torch.int32),
            pos=torch.tensor(at),
            seq_lens_upper_bound_np=np.zeros(len(slots), dtype=np.int32),
        )
        self.budgets.apply(logits, context)
        return logits


class SequenceV2:
    """One sequence in a batch of its own."""

    def __init__(self, state: Any, output: Sequence[int], params: Any) -> None:
        self.batch = Batch(state)
        self.slot = self.batch.join("one", params, output)

    def logits(self) -> Any:
        return self.batch.logits([self.slot])[0]

    def write(self, token: int) -> None:
        self.batch.write(self.slot, token)


def begin(output: Sequence[int], budget: int, lean: Lean | None = None) -> Sequenced:
    """On runner V2 as it is patched."""
    return SequenceV2(Patched, output, asked(budget, lean))


def begin_unpatched(output: Sequence[int], budget: int, lean: Lean | None = None) -> Sequenced:
    return SequenceV2(OWN, output, asked(budget, lean))
