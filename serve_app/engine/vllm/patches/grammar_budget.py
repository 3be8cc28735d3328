"""A budget of the engine's time for each grammar.

The engine applies grammars in its only thread. The sandbox walks through every grammar, but not
along all its ways, so a slow one may still come here.
"""

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from serve_app.engine.vllm.patches.patch import Patch, replace

if TYPE_CHECKING:
    import torch
    from vllm.v1.structured_output.backend_xgrammar import XgrammarGrammar

log = logging.getLogger(__name__)

# Of the time that steps took, beyond what each token is allowed.
BUDGET_S = 1.0
# Several times what the sandbox lets pass, for this thread may have to wait for a core.
TOKEN_S = 0.010


def budgeted_grammar(
    base: "type[XgrammarGrammar]", clock_s: Callable[[], float] = time.perf_counter
) -> "type[XgrammarGrammar]":
    """vLLM's grammar of one request, which rejects what follows once it has taken too much of the
    engine's time. vLLM then ends that request with an error."""

    class BudgetedGrammar(base):
        left_s = BUDGET_S

        def fill_bitmask(self, bitmask: "torch.Tensor", idx: int) -> None:
            began_s = clock_s()
            super().fill_bitmask(bitmask, idx)
            self.left_s -= clock_s() - began_s

        def accept_tokens(self, request_id: str, tokens: list[int]) -> bool:
            began_s = clock_s()
            accepted = super().accept_tokens(request_id, tokens)
            self.left_s = min(BUDGET_S, self.left_s - (clock_s() - began_s) + TOKEN_S * len(tokens))
            if self.left_s < 0.0:
                log.warning("grammar is too slow to apply; its request ends")
                return False
            return accepted

        def validate_tokens(self, tokens: list[int]) -> list[int]:
            """Of a draft; each step then fills a mask for each of these."""
            began_s = clock_s()
            valid = super().validate_tokens(tokens)
            self.left_s = min(BUDGET_S, self.left_s - (clock_s() - began_s) + TOKEN_S * len(valid))
            return valid

    return BudgetedGrammar


def _install() -> None:
    from vllm.v1.structured_output import backend_xgrammar

    replace(backend_xgrammar, "XgrammarGrammar", budgeted_grammar)


_GRAMMAR = "vllm.v1.structured_output.backend_xgrammar:XgrammarGrammar"
PATCH = Patch(
    name="grammar_budget",
    versions=">=0.32,<0.33",
    upstream="vllm/v1/structured_output/backend_xgrammar.py, XgrammarGrammar.fill_bitmask and "
    "accept_tokens",
    remove_when="vLLM bounds the time that a request's grammar takes of a step",
    apply=_install,
    replaces=(
        _GRAMMAR,
        f"{_GRAMMAR}.fill_bitmask",
        f"{_GRAMMAR}.accept_tokens",
        f"{_GRAMMAR}.validate_tokens",
    ),
)
