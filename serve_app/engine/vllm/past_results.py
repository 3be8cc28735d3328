"""vLLM's results, made anew from the ids that they had: text as its detokenizer gave it then."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from serve_app.core.replay.journal import EngineStep
from serve_app.engine.journaled import EngineCall

if TYPE_CHECKING:
    from vllm.logprobs import SampleLogprobs
    from vllm.tokenizers import TokenizerLike
    from vllm.v1.engine.detokenizer import IncrementalDetokenizer
    from vllm.v1.engine.logprobs import LogprobsProcessor
    from vllm.v1.outputs import LogprobsLists

    from serve_app.engine.vllm.types import RequestOutput


@dataclass(slots=True)
class PastVllmResults:
    """Those of one call, in DELTA form. Log probabilities, which no journal has, are zeros: the
    events that hold them are with the client already. The texts beside them are as they were, for
    offsets count on from them."""

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
            logprobs=None if params.num_logprobs is None else self._zeros(step),
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

    def _zeros(self, step: EngineStep) -> "SampleLogprobs":
        processor = self._logprobs[step.index]
        for token in step.token_ids:
            processor._update_sample_logprobs(_of_one(token))
        known = processor.logprobs
        assert known is not None
        return known[len(known) - len(step.token_ids) :]

    def _zeros_of_prompt(self) -> Any:
        """There is none of the first token."""
        from vllm.logprobs import Logprob

        ids = self.call.prompt["prompt_token_ids"][1:]
        return [None, *({token: Logprob(0.0, 1, self.tokenizer.decode([token]))} for token in ids)]


def _of_one(token: int) -> "LogprobsLists":
    import numpy as np
    from vllm.v1.outputs import LogprobsLists

    return LogprobsLists(np.array([[token]]), np.array([[0.0]]), np.array([1]), None)
