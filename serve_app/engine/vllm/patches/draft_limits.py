"""Drafts of model runner V1 that end where a promise to a request begins, and no sampling of its
own kind in steps without drafts.

With speculation vLLM leaves `min_p` and `logit_bias` out for every request, and samples each step
as if it had drafts. Requests that cannot be sampled from drafts as they are without have none here
(`drafting.py`), and vLLM's processors apply to them.
"""

from collections.abc import Callable
from copy import copy
from typing import TYPE_CHECKING, Any, cast

from serve_app.engine.vllm.drafting import Drafting, limits_drafts
from serve_app.engine.vllm.patches.patch import Patch, replace

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.v1.sample.logits_processor import LogitsProcessors
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

_DRAFTING = "tierserve_drafting"


def drafting_of(runner: "GPUModelRunner") -> Drafting:
    """The state that the patch keeps at an engine's runner."""
    held = vars(runner)
    if _DRAFTING not in held:
        held[_DRAFTING] = Drafting.of(runner.vllm_config)
    return held[_DRAFTING]


def with_all_processors(
    build: "Callable[..., LogitsProcessors]",
) -> "Callable[..., LogitsProcessors]":
    """vLLM's processors of logits, as without speculation."""

    def build_all(vllm_config: Any, *args: Any, **options: Any) -> "LogitsProcessors":
        custom = options.get("custom_logitsprocs") or (args[3] if len(args) > 3 else ())
        if not limits_drafts(vllm_config.speculative_config) or custom:
            return build(vllm_config, *args, **options)
        without = copy(vllm_config)
        without.speculative_config = None
        return build(without, *args, **options)

    return build_all


def with_a_time(execute: Callable[..., Any]) -> Callable[..., Any]:
    """A step of the engine, whose begin is known."""

    def execute_model(
        runner: "GPUModelRunner", scheduler_output: Any, *args: Any, **options: Any
    ) -> Any:
        if limits_drafts(runner.speculative_config):
            drafting_of(runner).step_begins(scheduler_output)
        return execute(runner, scheduler_output, *args, **options)

    return execute_model


def sampled_plainly_without_drafts(sample: Callable[..., Any]) -> Callable[..., Any]:
    """A step in which no sequence has a draft, sampled as by an engine that drafts nothing."""

    def sample_step(runner: "GPUModelRunner", logits: Any, spec_decode_metadata: Any) -> Any:
        drafts = spec_decode_metadata is not None and spec_decode_metadata.max_spec_len > 0
        if drafts or not limits_drafts(runner.speculative_config):
            return sample(runner, logits, spec_decode_metadata)
        return runner.sampler(
            logits=logits,
            sampling_metadata=runner.input_batch.sampling_metadata,
            # So the budget's state knows that each sequence has one row.
            predict_bonus_token=True,
        )

    return sample_step


def limiting_drafts(propose: Callable[..., Any]) -> Callable[..., Any]:
    """vLLM's drafts, those of n-grams and suffixes, within what `Drafting` allows."""

    def propose_draft_token_ids(
        runner: "GPUModelRunner",
        scheduler_output: Any,
        sampled_token_ids: Any,
        *args: Any,
        **options: Any,
    ) -> Any:
        config = runner.speculative_config
        if config is None or not limits_drafts(config):
            return propose(runner, scheduler_output, sampled_token_ids, *args, **options)
        drafting = drafting_of(runner)
        # Suffix trees have to see every token.
        by_ngram = config.method == "ngram"
        if by_ngram and drafting.measured and not drafting.needs_drafts():
            drafting.skipped(runner, scheduler_output, sampled_token_ids)
            return [[] for _ in sampled_token_ids]
        drafts = propose(runner, scheduler_output, sampled_token_ids, *args, **options)
        return drafting.limited(
            runner, scheduler_output, sampled_token_ids, cast("list[list[int]]", drafts)
        )

    return propose_draft_token_ids


def taking_all_parameters(validate: Callable[..., None]) -> Callable[..., None]:
    """vLLM refuses what its processors leave out with speculation."""

    def validate_others(params: "SamplingParams", speculative_config: Any) -> None:
        if not limits_drafts(speculative_config):
            validate(params, speculative_config)

    return validate_others


def _install() -> None:
    from vllm import SamplingParams
    from vllm.v1.worker import gpu_model_runner

    runner = gpu_model_runner.GPUModelRunner
    replace(gpu_model_runner, "build_logitsprocs", with_all_processors)
    replace(runner, "execute_model", with_a_time)
    replace(runner, "_sample", sampled_plainly_without_drafts)
    replace(runner, "propose_draft_token_ids", limiting_drafts)
    replace(SamplingParams, "_validate_spec_decode", taking_all_parameters)


_MODULE = "vllm.v1.worker.gpu_model_runner"
_RUNNER = f"{_MODULE}:GPUModelRunner"
_METADATA = "vllm.v1.core.sched.output:SchedulerOutput"
PATCH = Patch(
    name="draft_limits",
    versions=">=0.32,<0.33",
    upstream="https://github.com/vllm-project/vllm/issues/39573, "
    "https://github.com/vllm-project/vllm/issues/54906; "
    "vllm/v1/sample/logits_processor/__init__.py, build_logitsprocs",
    remove_when="model runner V2 drafts by n-grams and suffixes with budgets, seeds, min_p and "
    "logit_bias as they are without drafts",
    apply=_install,
    replaces=(
        f"{_MODULE}:build_logitsprocs",
        f"{_RUNNER}.execute_model",
        f"{_RUNNER}._sample",
        f"{_RUNNER}.propose_draft_token_ids",
        "vllm.sampling_params:SamplingParams._validate_spec_decode",
    ),
    relies_on=(
        f"{_RUNNER}.input_batch",
        f"{_RUNNER}.requests",
        f"{_RUNNER}.sampler",
        f"{_RUNNER}.speculative_config",
        f"{_METADATA}.scheduled_cached_reqs",
        f"{_METADATA}.scheduled_spec_decode_tokens",
        f"{_METADATA}.total_num_scheduled_tokens",
        "vllm.v1.spec_decode.metadata:SpecDecodeMetadata.max_spec_len",
        "vllm.v1.worker.gpu_input_batch:InputBatch.thinking_budget_state_holder",
    ),
)
