"""JSON that the engine is bound to by a grammar, and what closes it when its tokens run out.

A small model can write one string or number without end. The grammar keeps it valid as far as it
goes; here the same grammar says what may follow, and of that what ends it soonest is taken.
"""

import json
from collections.abc import Sequence
from typing import Any

# Most tokens that are held back for closing, and the share of a smaller limit.
RESERVE_TOKENS, RESERVE_SHARE = 64, 8
_CALL_BEGINS, _CALL_ENDS = "<tool_call>", "</tool_call>"
# In the order in which they end what is open: a string before what holds it, all before the next.
_CLOSING_SIGNS = '"}],'


def closing_reserve(params: Any) -> int:
    """Tokens of the limit that are held back; 0 for what no grammar binds to JSON."""
    return min(RESERVE_TOKENS, params.max_tokens // RESERVE_SHARE) if _is_json(params) else 0


def is_bound(params: Any, answer: str) -> bool:
    """Whether this answer, cut here, is unfinished JSON. Where calls are the model's choice it may
    be plain text."""
    if not _is_json(params) or params.ignore_eos:
        return False
    if not _is_optional(params.structured_outputs):
        return True
    return answer.rfind(_CALL_BEGINS) > answer.rfind(_CALL_ENDS)


class StructureCloser:
    """Closes JSON by xgrammar, which is also what binds vLLM's engine."""

    def __init__(self, tokenizer: Any, vocabulary_size: int) -> None:
        import numpy as np
        import xgrammar

        self._eos = tokenizer.eos_token_id
        info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=vocabulary_size)
        self._compiler = xgrammar.GrammarCompiler(info, cache_limit_bytes=16 * 1024 * 1024)
        self._vocabulary_size = vocabulary_size
        texts = {token_id: text for text, token_id in tokenizer.get_vocab().items()}
        self._rank = np.array([_rank(texts.get(i, "")) for i in range(vocabulary_size)])

    def closing(self, bound: Any, answer: Sequence[int], most_tokens: int) -> list[int] | None:
        """Ids that end the JSON of `answer`, as few as a choice sign by sign finds; None where the
        grammar does not know the answer, or more than `most_tokens` are needed."""
        import numpy as np
        import xgrammar

        matcher = xgrammar.GrammarMatcher(self._compiled(bound))
        if not all(map(matcher.accept_token, answer)):
            return None
        bitmask = xgrammar.allocate_token_bitmask(1, self._vocabulary_size)
        ids: list[int] = []
        while len(ids) <= most_tokens:
            matcher.fill_next_token_bitmask(bitmask)
            bits = np.unpackbits(bitmask.numpy().view(np.uint8), bitorder="little")
            allowed = np.flatnonzero(bits[: self._vocabulary_size])
            if self._eos in allowed:
                return ids
            chosen = int(allowed[np.argmin(self._rank[allowed])])
            if not matcher.accept_token(chosen):
                return None
            ids.append(chosen)
        return None

    def _compiled(self, bound: Any) -> Any:
        if bound.structural_tag:
            return self._compiler.compile_structural_tag(bound.structural_tag)
        schema = {"type": "object"} if bound.json_object else bound.json
        return self._compiler.compile_json_schema(
            schema if isinstance(schema, str) else json.dumps(schema)
        )


def _rank(text: str) -> int:
    """The lower, the sooner it ends what is open. Tokens of several signs come last, for they may
    say more than is needed."""
    if len(text) != 1 or not text.isascii() or text.isspace():
        return 1000
    if text in _CLOSING_SIGNS:
        return _CLOSING_SIGNS.index(text)
    return 100 + ord(text) if text.isdigit() else 300 + ord(text)


def _is_json(params: Any) -> bool:
    bound = params.structured_outputs
    return bound is not None and bool(
        bound.json is not None or bound.json_object or bound.structural_tag
    )


def _is_optional(bound: Any) -> bool:
    if not bound.structural_tag:
        return False
    form = json.loads(bound.structural_tag).get("format", {})
    return form.get("type") == "triggered_tags"
