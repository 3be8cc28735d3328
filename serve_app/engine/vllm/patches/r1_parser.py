"""vLLM's parser of R1 models, for prompts that open the reasoning or close it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from serve_app.core.generation import GENERATION
from serve_app.core.model_family import R1_PARSER
from serve_app.core.reasoning.trace import ThoughtEnd
from serve_app.engine.vllm.patches.patch import Patch

if TYPE_CHECKING:
    from vllm.entrypoints.generate.base.protocol import DeltaMessage
    from vllm.reasoning.deepseek_r1_reasoning_parser import DeepSeekR1ReasoningParser


def exact_parser(
    base: "type[DeepSeekR1ReasoningParser]", message: "type[DeltaMessage]"
) -> "type[DeepSeekR1ReasoningParser]":
    """vLLM's counts no token of a reasoning that the prompt has opened, and takes an answer without
    one for it. Here the reasoning ends at the first id that ends it, whatever marks are written
    before and behind, so that a stream and a whole answer agree. `message` makes a stream's
    delta."""

    class ExactParser(base):
        def extract_reasoning(
            self, model_output: str, request: Any
        ) -> tuple[str | None, str | None]:
            if _reasoning_is_off():
                return None, model_output
            at = _answer_at(model_output, self.end_token)
            reasoning = model_output[:at].removesuffix(self.end_token)
            return reasoning.removeprefix(self.start_token), model_output[at:] or None

        def extract_reasoning_streaming(
            self,
            previous_text: str,
            current_text: str,
            delta_text: str,
            previous_token_ids: Sequence[int],
            current_token_ids: Sequence[int],
            delta_token_ids: Sequence[int],
        ) -> "DeltaMessage | None":
            reasoning, content = delta_text, ""
            if self.end_token_id in delta_token_ids:
                at = self._end_at(delta_text, list(delta_token_ids))
                reasoning, content = delta_text[:at], delta_text[at + len(self.end_token) :]
            if not previous_text:
                reasoning = reasoning.removeprefix(self.start_token)
            if not reasoning and not content:
                return None
            return message(reasoning=reasoning or None, content=content or None)

        def _end_at(self, text: str, ids: list[int]) -> int:
            """Where the mark of this id stands among those that are spelt out before it."""
            at = text.find(self.end_token)
            if text.count(self.end_token) > 1:
                before = self.model_tokenizer.decode(ids[: ids.index(self.end_token_id)])
                for _ in range(before.count(self.end_token)):
                    at = text.find(self.end_token, at + 1)
            return at

        def is_reasoning_end(self, input_ids: Sequence[int]) -> bool:
            return _reasoning_is_off() or super().is_reasoning_end(input_ids)

        def count_reasoning_tokens(self, token_ids: Sequence[int]) -> int:
            if _reasoning_is_off():
                return 0
            ids = list(token_ids)
            if self.start_token_id in ids:
                ids = ids[ids.index(self.start_token_id) + 1 :]
            return ids.index(self.end_token_id) if self.end_token_id in ids else len(ids)

    return ExactParser


def _reasoning_is_off() -> bool:
    """All sequences of a request have one prompt."""
    generation = GENERATION.get()
    if generation is None or not generation.sequences:
        return False
    thought = next(iter(generation.sequences.values())).thought
    return thought is not None and thought.end is ThoughtEnd.OFF


def _answer_at(text: str, end: str) -> int:
    """Where the answer begins in a whole text; its length where it has none."""
    generation = GENERATION.get()
    if text.count(end) > 1 and generation is not None:
        for facts in generation.sequences.values():
            if facts.text == text:
                return facts.answer_at
    at = text.find(end)
    return len(text) if at < 0 else at + len(end)


def _install() -> None:
    from vllm.entrypoints.generate.base.protocol import DeltaMessage
    from vllm.reasoning import ReasoningParserManager
    from vllm.reasoning.deepseek_r1_reasoning_parser import DeepSeekR1ReasoningParser

    parser = exact_parser(DeepSeekR1ReasoningParser, DeltaMessage)
    ReasoningParserManager.register_module(R1_PARSER, module=parser)


def register_upstream_parser() -> None:
    """vLLM's own parser under our name, which the engine's arguments have, where ours is not
    installed."""
    from vllm.reasoning import ReasoningParserManager
    from vllm.reasoning.deepseek_r1_reasoning_parser import DeepSeekR1ReasoningParser

    ReasoningParserManager.register_module(R1_PARSER, module=DeepSeekR1ReasoningParser)


_PARSER = "vllm.reasoning.deepseek_r1_reasoning_parser:DeepSeekR1ReasoningParser"
PATCH = Patch(
    name="r1_parser",
    versions=">=0.32,<0.33",
    upstream="vllm/reasoning/basic_parsers.py, BaseThinkingReasoningParser",
    remove_when="vLLM's parser counts the tokens of a reasoning that the prompt has opened, takes "
    "an answer without a reasoning for an answer, and ends a reasoning at its first end id",
    apply=_install,
    replaces=(
        "vllm.reasoning:ReasoningParserManager.register_module",
        f"{_PARSER}.extract_reasoning",
        f"{_PARSER}.extract_reasoning_streaming",
        f"{_PARSER}.is_reasoning_end",
        f"{_PARSER}.count_reasoning_tokens",
    ),
)
