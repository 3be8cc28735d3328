"""What becomes of vLLM's statistics of a step."""

from types import SimpleNamespace
from typing import Any, cast

from serve_app.engine.interface import EngineLoad
from serve_app.engine.vllm.stats import load_recorder


class Watch:
    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []

    def step(self, **figures: Any) -> None:
        self.steps.append({key: figures[key] for key in ("sequences", "prompt_tokens", "tokens")})

    def finished(self, **_: int) -> None: ...


def scheduler(running: int, drafts: Any = None) -> Any:
    return SimpleNamespace(
        num_running_reqs=running,
        num_waiting_reqs=0,
        num_skipped_waiting_reqs=0,
        kv_cache_usage=0.1,
        prefix_cache_stats=SimpleNamespace(queries=0, hits=0),
        spec_decoding_stats=drafts,
    )


def step(tokens: int, *, began: int = 0, went_on: int = 0, prompt_tokens: int = 0) -> Any:
    return SimpleNamespace(
        num_generation_tokens=tokens,
        time_to_first_tokens_iter=[0.1] * began,
        inter_token_latencies_iter=[0.01] * went_on,
        prompt_token_stats=SimpleNamespace(computed=prompt_tokens),
        finished_requests=[],
    )


def test_a_step_is_reported_by_its_sequences_and_by_its_tokens() -> None:
    load, watch = EngineLoad(), Watch()
    load.watch = cast("Any", watch)
    recorder: Any = cast("Any", load_recorder)(object, load)(None)
    recorder.record(scheduler(2), step(2, began=2, prompt_tokens=30))
    drafts = SimpleNamespace(num_draft_tokens=6, num_accepted_tokens=4)
    recorder.record(scheduler(3, drafts), step(7, began=1, went_on=2, prompt_tokens=9))
    recorder.record(scheduler(3), step(3, went_on=3))
    assert watch.steps == [
        {"sequences": 3, "prompt_tokens": 9, "tokens": 7},
        {"sequences": 3, "prompt_tokens": 0, "tokens": 3},
    ]
    assert (load.output_tokens, load.drafted_tokens, load.accepted_tokens) == (12, 6, 4)
