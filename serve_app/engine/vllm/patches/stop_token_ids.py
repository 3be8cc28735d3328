"""A client's stop ids, which end the answer and not its reasoning."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from serve_app.engine.vllm.patches.patch import Patch, replace
from serve_app.engine.vllm.stop_scope import stop_id_of

if TYPE_CHECKING:
    from vllm.v1.request import Request

_SCHEDULER = "vllm.v1.core.sched.scheduler"


def stop_ids_in_answers(
    check_stop: "Callable[[Request, int], bool]",
) -> "Callable[[Request, int], bool]":
    """vLLM's scheduler, which ends a sequence at a client's stop ids, inside its reasoning too."""

    def check_stop_in_answer(request: "Request", max_model_len: int) -> bool:
        params = request.sampling_params
        assert params is not None
        end_id, ids = stop_id_of(params), request.output_token_ids
        if (
            end_id is None
            or ids[-1] not in (params.stop_token_ids or ())
            or end_id in list(ids)[:-1]
        ):
            return check_stop(request, max_model_len)
        stop_token_ids, params.stop_token_ids = params.stop_token_ids, []
        try:
            return check_stop(request, max_model_len)
        finally:
            params.stop_token_ids = stop_token_ids

    return check_stop_in_answer


def _install() -> None:
    from vllm.v1.core.sched import utils

    replace(utils, "check_stop", stop_ids_in_answers)
    # The scheduler takes it by its name, when it is imported.
    if _SCHEDULER in sys.modules:
        replace(sys.modules[_SCHEDULER], "check_stop", stop_ids_in_answers)


PATCH = Patch(
    name="stop_token_ids",
    versions=">=0.32,<0.33",
    upstream="vllm/v1/core/sched/utils.py, check_stop; for stop strings it is "
    "https://github.com/vllm-project/vllm/issues/52393",
    remove_when="check_stop leaves a reasoning alone, or stop ids are looked for behind its end",
    apply=_install,
    replaces=("vllm.v1.core.sched.utils:check_stop",),
    relies_on=(
        f"{_SCHEDULER}:check_stop",
        "vllm.v1.request:Request.sampling_params",
        "vllm.v1.request:Request.output_token_ids",
        "vllm.sampling_params:SamplingParams.stop_token_ids",
        "vllm.sampling_params:SamplingParams.extra_args",
    ),
)
