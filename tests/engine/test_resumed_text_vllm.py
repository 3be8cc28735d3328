"""vLLM's front end, broken off at each token: detokenizer, stop strings, log probabilities.

The engine behind it writes what is set down, so that each place can be tried in no time.
"""

import asyncio
from collections.abc import AsyncGenerator
from functools import partial
from typing import Any

import pytest

from serve_app.core.replay.journal import Journal, read
from serve_app.engine.journaled import JournaledEngine
from serve_app.engine.vllm.past_results import PastVllmResults
from serve_app.engine.vllm.patches.patch import is_replaced
from serve_app.engine.vllm.patches.resumed_output import with_resumed_text
from serve_app.engine.vllm.patches.stop_strings import stopping_in_answers, with_stop_scope
from serve_app.engine.vllm.resumption import resumed_ids
from serve_app.engine.vllm.stop_scope import stop_behind
from tests.engine.grammars import micro_tokenizer

# Importing vLLM takes longer than all quick tests of this folder, and warns of what is its own.
pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(300)]

PROMPT = "How many?"
TEXTS = {
    "words": "12 and 15 are 27</think>\n\nThe answer is 27, as 12 + 15 = 27.",
    "signs": "Grüße 日本語</think> 🎉 ∑x² «ok» naïve 👩‍👩‍👧 z",
    "half a sign": "日本</think>語",
}
LOGPROB = -0.25


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process of vLLM's, and undone behind the test."""
    from vllm.v1.engine.detokenizer import BaseIncrementalDetokenizer, check_stop_strings
    from vllm.v1.engine.output_processor import RequestState

    base: Any = BaseIncrementalDetokenizer
    state: Any = RequestState
    if is_replaced(state.from_new_request):
        # An application in this process has patched it, for good.
        return
    scoped = with_stop_scope(base.__init__)
    stopping = stopping_in_answers(base.update, check_stop_strings)
    resumed = staticmethod(with_resumed_text(state.from_new_request))
    monkeypatch.setattr(base, "__init__", scoped)
    monkeypatch.setattr(base, "update", stopping)
    monkeypatch.setattr(state, "from_new_request", resumed)


class ScriptedCore:
    """AsyncLLM's `generate`, with vLLM's front end, and these ids in its engine's place. The reader
    is late by up to `merged` tokens."""

    def __init__(self, tokenizer: Any, ids: list[int], finish: Any, merged: int) -> None:
        from vllm.v1.engine.output_processor import OutputProcessor

        self.processor = OutputProcessor(tokenizer, log_stats=False)
        self.ids, self.finish, self.merged = ids, finish, merged

    async def generate(
        self, prompt: Any, params: Any, request_id: str, **_: Any
    ) -> AsyncGenerator[Any, None]:
        from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest
        from vllm.v1.engine.output_processor import RequestOutputCollector

        collector = RequestOutputCollector(params.output_kind, request_id)
        request = EngineCoreRequest(
            request_id=request_id,
            prompt_token_ids=prompt["prompt_token_ids"],
            mm_features=None,
            sampling_params=params,
            pooling_params=None,
            arrival_time=0.0,
            lora_request=None,
            cache_salt=None,
            data_parallel_rank=None,
        )
        request.external_req_id = request_id
        self.processor.add_request(request, None, None, 0, collector)
        begun = len(resumed_ids(params))
        assert self.ids[:begun] == resumed_ids(params)
        for at in range(begun, len(self.ids)):
            output = EngineCoreOutput(
                request_id,
                [self.ids[at]],
                new_logprobs=self._logprobs(at, params),
                finish_reason=self.finish if at + 1 == len(self.ids) else None,
            )
            aborted = self.processor.process_outputs([output]).reqs_to_abort
            last = at + 1 == len(self.ids) or bool(aborted)
            if last or (at + 1) % self.merged == 0:
                result = collector.get_nowait()
                if result is not None:
                    yield result
            if last:
                break

    def _logprobs(self, at: int, params: Any) -> Any:
        import numpy as np
        from vllm.v1.outputs import LogprobsLists

        if params.logprobs is None:
            return None
        ids = np.array([[self.ids[at], self.ids[at - 1]]])
        return LogprobsLists(ids, np.array([[LOGPROB, -2.0]]), np.array([1]), None)


def content(result: Any) -> Any:
    (output,) = result.outputs
    logprobs = output.logprobs and [
        {token: (one.decoded_token, one.logprob) for token, one in each.items()}
        for each in output.logprobs
    ]
    ended = (output.finish_reason, output.stop_reason, result.finished)
    return output.text, list(output.token_ids), ended, logprobs


async def results(core: ScriptedCore, tokenizer: Any, params: Any, past: str = "") -> Any:
    async def until_dead() -> None:
        raise AssertionError

    past_results = partial(PastVllmResults, tokenizer)
    engine = JournaledEngine(core.generate, past_results, 1000, until_dead)
    journal = Journal(read(past))
    prompt = {"prompt_token_ids": tokenizer.encode(PROMPT)}
    found: list[Any] = []
    journals: list[str] = []
    written = past
    async for result in engine(journal, 0, prompt, params, "id"):
        found.append(content(result))
        written = ";".join(part for part in (written, journal.take_unsent()) if part)
        journals.append(written)
    return found, journals


@pytest.mark.usefixtures("patched")
@pytest.mark.parametrize("merged", [1, 3])
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"stop": ["= 27", "naïve 👩"]},
        {"stop": ["answer is"], "include_stop_str_in_output": True},
        {"stop": ["27", "語"], "behind": True},
        {"stop": ["a"], "min_tokens": 20},
        {"logprobs": 1},
        {"stream_interval": 4, "stop": ["zz"]},
        {"detokenize": False},
    ],
    ids=str,
)
def test_text_goes_on_from_each_token(text: str, asked: dict[str, Any], merged: int) -> None:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine import FinishReason

    tokenizer = micro_tokenizer()
    ids = tokenizer.encode(TEXTS[text], add_special_tokens=False)
    ids = [*ids, tokenizer.eos_token_id]
    fields = {key: value for key, value in asked.items() if key != "behind"}
    params = SamplingParams(
        max_tokens=100,
        skip_special_tokens=False,
        output_kind=RequestOutputKind.DELTA,
        **fields,
    )
    if asked.get("behind"):
        stop_behind(params, tokenizer.convert_tokens_to_ids("</think>"))

    async def broken() -> None:
        for finish in (FinishReason.STOP, FinishReason.LENGTH):
            whole, journals = await results(
                ScriptedCore(tokenizer, ids, finish, merged), tokenizer, params
            )
            assert whole[-1][2][2]
            for journal in journals:
                again, then = await results(
                    ScriptedCore(tokenizer, ids, finish, merged), tokenizer, params, journal
                )
                assert again == whole
                assert then[-1] == journals[-1]

    asyncio.run(broken())
