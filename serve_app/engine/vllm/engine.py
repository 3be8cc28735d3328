"""vLLM inside the replica's process: the engine and vLLM's own ASGI application.

vLLM is imported inside the functions: that takes seconds, which belong to the measured start-up,
and what is set in the environment must be there before.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.config.structure import StructureConfig
from serve_app.core.generation import Generation
from serve_app.core.model_family import R1_PARSER
from serve_app.core.reasoning.repetition import ENDLESS
from serve_app.core.reasoning.trace import ThoughtMarks
from serve_app.core.structure.schema_limits import SchemaLimits
from serve_app.engine.answer_guard import AnswerGuard
from serve_app.engine.event_ids import with_event_ids
from serve_app.engine.grammar.checked_start import checking_starts
from serve_app.engine.grammar.sandbox import GrammarSandbox
from serve_app.engine.grammar.structure import GrammarSyntax, StructureBinder
from serve_app.engine.interface import EngineLoad
from serve_app.engine.trial_answers import OPENER
from serve_app.engine.vllm.early_engine import EarlyEngine
from serve_app.engine.vllm.fast_path import (
    FAST_CHUNKS,
    FAST_ROUTES,
    NO_HTTP_METRICS,
    collect_garbage_rarely,
)
from serve_app.engine.vllm.first_tokens import FirstTokens
from serve_app.engine.vllm.past_results import journaled_engine
from serve_app.engine.vllm.patches import (
    assistant_prefill,
    event_ids,
    grammar_validation,
    long_prompts,
    output_yield,
    resumed_output,
)
from serve_app.engine.vllm.patches.registry import active, install_in_this_process, outcomes
from serve_app.engine.vllm.stats import load_recorder
from serve_app.engine.vllm.worker_extension import (
    compile_s,
    patches_in_engine,
    with_worker_extension,
)
from serve_app.errors import invalid
from serve_app.prestarted.imports import keep_imported, no_garbage_collection

if TYPE_CHECKING:
    from argparse import Namespace

    from fastapi import FastAPI
    from pydantic import BaseModel
    from vllm.config import VllmConfig
    from vllm.config.reasoning import ReasoningConfig
    from vllm.tokenizers import TokenizerLike
    from vllm.v1.engine.async_llm import AsyncLLM

log = logging.getLogger(__name__)

WARM_UP_TOKENS = 8
# vLLM's engine keeps compiled grammars, by default 512 MiB of them.
GRAMMAR_CACHE_VARIABLE, GRAMMAR_CACHE_MIB = "VLLM_XGRAMMAR_CACHE_MB", 128
# Model runner V2 has a table of a sequence's `bad_words`, by default for 1,024 tokens, and ends the
# engine where they are more. So many are all that the edge lets pass: 1,000 characters in up to 64
# words, of 4 bytes that NFC may make 12 of, a token each and one before each word, with and without
# a blank. 97 KB of the GPU's memory for each sequence.
BAD_WORDS_VARIABLE, BAD_WORDS_TOKENS = "VLLM_MAX_BAD_WORDS_TOTAL_TOKENS", 2 * (12 * 1000 + 64)


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
    thinks: bool
    r1: bool
    longest_token_chars: int
    request_schemas: dict[str, dict[str, Any]]
    template_variables: frozenset[str]
    patches: Mapping[str, bool]
    speculation: str
    grammars: GrammarSandbox
    _client: "AsyncLLM" = field(repr=False)

    @classmethod
    async def start(
        cls,
        args: Sequence[str],
        phase: Callable[[str], AbstractContextManager[None]],
        structure: StructureConfig | None = None,
    ) -> "VllmEngine":
        """Load the model and build vLLM's application. `phase` times each step."""
        os.environ.setdefault(GRAMMAR_CACHE_VARIABLE, str(GRAMMAR_CACHE_MIB))
        os.environ.setdefault(BAD_WORDS_VARIABLE, str(BAD_WORDS_TOKENS))
        early = EarlyEngine.start()
        try:
            return await cls._start_beside(early, args, phase, structure or StructureConfig())
        finally:
            early.end()

    @classmethod
    async def _start_beside(
        cls,
        early: EarlyEngine,
        args: Sequence[str],
        phase: Callable[[str], AbstractContextManager[None]],
        structure: StructureConfig,
    ) -> "VllmEngine":
        with phase("import"), no_garbage_collection():
            from vllm.v1.engine.async_llm import AsyncLLM
            from vllm.v1.metrics.loggers import StatLoggerBase

            _import_application()
        namespace = _parsed(with_worker_extension(args))
        with phase("configuration"):
            config = _configuration(namespace)
        load = EngineLoad()
        with phase("load"):
            recorder = load_recorder(StatLoggerBase, load)
            with early.taken():
                client = AsyncLLM.from_vllm_config(config, stat_loggers=[recorder])
        with phase("application"):
            grammars = _grammar_sandbox(client, structure)
            processor = client.output_processor
            first_tokens = FirstTokens(processor.request_states, processor.external_req_ids)
            load.after_step = first_tokens.look
            guard = _answer_guard(client, grammars, structure, first_tokens)
            # Its handlers call it there.
            client.generate = cast("Any", guard)
            app = await _application(client, namespace)
        with phase("warm-up"):
            token_s = await _warm_up(client)
        cache, schemas = config.cache_config, _schemas()
        return cls(
            app=with_event_ids(_with_late_errors(checking_starts(app))),
            load=load,
            kv_tokens=(cache.num_gpu_blocks or 0) * (cache.block_size or 0),
            max_model_len=client.model_config.max_model_len,
            hf_config=client.model_config.hf_config.to_dict(),
            known_fields={path: frozenset(of.model_fields) for path, of in schemas.items()},
            token_s=token_s,
            compile_s=await compile_s(client, args),
            thinks=guard.marks is not None,
            r1=namespace.reasoning_parser == R1_PARSER,
            longest_token_chars=client.renderer.get_tokenizer().max_chars_per_token,
            request_schemas={path: of.model_json_schema() for path, of in schemas.items()},
            template_variables=_template_variables(client, namespace),
            patches=active(await patches_in_engine(client, args)),
            speculation=getattr(config.speculative_config, "method", None) or "off",
            grammars=grammars,
            _client=client,
        )

    @property
    def name(self) -> str:
        return "vllm"

    async def check(self) -> None:
        """Raise if the engine process is dead. Not vLLM's own error: to read it Serve's controller
        would import vLLM, 375 MiB and seconds in which it does nothing else."""
        if self.dead:
            raise RuntimeError("vLLM's engine process is dead")

    @property
    def dead(self) -> bool:
        return bool(self._client.errored)

    def has_finished(self, generation: Generation) -> bool:
        """Whether the engine has done all that it was asked for a request; its client may not have
        taken it yet."""
        running = self._client.output_processor.external_req_ids
        return bool(generation.engine_ids) and not any(
            engine_id in running for engine_id in generation.engine_ids
        )

    def structure_counts(self) -> Mapping[str, int]:
        """What became of the grammars that clients asked for, since the start, by result."""
        counts = self.grammars.counts
        return {
            "passed": counts.passed,
            "refused": counts.refused.total(),
            "busy": counts.busy,
            "sandbox_restarted": counts.restarts,
        }

    def shutdown(self) -> None:
        self.grammars.stop()
        self._client.shutdown()


