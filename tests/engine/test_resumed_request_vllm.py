"""vLLM's scheduler, grammars and batch with a request whose output has begun elsewhere, without the
model: what is sampled is set down."""

import hashlib
import pickle
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from serve_app.engine.models.model_dir import MICRO_MODEL, resolve_model
from serve_app.engine.vllm.patches.patch import is_replaced
from serve_app.engine.vllm.patches.resumed_output import (
    ResumedGrammarError,
    counting_its_prefill,
    with_advanced_grammar,
    with_output_in_worker,
    with_resumed_output,
)
from serve_app.engine.vllm.resumption import resume_behind

# Importing vLLM takes longer than all quick tests of this folder, and warns of what is its own.
pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(300)]

BLOCK, STEP_TOKENS, CONTEXT, BLOCKS = 16, 64, 512, 64
PROMPT = list(range(100, 140))
END, STOP_ID = 7, 9


@pytest.fixture(autouse=True)
def without_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours would patch all of this process' vLLM, for the tests that follow too."""
    monkeypatch.setattr("vllm.plugins.plugins_loaded", True)


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.v1.core.kv_cache_manager import KVCacheManager
    from vllm.v1.request import Request

    request: Any = Request
    manager: Any = KVCacheManager
    if is_replaced(request.from_engine_core_request):
        # An application in this process has patched it, for good.
        return
    made = staticmethod(with_resumed_output(request.from_engine_core_request))
    monkeypatch.setattr(request, "from_engine_core_request", made)
    recorded = counting_its_prefill(manager.record_prefix_cache_stats)
    monkeypatch.setattr(manager, "record_prefix_cache_stats", recorded)


class Core:
    """The scheduler of vLLM's engine with a KV cache of a few blocks; `sample` is the model."""

    def __init__(self, *, asynchronous: bool = False, blocks: int = BLOCKS) -> None:
        import torch
        from vllm.engine.arg_utils import EngineArgs
        from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
        from vllm.v1.core.sched.async_scheduler import AsyncScheduler
        from vllm.v1.core.sched.scheduler import Scheduler
        from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec

        config = EngineArgs(
            model=str(resolve_model(MICRO_MODEL)),
            max_model_len=CONTEXT,
            max_num_batched_tokens=STEP_TOKENS,
            max_num_seqs=8,
            enforce_eager=True,
        ).create_engine_config()
        config.cache_config.num_gpu_blocks = blocks
        spec = FullAttentionSpec(
            block_size=BLOCK, num_kv_heads=1, head_size=16, dtype=torch.float32
        )
        init_none_hash(_hashed)
        self.hasher = get_request_block_hasher(BLOCK, _hashed)
        made: Any = AsyncScheduler if asynchronous else Scheduler
        grammars: Any = SimpleNamespace(accept_tokens=lambda *_: True)
        self.scheduler: Any = made(
            config,
            KVCacheConfig(blocks, [], [KVCacheGroupSpec(["layer"], spec)]),
            grammars,
            BLOCK,
            hash_block_size=BLOCK,
            log_stats=True,
        )
        self.steps: list[Any] = []

    def add(
        self, name: str, past: Sequence[int] = (), *, salt: str | None = None, **params: Any
    ) -> Any:
        from vllm import SamplingParams
        from vllm.v1.engine import EngineCoreRequest
        from vllm.v1.request import Request

        fields: dict[str, Any] = {"max_tokens": 200, **params}
        sampling = SamplingParams(**fields)
        if past:
            resume_behind(sampling, past)
        request = Request.from_engine_core_request(
            EngineCoreRequest(
                request_id=name,
                prompt_token_ids=list(PROMPT),
                mm_features=None,
                sampling_params=sampling,
                pooling_params=None,
                arrival_time=0.0,
                lora_request=None,
                cache_salt=salt,
                data_parallel_rank=None,
            ),
            self.hasher,
        )
        self.scheduler.add_request(request)

    def sample(self, request: Any) -> int:
        """The same for the same position of the output, whoever has written what is before it."""
        return 200 + request.num_output_tokens

    def run(self, most_steps: int = 500) -> dict[str, list[Any]]:
        """All outputs by request, once there is nothing left to do."""
        from vllm.v1.outputs import ModelRunnerOutput

        outputs: dict[str, list[Any]] = {}
        while self.scheduler.has_unfinished_requests():
            most_steps -= 1
            assert most_steps
            step = self.scheduler.schedule()
            self.steps.append(step)
            names = list(step.num_scheduled_tokens)
            sampled = [
                []
                if self.scheduler.requests[name].is_prefill_chunk
                else [self.sample(self.scheduler.requests[name])]
                for name in names
            ]
            made = ModelRunnerOutput(names, {name: at for at, name in enumerate(names)}, sampled)
            for each in self.scheduler.update_from_output(step, made).values():
                for output in each.outputs:
                    outputs.setdefault(output.request_id, []).append(output)
        return outputs


