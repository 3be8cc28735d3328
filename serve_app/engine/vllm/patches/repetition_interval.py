"""vLLM's look for a repetition, which it takes after each token, taken at every sixteenth."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from serve_app.engine.vllm.patches.patch import Patch, replace

if TYPE_CHECKING:
    from vllm.sampling_params import RepetitionDetectionParams

CHECK_EVERY_TOKENS = 16


def checked_at_intervals(
    check: "Callable[[Sequence[int], RepetitionDetectionParams], bool]",
) -> "Callable[[Sequence[int], RepetitionDetectionParams], bool]":
    """At half a microsecond for each length of a repetition it is as much as a tenth of a step with
    64 sequences. An endless one is there a few tokens later."""

    def check_at_intervals(token_ids: Sequence[int], params: "RepetitionDetectionParams") -> bool:
        return len(token_ids) % CHECK_EVERY_TOKENS == 0 and check(token_ids, params)

    return check_at_intervals


def _install() -> None:
    from vllm.v1.core.sched import utils

    replace(utils, "check_sequence_repetition", checked_at_intervals)


PATCH = Patch(
    name="repetition_interval",
    versions=">=0.32,<0.33",
    upstream="vllm/v1/core/sched/utils.py, check_sequence_repetition",
    remove_when="the look for 41 lengths takes less than 2 us a token, or has an interval",
    apply=_install,
    replaces=("vllm.v1.core.sched.utils:check_sequence_repetition",),
)