def extend_vllm() -> None:
    """Entry point `vllm.general_plugins`: vLLM calls it in each of its processes."""
    install_in_this_process()
    # vLLM looks for garbage three times in each start of an engine.
    keep_imported()


def _import_application() -> None:
    """What takes seconds and is needed later, for the phase to have it."""
    import vllm.engine.arg_utils
    import vllm.entrypoints.launchers.app  # noqa: F401


def _parsed(args: Sequence[str]) -> "Namespace":
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    # Its annotation says that parse_args may return None, which argparse never does.
    namespace = cast("Namespace", make_arg_parser(FlexibleArgumentParser()).parse_args(list(args)))
    validate_parsed_serve_args(namespace)
    return namespace


def _configuration(namespace: "Namespace") -> "VllmConfig":
    from vllm.engine.arg_utils import AsyncEngineArgs

    config = AsyncEngineArgs.from_cli_args(namespace).create_engine_config()
    # Where it is vLLM's choice, the engine's first grammar chooses for all that follow.
    config.structured_outputs_config.backend = "xgrammar"
    runner = "V2" if config.use_v2_model_runner else "V1"
    log.info("vLLM's model runner", extra={"phase": "start", "runner": runner})
    # vLLM has called it, unless an operator's VLLM_PLUGINS leaves it out.
    install_in_this_process()
    return config


async def _application(client: "AsyncLLM", namespace: "Namespace") -> "FastAPI":
    """vLLM's application over a started engine, patched."""
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.app import build_app
    from vllm.envs import enable_envs_cache

    grammar_validation.PATCH.install()
    tasks = await client.get_supported_tasks()
    app = build_app(namespace, tasks, client.model_config)
    await init_app_state(client, app.state, namespace, tasks)
    # vLLM's handler of engine errors looks there for the server that it would stop.
    app.state.server = SimpleNamespace(should_exit=False)
    long_prompts.PATCH.install(client.renderer)
    output_yield.PATCH.install(client.engine_core)
    assistant_prefill.PATCH.install()
    event_ids.PATCH.install()
    schemas = _schemas()
    NO_HTTP_METRICS.install(app, schemas)
    FAST_ROUTES.install(app, {**schemas, **_tokenizer_schemas()})
    FAST_CHUNKS.install()
    enable_envs_cache()
    collect_garbage_rarely()
    return app