def _hashed(content: Any) -> bytes:
    return hashlib.sha256(pickle.dumps(content)).digest()


def ids_of(outputs: list[Any]) -> list[int]:
    return [token for output in outputs for token in output.new_token_ids]


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def core(request: pytest.FixtureRequest, patched: None) -> Core:
    return Core(asynchronous=request.param)


@pytest.mark.parametrize("begun", [1, 15, 16, 17, 100, 198, 199])
def test_an_output_ends_where_the_unbroken_one_ends(core: Core, begun: int) -> None:
    core.add("whole")
    (whole,) = core.run().values()
    ids = ids_of(whole)
    assert len(ids) == 200
    core.add("resumed", ids[:begun])
    (resumed,) = core.run().values()
    assert ids_of(resumed) == ids[begun:]
    assert str(resumed[-1].finish_reason) == str(whole[-1].finish_reason) == "length"
    assert all(not output.finish_reason for output in resumed[:-1])


def test_what_was_read_for_it_is_counted_once_and_may_be_in_the_prefix_cache(core: Core) -> None:
    past = [200 + at for at in range(100)]
    for name, cached in (("first", 0), ("second", (40 + 100) // BLOCK * BLOCK)):
        core.add(name, past, max_tokens=103)
        (outputs,) = core.run().values()
        assert ids_of(outputs) == [300, 301, 302]
        stats = outputs[0].prefill_stats
        assert stats.num_cached_tokens == cached
        assert stats.num_computed_tokens == 40 + 100 - cached
        assert all(output.prefill_stats is None for output in outputs[1:])


def test_a_prefix_cache_of_a_client_is_its_own_also_for_output(core: Core) -> None:
    past = [200 + at for at in range(100)]
    for name, salt in (("first", "a"), ("second", "b")):
        core.add(name, past, salt=salt, max_tokens=101)
        (outputs,) = core.run().values()
        assert outputs[0].prefill_stats.num_cached_tokens == 0


def test_the_worker_gets_the_prompt_and_the_steps_of_both(core: Core) -> None:
    core.add("resumed", [200] * 100, max_tokens=102)
    core.run()
    (new,) = core.steps[0].scheduled_new_reqs
    assert new.prompt_token_ids == PROMPT
    # 140 tokens, of which the last one needs no step of its own, at 64 a step.
    scheduled = [step.num_scheduled_tokens.get("resumed", 0) for step in core.steps]
    assert scheduled[:4] == [64, 64, 12, 1]
    (known,) = core.steps[1].scheduled_cached_reqs.num_output_tokens
    assert known == 100


@pytest.mark.parametrize("asynchronous", [False, True])
def test_one_that_is_preempted_goes_on(patched: None, asynchronous: bool) -> None:
    core = Core(asynchronous=asynchronous, blocks=14)
    for name in ("one", "two"):
        core.add(name, [200 + at for at in range(40)], max_tokens=90)
    outputs = core.run()
    preempted = {name for step in core.steps for name in step.scheduled_cached_reqs.resumed_req_ids}
    assert preempted
    for name in ("one", "two"):
        assert ids_of(outputs[name]) == [240 + at for at in range(50)]


def test_limits_of_the_output_count_all_of_it(core: Core) -> None:
    """A stop id does not count before the least tokens are there, nor does a repetition."""
    from vllm.sampling_params import RepetitionDetectionParams

    def sample(request: Any) -> int:
        return STOP_ID if request.num_output_tokens == 30 else 5

    core.sample = sample
    repetition = RepetitionDetectionParams(max_pattern_size=2, min_pattern_size=1, min_count=16)
    core.add("stop", [5] * 12, stop_token_ids=[STOP_ID])
    core.add("repetition", [5] * 12, repetition_detection=repetition)
    outputs = core.run()
    assert len(ids_of(outputs["stop"])) == 19
    assert str(outputs["stop"][-1].finish_reason) == "stop"
    assert len(ids_of(outputs["repetition"])) == 4
    assert str(outputs["repetition"][-1].finish_reason) == "repetition"


# --- the worker


def test_the_batch_of_model_runner_v1_begins_with_the_output(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from vllm import SamplingParams
    from vllm.v1.worker.gpu_input_batch import CachedRequestState

    cached: Any = CachedRequestState
    if not is_replaced(cached.__post_init__):
        monkeypatch.setattr(cached, "__post_init__", with_output_in_worker(cached.__post_init__))
    params = SamplingParams(max_tokens=50)
    resume_behind(params, [5, 6, 7])

    def state(output: list[int]) -> Any:
        return CachedRequestState(
            req_id="a",
            prompt_token_ids=[1, 2],
            mm_features=[],
            sampling_params=params,
            generator=None,
            block_ids=([0],),
            num_computed_tokens=0,
            output_token_ids=output,
        )

    first, second = state([]), state([])
    first.output_token_ids.append(8)
    assert first.num_tokens == 6
    assert [first.get_token_id(at) for at in range(6)] == [1, 2, 5, 6, 7, 8]
    assert second.output_token_ids == [5, 6, 7]
    assert state([5]).output_token_ids == [5]


# --- grammars


class Grammar:
    """Takes what is not 13."""

    def __init__(self) -> None:
        self.taken: list[int] = []

    def accept_tokens(self, request_id: str, tokens: list[int]) -> bool:
        self.taken += tokens
        return 13 not in tokens


class Reasoner:
    def is_reasoning_end(self, ids: Sequence[int]) -> bool:
        return END in ids

    def is_reasoning_end_streaming(self, ids: Sequence[int], delta: Sequence[int]) -> bool:
        return END in delta


def advanced(past: list[int], *, ended: bool | None, reasons: bool = True) -> tuple[Grammar, Any]:
    from vllm import SamplingParams
    from vllm.v1.structured_output import StructuredOutputManager

    made: Any = StructuredOutputManager
    manager = made.__new__(made)
    manager.enable_in_reasoning = False
    manager._get_reasoner = lambda _: Reasoner() if reasons else None
    params = SamplingParams(max_tokens=50)
    resume_behind(params, past)
    structured = SimpleNamespace(reasoning_ended=ended, grammar=Grammar())
    request = SimpleNamespace(
        request_id="a",
        use_structured_output=True,
        sampling_params=params,
        structured_output_request=structured,
        prompt_token_ids=PROMPT,
        all_token_ids=[*PROMPT, *past],
    )
    create: Any = with_advanced_grammar(lambda *_: Grammar())  # pyright: ignore
    grammar = create(manager, request)
    # As it is advanced token by token where it is not resumed.
    unbroken = SimpleNamespace(**{**vars(request), "all_token_ids": list(PROMPT)})
    unbroken.structured_output_request = SimpleNamespace(reasoning_ended=ended, grammar=Grammar())
    for token in past:
        unbroken.all_token_ids.append(token)
        assert manager.accept_tokens(unbroken, [token])
    assert grammar.taken == unbroken.structured_output_request.grammar.taken
    return grammar, structured


@pytest.mark.parametrize("ended", [True, False, None])
@pytest.mark.parametrize("reasons", [True, False])
@pytest.mark.parametrize("past", [[], [5, 6], [5, END], [5, END, 6, 8], [5, END, 6, END, 8]])
def test_a_grammar_is_where_it_was(past: list[int], ended: bool | None, reasons: bool) -> None:
    grammar, structured = advanced(past, ended=ended, reasons=reasons)
    if ended is False and reasons:
        assert grammar.taken == (past[past.index(END) + 1 :] if END in past else [])
        assert structured.reasoning_ended is (END in past)


def test_output_that_a_grammar_does_not_take_ends_the_request() -> None:
    from vllm import SamplingParams

    params = SamplingParams(max_tokens=50)
    resume_behind(params, [5, 13])
    structured = SimpleNamespace(reasoning_ended=True)
    request = SimpleNamespace(
        request_id="a", sampling_params=params, structured_output_request=structured
    )
    manager = SimpleNamespace(
        _get_constraint_bounds=lambda *_, **__: SimpleNamespace(grammar_start=0)
    )
    create: Any = with_advanced_grammar(lambda *_: Grammar())  # pyright: ignore
    with pytest.raises(ResumedGrammarError):
        create(manager, request)
