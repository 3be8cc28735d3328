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

    from serve_app.engine.vllm.types import RequestOutput


@dataclass(slots=True)
class PastVllmResults:
    """Those of one call, in DELTA form. Log probabilities, which no journal has, are zeros: the
    events that hold them are with the client already."""

    tokenizer: "TokenizerLike"
    call: EngineCall
    _texts: "dict[int, IncrementalDetokenizer]" = field(default_factory=dict)
    _begun: bool = False

    def result(self, step: EngineStep, *, finished: bool) -> "RequestOutput":
        from vllm.outputs import CompletionOutput, RequestOutput

        prompt, params = self.call.prompt, self.call.params
        prompt_logprobs = None
        if params.prompt_logprobs is not None:
            prompt_logprobs = [] if self._begun else self._zeros_of_prompt()
        self._begun = True
        output = CompletionOutput(
            index=step.index,
            text=self._text(step),
            token_ids=list(step.token_ids),
            cumulative_logprob=None if params.logprobs is None else 0.0,
            logprobs=None if params.logprobs is None else self._zeros(step.token_ids),
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

    def _text(self, step: EngineStep) -> str:
        """Token by token, as it came."""
        texts = self._texts.get(step.index)
        if texts is None:
            texts = self._texts[step.index] = self._detokenizer()
        ended = step.finish_reason is not None
        # Its last id is no part of the text then.
        by_id = step.finish_reason == "stop" and not isinstance(step.stop_reason, str)
        for number, token in enumerate(step.token_ids, 1):
            texts.update([token], by_id and number == len(step.token_ids))
        return texts.get_next_output_text(ended, True)

    def _detokenizer(self) -> "IncrementalDetokenizer":
        from vllm.v1.engine.detokenizer import IncrementalDetokenizer

        request: Any = SimpleNamespace(
            request_id=self.call.request_id,
            sampling_params=self.call.params,
            prompt_token_ids=self.call.prompt["prompt_token_ids"],
            prompt_embeds=None,
        )
        tokenizer = self.tokenizer if self.call.params.detokenize else None
        return IncrementalDetokenizer.from_new_request(tokenizer, request)

    def _zeros(self, ids: Any) -> "SampleLogprobs":
        from vllm.logprobs import Logprob

        texts = self.tokenizer.convert_ids_to_tokens(list(ids))
        return [{token: Logprob(0.0, 1, text)} for token, text in zip(ids, texts, strict=True)]

    def _zeros_of_prompt(self) -> Any:
        """There is none of the first token."""
        return [None, *self._zeros(self.call.prompt["prompt_token_ids"][1:])]
