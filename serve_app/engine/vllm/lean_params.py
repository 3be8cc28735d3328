"""How a sequence's reasoning leans to its end, beside vLLM's sampling parameters.

`extra_args` reach all of vLLM's processes, where `patches/reasoning_lean.py` reads them.
"""

from typing import TYPE_CHECKING

from serve_app.core.reasoning.lean import Lean

if TYPE_CHECKING:
    from vllm import SamplingParams

_LEAN = "tierserve_lean"


def lean_to_end(params: "SamplingParams", lean: Lean) -> None:
    """Have the engine make the end of the reasoning likelier as its budget is spent."""
    params.extra_args = {**(params.extra_args or {}), _LEAN: [lean.most, lean.begins_at]}


def lean_of(params: "SamplingParams | None") -> Lean | None:
    """None for a sequence that does not lean."""
    if params is None or not params.extra_args or _LEAN not in params.extra_args:
        return None
    return Lean(*params.extra_args[_LEAN])
