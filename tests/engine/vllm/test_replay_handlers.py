"""vLLM's handlers and parsers with streams that are broken off behind each of their events.

All of vLLM but its engine, in whose place a script writes the answer: what a model rarely writes,
as a call of a tool at will, is tried too, and each place in no time.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from serve_app.config.structure import StructureConfig
from serve_app.core.reasoning.budget import ThinkingPlan
from serve_app.engine.models.model_dir import MICRO_MODEL, resolve_model
from serve_app.engine.vllm.resumption import resumed_ids
from tests.engine.grammars import micro_tokenizer
from tests.engine.real_engine import (
    CHAT,
    LEGACY,
    MESSAGES,
    RESPONSES,
    Asked,
    streamed,
)
from tests.engine.stream_content import content

# Importing vLLM takes longer than all quick tests of this folder, and warns of what is its own.
pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(300)]

PLAN = ThinkingPlan(enabled=True, answer_tokens=60, answer_share=0.25)
THOUGHT = "12 and 15 are 27.</think>\n\n"
CALLS = (
    'Let me see. <tool_call>\n{"name": "weather", "arguments": {"place": "Wien", "days": 2}}\n'
    '</tool_call>\n<tool_call>\n{"name": "weather", "arguments": {"place": "Graz", "days": 3}}\n'
    "</tool_call>"
)
SCHEMA = {
    "type": "object",
    "properties": {"place": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["place", "days"],
}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
ARGS = (
    *("--model", str(resolve_model(MICRO_MODEL)), "--served-model-name", "reasoning"),
    *("--max-model-len", "512", "--enforce-eager", "--reasoning-parser", "tierserve_r1"),
    *("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
)


def asked(path: str, **fields: Any) -> Asked:
    said: dict[str, Any] = {"messages": [{"role": "user", "content": "How many?"}]}
    if path == LEGACY:
        said = {"prompt": "How many?"}
    if path == RESPONSES:
        said = {"input": "How many?", "store": False}
    limit = {"max_output_tokens" if path == RESPONSES else "max_tokens": 200}
    body = {"model": "reasoning", **said, "temperature": 0, "stream": True, **limit, **fields}
    return Asked(path, body, None if path == LEGACY else PLAN)


USAGE = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
# What the engine writes, and who asked for it.
KINDS: dict[str, tuple[str, Asked]] = {
    "chat": (f"{THOUGHT}The answer is 27, *naïve* 日本 🎉.", asked(CHAT, **USAGE)),
    "calls at will": (THOUGHT + CALLS, asked(CHAT, tools=[TOOL], **USAGE)),
    "calls and stop": (f"{THOUGHT}{CALLS}\nEND", asked(CHAT, tools=[TOOL], stop=["END"])),
    "log probabilities": (
        f"{THOUGHT}日本 27",
        asked(CHAT, logprobs=True, top_logprobs=1, stop=["zzz"]),
    ),
    "completion": ("27, 日本.", asked(LEGACY, **USAGE)),
    "completions": ("27 or 28.", asked(LEGACY, prompt=["How many?", "Who?", "Why?"])),
    "completion with log probabilities": ("27 日本 28", asked(LEGACY, logprobs=1)),
    "response": (f"{THOUGHT}The answer is 27.", asked(RESPONSES)),
    "response with calls": (
        THOUGHT + CALLS,
        asked(RESPONSES, tools=[{"type": "function", "name": "weather", "parameters": SCHEMA}]),
    ),
    "message": (f"{THOUGHT}The answer is 27.", asked(MESSAGES)),
    "message with calls": (
        THOUGHT + CALLS,
        asked(MESSAGES, tools=[{"name": "weather", "input_schema": SCHEMA}]),
    ),
    "no answer at first": (THOUGHT, asked(CHAT)),
}
LOGPROB = -0.25
Run = Callable[[Awaitable[Any]], Any]


class ScriptedCore:
    """In the place of vLLM's client of its engine: writes `text` for each request, behind the ids
    that it is given."""

    engine_ranks_managed = (0,)
    outputs_queue: Any = None
    resources = SimpleNamespace(engine_dead=False)

    def __init__(self) -> None:
        self.text = ""
        self.tokenizer = micro_tokenizer()
        self.processor: Any = None
        self.writing: set[asyncio.Task[None]] = set()

    async def get_supported_tasks_async(self) -> tuple[str, ...]:
        return ("generate",)

    async def get_output_async(self) -> Any:
        await asyncio.Event().wait()

    async def abort_requests_async(self, request_ids: list[str]) -> None:
        pass

    def shutdown(self, timeout: float | None = None) -> None:
        pass

    async def add_request_async(self, request: Any) -> None:
        task = asyncio.ensure_future(self._write(request))
        self.writing.add(task)
        task.add_done_callback(self.writing.discard)

    async def _write(self, request: Any) -> None:
        from vllm.v1.engine import EngineCoreOutput, FinishReason
        from vllm.v1.metrics.stats import PrefillStats

        params = request.sampling_params
        ids = self.tokenizer.encode(self.text, add_special_tokens=False)
        ids = [*ids, self.tokenizer.eos_token_id]
        past = resumed_ids(params)
        assert ids[: len(past)] == past
        read = PrefillStats(num_cached_tokens=0 if past else 3, num_cache_creation_tokens=2)
        for at in range(len(past), len(ids)):
            await asyncio.sleep(0)
            output = EngineCoreOutput(
                request.request_id,
                [ids[at]],
                new_logprobs=self._logprobs(ids[at], params),
                finish_reason=FinishReason.STOP if at + 1 == len(ids) else None,
                prefill_stats=read if at == len(past) else None,
            )
            self.processor.process_outputs([output])

    def _logprobs(self, token: int, params: Any) -> Any:
        import numpy as np
        from vllm.v1.outputs import LogprobsLists

        if params.logprobs is None:
            return None
        return LogprobsLists(np.array([[token]]), np.array([[LOGPROB]]), np.array([1]), None)


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    loop = asyncio.new_event_loop()
    try:
        yield loop.run_until_complete
    finally:
        loop.close()


@pytest.fixture(scope="module")
def scripted(run: Run) -> Iterator[tuple[ScriptedCore, Any]]:
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.core_client import EngineCoreClient

    from serve_app.engine.event_ids import with_event_ids
    from serve_app.engine.vllm import engine as vllm_engine
    from serve_app.engine.vllm.first_tokens import FirstTokens

    core = ScriptedCore()

    async def application() -> Any:
        namespace = vllm_engine._parsed(ARGS)
        config = vllm_engine._configuration(namespace)
        client = AsyncLLM.from_vllm_config(config, disable_log_stats=True)
        core.processor = client.output_processor
        structure = StructureConfig()
        grammars = vllm_engine._grammar_sandbox(client, structure)
        first_tokens = FirstTokens({}, {})
        guard: Any = vllm_engine._answer_guard(client, grammars, structure, first_tokens)
        assert guard.journaled is not None
        client.generate = guard
        app = with_event_ids(await vllm_engine._application(client, namespace))
        return client, grammars, app

    patch = pytest.MonkeyPatch()
    patch.setattr(EngineCoreClient, "make_async_mp_client", staticmethod(lambda **_: core))
    client, grammars, app = run(application())

    async def stop() -> None:
        grammars.stop()
        client.output_handler.cancel()
        await asyncio.sleep(0.05)

    try:
        yield core, SimpleNamespace(app=app)
    finally:
        run(stop())
        patch.undo()


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_goes_on_behind_each_of_its_events(
    run: Run, scripted: tuple[ScriptedCore, Any], kind: str
) -> None:
    core, engine = scripted
    core.text, request = KINDS[kind]

    async def broken() -> None:
        whole = await streamed(engine, request)
        assert whole.status == 200, whole.events
        for cut in range(len(whole.events) + 1):
            again = await streamed(engine, request, whole.journals[cut - 1] if cut else "")
            assert again.parsed[:cut] == whole.parsed[:cut], cut
            assert content(again.parsed[cut:]) == content(whole.parsed[cut:]), cut

    run(broken())


def test_calls_are_made_and_have_their_ids(run: Run, scripted: tuple[ScriptedCore, Any]) -> None:
    """So that those above compare what they are to compare."""
    core, engine = scripted
    core.text, request = KINDS["calls at will"]
    calls = [
        [value[1] for kind, value in content(stream.parsed).parts["0"] if kind == "call"]
        for stream in (
            run(streamed(engine, request)),
            run(streamed(engine, request)),
            run(streamed(engine, replace(request, request_id="another"))),
        )
    ]
    assert len(calls[0]) == 2
    assert calls[0] == calls[1]
    assert not set(calls[0]) & set(calls[2])
