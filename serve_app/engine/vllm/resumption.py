"""Which ids of a sequence the engine is given as its output, beside vLLM's sampling parameters.

`extra_args` reach all of vLLM's processes, where `patches/resumed_output.py` reads them.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm import SamplingParams

_RESUMED_IDS = "tierserve_resumed_ids"


def resume_behind(params: "SamplingParams", ids: Sequence[int]) -> None:
    """Have the engine go on behind these ids, as if it had written them."""
    params.extra_args = {**(params.extra_args or {}), _RESUMED_IDS: list(ids)}


def resumed_ids(params: "SamplingParams | None") -> list[int]:
    """The ids that the engine is to take for its own; none: it begins."""
    if params is None or not params.extra_args:
        return []
    return params.extra_args.get(_RESUMED_IDS) or []
