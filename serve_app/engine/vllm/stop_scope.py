"""Where in an answer a client's stops count, beside vLLM's sampling parameters.

`extra_args` reach all of vLLM's processes, where `patches/stop_strings.py` and
`patches/stop_token_ids.py` read them.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm import SamplingParams

_STOP_BEHIND, _CALLS = "tierserve_stop_behind", "tierserve_calls"


def stop_behind(params: "SamplingParams", end_id: int | None) -> None:
    """Have the client's stops count behind this id only, or everywhere."""
    others = {key: value for key, value in (params.extra_args or {}).items() if key != _STOP_BEHIND}
    params.extra_args = {**others, _STOP_BEHIND: end_id} if end_id is not None else others or None


def stop_outside_calls(params: "SamplingParams", begin: str, end: str) -> None:
    """Have the client's stop strings count outside of what stands between these two."""
    params.extra_args = {**(params.extra_args or {}), _CALLS: [begin, end]}


def stop_id_of(params: "SamplingParams") -> int | None:
    """The id behind which the client's stops count; None: everywhere."""
    return (params.extra_args or {}).get(_STOP_BEHIND)


def call_marks_of(params: "SamplingParams") -> list[str] | None:
    """What a call begins and ends with, inside of which no stop string counts; None: nothing."""
    return (params.extra_args or {}).get(_CALLS)
