"""A request whose output has begun elsewhere: the engine goes on behind the ids that it is given.

They are the request's output, not its prompt, as those of a preempted request are, so that limits,
penalties, budgets and the looks for a repetition or a stop id count on. The scheduler computes the
keys and values of prompt and output as a preempted request's. Model runner V2 takes the output of
every request that it is given from the scheduler; V1 does so here.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from serve_app.engine.vllm.patches.patch import Patch, replace
from serve_app.engine.vllm.resumption import resumed_ids

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.v1.core.kv_cache_manager import KVCacheManager
    from vllm.v1.engine.output_processor import RequestState
    from vllm.v1.request import Request
    from vllm.v1.structured_output import StructuredOutputManager
    from vllm.v1.structured_output.backend_types import StructuredOutputGrammar

    class _Cached(Protocol):
        sampling_params: SamplingParams | None
        output_token_ids: list[int]


# As many ids before a token may hold the first bytes of its sign.
CONTEXT_TOKENS = 4


class ResumedGrammarError(RuntimeError):
    """A grammar does not take the output that is said to be bound by it."""


def with_resumed_output(from_core: "Callable[..., Request]") -> "Callable[..., Request]":
    """The engine's request, with its output."""

    def from_core_with_output(*args: Any, **options: Any) -> "Request":
        request = from_core(*args, **options)
        if ids := resumed_ids(request.sampling_params):
            request.append_output_token_ids(ids)
            # Of its output too, blocks may be in the prefix cache: only of preempted requests does
            # the scheduler expect that.
            request.num_preemptions = 1
        return request

    return from_core_with_output


def counting_its_prefill(record: Callable[..., None]) -> Callable[..., None]:
    """Called when a request is scheduled, with the tokens that the prefix cache had. What is left
    is computed as a prompt is, but of preempted requests vLLM counts none of it."""

    def record_prefill(manager: "KVCacheManager", request: "Request", num_hits: int) -> None:
        stats, resumed = request.prefill_stats, resumed_ids(request.sampling_params)
        if resumed and stats is not None and not stats.num_prompt_tokens:
            stats.set(request.num_tokens, num_hits, 0)
        record(manager, request, num_hits)

    return record_prefill


def with_output_in_worker(initialize: "Callable[[_Cached], None]") -> "Callable[[_Cached], None]":
    """What model runner V1 keeps of a request, which begins without output there."""

    def initialize_with_output(cached: "_Cached") -> None:
        if not cached.output_token_ids:
            cached.output_token_ids.extend(resumed_ids(cached.sampling_params))
        initialize(cached)

    return initialize_with_output


def with_advanced_grammar(
    create: "Callable[..., StructuredOutputGrammar]",
) -> "Callable[..., StructuredOutputGrammar]":
    """The grammar of a request once it is compiled, behind the output that it has bound. Raises
    ResumedGrammarError, which ends the request."""

    def create_advanced(
        manager: "StructuredOutputManager", request: "Request"
    ) -> "StructuredOutputGrammar":
        grammar = create(manager, request)
        bound = _bound_of(manager, request, resumed_ids(request.sampling_params))
        if bound and not grammar.accept_tokens(request.request_id, bound):
            raise ResumedGrammarError(f"its grammar rejects the output of {request.request_id}")
        return grammar

    return create_advanced


def _bound_of(
    manager: "StructuredOutputManager", request: "Request", ids: Sequence[int]
) -> list[int]:
    """What of the output the grammar counts for, token by token as vLLM looks for it; nothing while
    the reasoning has not ended."""
    structured = request.structured_output_request
    assert structured is not None
    for at, token in enumerate(ids):
        bounds = manager._get_constraint_bounds(request, [token], spec_tokens_committed=True)
        if bounds.grammar_start <= 1:
            structured.reasoning_ended = True
            return list(ids[at + bounds.grammar_start :])
    return []


def with_resumed_text(from_new: "Callable[..., RequestState]") -> "Callable[..., RequestState]":
    """The front end's state of a request: its output's text is known and sent."""

    def from_new_with_text(*args: Any, **options: Any) -> "RequestState":
        state = from_new(*args, **options)
        ids = resumed_ids(options["request"].sampling_params)
        if ids:
            _say_again(state, ids)
        return state

    return from_new_with_text


def _say_again(state: "RequestState", ids: Sequence[int]) -> None:
    from vllm.logprobs import Logprob

    assert state.detokenizer is not None
    assert state.logprobs_processor is not None
    for token in ids:
        state.detokenizer.update([token], False)
    state.detokenizer.get_next_output_text(False, True)
    state.sent_tokens_offset = len(ids)
    known = state.logprobs_processor.logprobs
    if isinstance(known, list):
        known += [{token: Logprob(0.0)} for token in ids[-CONTEXT_TOKENS:]]


def _install() -> None:
    from vllm.v1.core.kv_cache_manager import KVCacheManager
    from vllm.v1.engine.output_processor import RequestState
    from vllm.v1.request import Request
    from vllm.v1.structured_output import StructuredOutputManager
    from vllm.v1.worker.gpu_input_batch import CachedRequestState

    replace(Request, "from_engine_core_request", with_resumed_output, as_=staticmethod)
    replace(KVCacheManager, "record_prefix_cache_stats", counting_its_prefill)
    replace(CachedRequestState, "__post_init__", with_output_in_worker)
    replace(StructuredOutputManager, "_create_grammar", with_advanced_grammar)
    replace(RequestState, "from_new_request", with_resumed_text, as_=staticmethod)


_REQUEST = "vllm.v1.request:Request"
_STATE = "vllm.v1.engine.output_processor:RequestState"
_CACHED = "vllm.v1.worker.gpu_input_batch:CachedRequestState"
_MANAGER = "vllm.v1.structured_output:StructuredOutputManager"
PATCH = Patch(
    name="resumed_output",
    versions=">=0.32,<0.33",
    upstream="vllm/v1/request.py, Request.from_engine_core_request",
    remove_when="AsyncLLM.generate takes ids that the request's output begins with",
    apply=_install,
    replaces=(
        f"{_REQUEST}.from_engine_core_request",
        "vllm.v1.core.kv_cache_manager:KVCacheManager.record_prefix_cache_stats",
        f"{_CACHED}.__post_init__",
        f"{_MANAGER}._create_grammar",
        f"{_MANAGER}._get_constraint_bounds",
        f"{_STATE}.from_new_request",
    ),
    relies_on=(
        f"{_REQUEST}.append_output_token_ids",
        f"{_REQUEST}.num_preemptions",
        f"{_REQUEST}.prefill_stats",
        f"{_REQUEST}.structured_output_request",
        "vllm.v1.metrics.stats:PrefillStats.set",
        f"{_CACHED}.output_token_ids",
        f"{_CACHED}.sampling_params",
        f"{_STATE}.detokenizer",
        f"{_STATE}.logprobs_processor",
        f"{_STATE}.sent_tokens_offset",
        "vllm.v1.engine.detokenizer:IncrementalDetokenizer.get_next_output_text",
        "vllm.v1.core.sched.output:NewRequestData.prefill_token_ids",
    ),
)
