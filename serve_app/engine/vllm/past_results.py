"""vLLM's results, made anew from the ids that they had: text as its detokenizer gave it then."""

import asyncio
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from serve_app.core.replay.journal import EngineStep, TokenLogprobs
from serve_app.engine.journaled import EngineCall, JournaledEngine

if TYPE_CHECKING:
    from vllm.logprobs import SampleLogprobs
    from vllm.tokenizers import TokenizerLike
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.detokenizer import IncrementalDetokenizer
    from vllm.v1.engine.logprobs import LogprobsProcessor
    from vllm.v1.outputs import LogprobsLists

    from serve_app.engine.vllm.types import RequestOutput


# An engine that is to end aborts its requests, then frees the GPU.
ENDS_WITHIN_S, LOOK_EVERY_S = 10.0, 0.02


def journaled_engine(client: "AsyncLLM") -> JournaledEngine:
    """vLLM's engine with journals, where it is patched for them."""
    tokenizer = client.renderer.get_tokenizer()
    return JournaledEngine(
        client.generate,
        partial(PastVllmResults, tokenizer),
        client.model_config.max_model_len,
        until_dead=partial(_until_dead, client),
    )


async def _until_dead(client: "AsyncLLM") -> None:
    from vllm.v1.engine.exceptions import EngineDeadError

    for _ in range(round(ENDS_WITHIN_S / LOOK_EVERY_S)):
        if client.errored:
            raise EngineDeadError
        await asyncio.sleep(LOOK_EVERY_S)


@dataclass(slots=True)
class PastVllmResults:
    """Those of one call, in DELTA form. Log probabilities of the prompt, which no journal has, are
    zeros: the event that holds them is with the client already."""

    tokenizer: "TokenizerLike"
    call: EngineCall
    _texts: "dict[int, IncrementalDetokenizer]" = field(default_factory=dict)
    _logprobs: "dict[int, LogprobsProcessor]" = field(default_factory=dict)
    _begun: bool = False

    def result(self, step: EngineStep, *, finished: bool) -> "RequestOutput":
        from vllm.outputs import CompletionOutput, RequestOutput

        prompt, params = self.call.prompt, self.call.params
        if step.index not in self._texts:
            self._begin(step.index)
        prompt_logprobs = None
        if params.prompt_logprobs is not None:
            prompt_logprobs = [] if self._begun else self._zeros_of_prompt()
        self._begun = True
        output = CompletionOutput(
            index=step.index,
            text=self._text(step),
            token_ids=list(step.token_ids),
            cumulative_logprob=None if params.num_logprobs is None else 0.0,
            logprobs=None if params.num_logprobs is None else self._logprobs_of(step),
            finish_reason=step.finish_reason,
            stop_reason=step.stop_reason,
        )
        return RequestOutput(
            request_id=self.call.request_id,
            prompt=prompt.get("prompt"),
            prompt_token_ids=prompt["prompt_token_ids"],
            prompt_logprobs=prompt_logprobs,
            outputs=[output],
            finished=finished,
        )

    def _begin(self, index: int) -> None:
        from vllm.v1.engine.detokenizer import IncrementalDetokenizer
        from vllm.v1.engine.logprobs import LogprobsProcessor

        request: Any = SimpleNamespace(
            request_id=self.call.request_id,
            sampling_params=self.call.params,
            prompt_token_ids=self.call.prompt["prompt_token_ids"],
            prompt_embeds=None,
        )
        tokenizer = self.tokenizer if self.call.params.detokenize else None
        self._texts[index] = IncrementalDetokenizer.from_new_request(tokenizer, request)
        self._logprobs[index] = LogprobsProcessor.from_new_request(tokenizer, request)

    def _text(self, step: EngineStep) -> str:
        """Token by token, as it came."""
        texts, ids = self._texts[step.index], step.token_ids
        ended = step.finish_reason is not None
        # Its last id is no part of the text then.
        by_id = step.finish_reason == "stop" and not isinstance(step.stop_reason, str)
        for number, token in enumerate(ids, 1):
            texts.update([token], by_id and number == len(ids))
        return texts.get_next_output_text(ended, True)

    def _logprobs_of(self, step: EngineStep) -> "SampleLogprobs":
        processor = self._logprobs[step.index]
        for of_token in step.logprobs:
            processor._update_sample_logprobs(_as_engine(of_token))
        known = processor.logprobs
        assert known is not None
        return known[len(known) - len(step.logprobs) :]

    def _zeros_of_prompt(self) -> Any:
        """There is none of the first token."""
        from vllm.logprobs import Logprob

        ids = self.call.prompt["prompt_token_ids"][1:]
        return [None, *({token: Logprob(0.0, 1, self.tokenizer.decode([token]))} for token in ids)]


def _as_engine(of_token: TokenLogprobs) -> "LogprobsLists":
    """As vLLM's engine reports those of one token. Its rank is told to no client."""
    import numpy as np
    from vllm.v1.outputs import LogprobsLists

    ids, logprobs = zip(*of_token, strict=True)
    return LogprobsLists(np.array([ids]), np.array([logprobs]), np.array([1]), None)
