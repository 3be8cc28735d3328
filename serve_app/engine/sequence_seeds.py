"""The seed of a request, from which those of its sequences are made by adding their index."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from serve_app.engine.vllm.types import SamplingParams

# vLLM takes seeds of 64 bits from clients. Its model runner V2 keeps a sequence's seed in as many:
# one that has become larger ends the engine.
MOST_SEED = 2**63 - 1
# More than a request may have sequences.
INDICES = 2**16
_LOWER = 2**62


def keep_room_for_indices(params: "SamplingParams") -> None:
    """Lower a seed to which not every index could be added; always to the same one."""
    if params.seed is not None and params.seed > MOST_SEED - INDICES:
        params.seed -= _LOWER
