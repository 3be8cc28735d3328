"""All patches of vLLM, those of every process of its among them, and whether they are installed."""

from collections.abc import Mapping

from serve_app.engine.vllm import early_engine, fast_path
from serve_app.engine.vllm.cpu import computes_on_cpu
from serve_app.engine.vllm.patches import (
    assistant_prefill,
    compiled_graph,
    draft_limits,
    event_ids,
    grammar_budget,
    grammar_compilers,
    grammar_validation,
    long_prompts,
    output_yield,
    plain_ranks,
    r1_parser,
    reasoning_lean,
    repetition_interval,
    resumed_output,
    seeded_prefill,
    single_reasoning,
    stop_strings,
    stop_token_ids,
    thinking_budget,
)
from serve_app.engine.vllm.patches.patch import Patch, outcomes_in

# By vLLM's plug-in entry point, in the engine's process too.
IN_EVERY_PROCESS = (
    r1_parser.PATCH,
    thinking_budget.PATCH,
    single_reasoning.PATCH,
    # Behind these two, into whose classes it is put.
    reasoning_lean.PATCH,
    stop_strings.PATCH,
    stop_token_ids.PATCH,
    repetition_interval.PATCH,
    grammar_budget.PATCH,
    grammar_compilers.PATCH,
    resumed_output.PATCH,
    draft_limits.PATCH,
)
# There too, where vLLM computes on the CPU.
ON_CPU = (seeded_prefill.PATCH, compiled_graph.PATCH, plain_ranks.PATCH)
# In the API process, around the start of the engine's, where vLLM computes on the CPU.
AROUND_START = (early_engine.PATCH,)
# In the API process, around the started engine and its application (`engine.py`).
IN_API_PROCESS = (
    grammar_validation.PATCH,
    long_prompts.PATCH,
    output_yield.PATCH,
    assistant_prefill.PATCH,
    event_ids.PATCH,
    fast_path.NO_HTTP_METRICS,
    fast_path.FAST_ROUTES,
    fast_path.FAST_CHUNKS,
)
PATCHES: tuple[Patch, ...] = (
    *IN_EVERY_PROCESS,
    *ON_CPU,
    *AROUND_START,
    *IN_API_PROCESS,
)


def install_in_this_process() -> None:
    """Those that every process of vLLM's needs. To be called before vLLM's scheduler is imported,
    which takes names that are replaced."""
    for patch in (*IN_EVERY_PROCESS, *(ON_CPU if computes_on_cpu() else ())):
        patch.install()
    if not outcomes()[r1_parser.PATCH.name]:
        r1_parser.register_upstream_parser()


def outcomes() -> Mapping[str, bool]:
    """Of each patch that was tried in this process, by name, whether it is installed."""
    import vllm

    return dict(outcomes_in(vllm))


def active(in_engine: Mapping[str, bool] | None) -> Mapping[str, bool]:
    """Of each patch that this vLLM needs, whether it is installed wherever it is needed: in this
    process, and in the engine's, whose outcomes are given where they are known."""
    elsewhere = {patch.name for patch in (*IN_EVERY_PROCESS, *ON_CPU)}
    return {
        name: here and (in_engine is None or name not in elsewhere or in_engine.get(name, False))
        for name, here in outcomes().items()
    }