def _with_late_errors(app: ASGIApp) -> ASGIApp:
    """Raise RequestError for a client's error that the engine finds in an answer that has begun,
    as `/v1/responses` begins its streams. vLLM's error handler then comes too late."""
    from vllm.exceptions import VLLMClientError

    async def translated(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except RuntimeError as error:
            cause = error.__cause__
            if not isinstance(cause, VLLMClientError):
                raise
            raise invalid(str(cause), param=getattr(cause, "parameter", None)) from error

    return translated


def _answer_guard(
    client: "AsyncLLM",
    grammars: GrammarSandbox,
    structure: StructureConfig,
    first_tokens: FirstTokens,
) -> AnswerGuard:
    from vllm.sampling_params import RepetitionDetectionParams
    from vllm.v1.structured_output.backend_xgrammar import has_xgrammar_unsupported_json_features
    from vllm.v1.structured_output.utils import choice_as_grammar, grammar_is_likely_lark

    # A tokenizer of Hugging Face's, of which vLLM's protocol knows a part.
    tokenizer: Any = client.renderer.get_tokenizer()
    syntax = GrammarSyntax(
        beyond_xgrammar=has_xgrammar_unsupported_json_features,
        is_lark=grammar_is_likely_lark,
        grammar_of_choices=choice_as_grammar,
    )
    limits = SchemaLimits(structure.max_bytes, structure.max_nesting, structure.max_nodes)
    return AnswerGuard(
        generate=client.generate,
        marks=_thought_marks(client.vllm_config.reasoning_config, tokenizer),
        eos=tokenizer.eos_token_id,
        max_model_len=client.model_config.max_model_len,
        repetition=RepetitionDetectionParams(
            max_pattern_size=ENDLESS.most_tokens,
            min_pattern_size=ENDLESS.least_tokens,
            min_count=ENDLESS.times,
        ),
        binder=StructureBinder(grammars, syntax, limits),
        # As vLLM decodes an answer, without a tokenizer's own tidying up.
        decode=partial(tokenizer.decode, clean_up_tokenization_spaces=False),
        first_tokens=first_tokens,
        trial_opener=tuple(tokenizer.encode(OPENER, add_special_tokens=False)),
        journaled=journaled_engine(client) if outcomes()[resumed_output.PATCH.name] else None,
    )


def _grammar_sandbox(client: "AsyncLLM", structure: StructureConfig) -> GrammarSandbox:
    """Started, and ready before the warm-up ends. It knows the vocabulary as vLLM's engine does."""
    import xgrammar

    tokenizer: Any = client.renderer.get_tokenizer()
    vocabulary = xgrammar.TokenizerInfo.from_huggingface(
        tokenizer, vocab_size=client.model_config.get_vocab_size()
    )
    sandbox = GrammarSandbox(vocabulary.serialize_json(), structure)
    sandbox.start()
    return sandbox


def _thought_marks(
    reasoning: "ReasoningConfig | None", tokenizer: "TokenizerLike"
) -> ThoughtMarks | None:
    """None for a model without a reasoning parser, or one whose marks are not single tokens."""
    if reasoning is None or not reasoning.enabled:
        return None
    start, end = reasoning.reasoning_start_token_ids, reasoning.natural_reasoning_end_token_ids
    closing = reasoning.reasoning_end_token_ids
    if start is None or end is None or closing is None or len(start) != 1 or len(end) != 1:
        return None

    def ids(text: str) -> tuple[int, ...]:
        return tuple(tokenizer.encode(text, add_special_tokens=False))

    return ThoughtMarks(
        start=start[0],
        end=end[0],
        opening=(*start, *ids("\n")),
        closing=tuple(closing),
        none=(*ids("\n"), *end, *ids("\n\n")),
    )


async def _warm_up(client: "AsyncLLM") -> float:
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


def _schemas() -> "dict[str, type[BaseModel]]":
    """vLLM's request schemas, by route."""
    from vllm.entrypoints.anthropic.protocol import AnthropicMessagesRequest
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest
    from vllm.entrypoints.openai.responses.protocol import ResponsesRequest

    return {
        "/v1/chat/completions": ChatCompletionRequest,
        "/v1/completions": CompletionRequest,
        "/v1/responses": ResponsesRequest,
        "/v1/messages": AnthropicMessagesRequest,
    }


def _tokenizer_schemas() -> dict[str, Any]:
    """Those of the routes that only use the tokenizer."""
    from vllm.entrypoints.anthropic.protocol import AnthropicCountTokensRequest
    from vllm.entrypoints.serve.tokenize.protocol import DetokenizeRequest, TokenizeRequest

    return {
        "/tokenize": TokenizeRequest,
        "/detokenize": DetokenizeRequest,
        "/v1/messages/count_tokens": AnthropicCountTokensRequest,
    }


def _template_variables(client: "AsyncLLM", arguments: "Namespace") -> frozenset[str]:
    """What the served chat template uses and does not set itself."""
    from jinja2 import Environment, meta
    from vllm.renderers.chat_utils import load_chat_template

    template = load_chat_template(arguments.chat_template)
    template = template or getattr(client.renderer.get_tokenizer(), "chat_template", None)
    if not isinstance(template, str):
        return frozenset()
    # It is parsed only: what is executed is in vLLM's sandbox.
    environment = Environment(extensions=["jinja2.ext.loopcontrols"], autoescape=True)
    return frozenset(meta.find_undeclared_variables(environment.parse(template)))
