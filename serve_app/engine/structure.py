"""JSON that the engine is bound to by a grammar: kept compact, and closed when tokens run out.

A small model can write white space, one string or one number without end. The grammar keeps it
valid as far as it goes; here the same grammar says what may follow, and of that what ends it
soonest is taken.
"""

import json
from collections.abc import Callable, Sequence
from copy import copy
from threading import Lock
from typing import Any

from cachetools import LRUCache

# Blanks that may stand between two signs of JSON: models write `{"a": 1}`.
MOST_BLANKS = 1
# Tokens that are held back for closing, beside those of the shortest JSON there is, and the most of
# a limit that they may take.
RESERVE_TOKENS, RESERVE_SHARE = 48, 2
# JSON whose shortest form is longer is not looked at further.
LONGEST_TOKENS = 512
KNOWN_GRAMMARS = 256
_CALL_BEGINS, _CALL_ENDS = "<tool_call>", "</tool_call>"
# In the order in which they end what is open: a string before what holds it, all before the next.
_CLOSING_SIGNS = '"}],'


def is_json(params: Any) -> bool:
    """Whether a grammar binds the generation to JSON."""
    bound = params.structured_outputs
    return bound is not None and bool(
        bound.json is not None or bound.json_object or bound.structural_tag
    )


def compacted(bound: Any, beyond_xgrammar: Callable[[dict[str, Any]], bool]) -> Any:
    """vLLM's parameters of a grammar as those of one that lets no more than `MOST_BLANKS` blanks
    stand between two signs; unchanged where the schema is `beyond_xgrammar`, which alone can."""
    schema = {"type": "object"} if bound.json_object else bound.json
    if isinstance(schema, str):
        schema = json.loads(schema)
    if schema is not None and beyond_xgrammar(schema):
        return bound
    if schema is None:
        tag = json.loads(bound.structural_tag)
    else:
        tag = {"type": "structural_tag", "format": {"type": "json_schema", "json_schema": schema}}
    compact = copy(bound)
    compact.json = compact.json_object = None
    compact.structural_tag = json.dumps(_with_few_blanks(tag))
    return compact


def is_unfinished(params: Any, answer: str) -> bool:
    """Whether this answer, cut here, is unfinished JSON. Where calls are the model's choice it may
    be plain text."""
    if not is_json(params) or params.ignore_eos:
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
        self._reserving = Lock()
        # Tokens of the shortest JSON, by grammar.
        self._shortest: LRUCache[str, int] = LRUCache(maxsize=KNOWN_GRAMMARS)
        texts = {token_id: text for text, token_id in tokenizer.get_vocab().items()}
        self._rank = np.array([_rank(texts.get(i, "")) for i in range(vocabulary_size)])

    def reserve(self, bound: Any, max_tokens: int) -> int:
        """Tokens of a limit of `max_tokens` that are to be held back."""
        key = bound.structural_tag or json.dumps(bound.json)
        # Called in threads, since a new grammar takes a while.
        with self._reserving:
            if key not in self._shortest:
                shortest = self.closing(bound, (), LONGEST_TOKENS)
                self._shortest[key] = LONGEST_TOKENS if shortest is None else len(shortest)
            return min(max_tokens // RESERVE_SHARE, self._shortest[key] + RESERVE_TOKENS)

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
        schema = bound.json if isinstance(bound.json, str) else json.dumps(bound.json)
        return self._compiler.compile_json_schema(schema)


def _with_few_blanks(form: Any) -> Any:
    """The structural tag with the bound in each JSON that it holds, but not inside a schema."""
    if isinstance(form, list):
        return [_with_few_blanks(part) for part in form]
    if not isinstance(form, dict):
        return form
    if form.get("type") == "json_schema":
        return {**form, "max_whitespace_cnt": MOST_BLANKS}
    return {name: _with_few_blanks(part) for name, part in form.items()}


def _rank(text: str) -> int:
    """The lower, the sooner it ends what is open. Tokens of several signs come last, for they may
    say more than is needed."""
    if len(text) != 1 or not text.isascii() or text.isspace():
        return 1000
    if text in _CLOSING_SIGNS:
        return _CLOSING_SIGNS.index(text)
    return 100 + ord(text) if text.isdigit() else 300 + ord(text)


def _is_optional(bound: Any) -> bool:
    if not bound.structural_tag:
        return False
    form = json.loads(bound.structural_tag).get("format", {})
    return form.get("type") == "triggered_tags"
