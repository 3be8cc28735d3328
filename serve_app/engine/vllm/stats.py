"""What vLLM reports of each step, kept for admission and scaling."""

import time
from typing import TYPE_CHECKING, Any

from serve_app.engine.interface import EngineLoad, EngineWatch

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.metrics.loggers import StatLoggerBase, StatLoggerFactory
    from vllm.v1.metrics.stats import IterationStats, SchedulerStats

ENDED_BY_ITSELF = ("stop", "length", "repetition")


def load_recorder(base: "type[StatLoggerBase]", load: EngineLoad) -> "StatLoggerFactory":
    """A vLLM stat logger, of its class `base`, that keeps the newest figures in `load`."""

    class LoadRecorder(base):
        def __init__(self, vllm_config: "VllmConfig", engine_index: int = 0) -> None:
            pass

        def record(
            self,
            scheduler_stats: "SchedulerStats | None",
            iteration_stats: "IterationStats | None",
            mm_cache_stats: Any = None,
            engine_idx: int = 0,
        ) -> None:
            previous_s, was_busy = load.reported_s, bool(load.running)
            load.reported_s = time.monotonic()
            if scheduler_stats is not None:
                load.running = scheduler_stats.num_running_reqs
                load.waiting = (
                    scheduler_stats.num_waiting_reqs + scheduler_stats.num_skipped_waiting_reqs
                )
                load.kv_cache_usage = scheduler_stats.kv_cache_usage
                load.prefix_queries += scheduler_stats.prefix_cache_stats.queries
                load.prefix_hits += scheduler_stats.prefix_cache_stats.hits
                if (drafts := scheduler_stats.spec_decoding_stats) is not None:
                    load.drafted_tokens += drafts.num_draft_tokens
                    load.accepted_tokens += drafts.num_accepted_tokens
            if iteration_stats is not None:
                load.output_tokens += iteration_stats.num_generation_tokens
                if load.watch is not None:
                    since_s = previous_s if was_busy else None
                    _report(load.watch, iteration_stats, since_s, load.reported_s)
            load.after_step()

        def log_engine_initialized(self) -> None:
            pass

    return LoadRecorder


def _report(
    watch: EngineWatch, stats: "IterationStats", previous_s: float | None, now_s: float
) -> None:
    """The step that these statistics are of, if another one came right before it."""
    if previous_s is not None and stats.num_generation_tokens:
        watch.step(
            took_ms=(now_s - previous_s) * 1e3,
            # Each has its time since the last one, or since it came.
            sequences=len(stats.inter_token_latencies_iter) + len(stats.time_to_first_tokens_iter),
            prompt_tokens=stats.prompt_token_stats.computed,
            tokens=stats.num_generation_tokens,
        )
    for request in stats.finished_requests:
        if str(request.finish_reason) in ENDED_BY_ITSELF:
            watch.finished(
                prompt_tokens=request.num_prompt_tokens, new_tokens=request.num_generation_tokens
            )
