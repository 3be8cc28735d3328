"""The engine's side of grammars: what one request's takes there, others must not wait for.

The sandbox walks through every grammar, but not along all its ways. The engine applies grammars in
its only thread, so each has a budget of time; and it compiles them anew, side by side.
"""

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

log = logging.getLogger(__name__)

# Of the time that steps took, beyond what each token is allowed.
BUDGET_S = 1.0
# Several times what the sandbox lets pass, for this thread may have to wait for a core.
TOKEN_S = 0.010
# More than the sandbox lets through at once, which are few: vLLM has one thread for two cores, and
# a grammar that it has compiled already waits there behind those that are new.
COMPILERS = 8


def budgeted_grammar(
    base: type[Any], clock_s: Callable[[], float] = time.perf_counter
) -> type[Any]:
    """vLLM's grammar of one request, which rejects what follows once it has taken too much of the
    engine's time. vLLM then ends that request with an error."""

    class BudgetedGrammar(base):
        left_s = BUDGET_S

        def fill_bitmask(self, bitmask: Any, idx: int) -> None:
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

    return BudgetedGrammar


def compiling_side_by_side(initialize: Callable[..., None]) -> Callable[..., None]:
    """vLLM's StructuredOutputManager, which is initialized so, with more threads to compile in."""

    def initialize_with_compilers(manager: Any, *args: Any, **options: Any) -> None:
        initialize(manager, *args, **options)
        own = getattr(manager, "executor", None)
        if own is not None:
            # It has started no thread yet.
            own.shutdown(wait=False)
            manager.executor = ThreadPoolExecutor(COMPILERS, thread_name_prefix="grammar")

    return initialize_with_compilers
