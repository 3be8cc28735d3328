"""Compiles a grammar with xgrammar, finds its shortest answer, and walks through it.

Only the children of the grammar worker do this, each once.
"""

import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

# JSON whose shortest form is longer is not looked at further.
LONGEST_TOKENS = 512
# Walks through a grammar: how many tokens, and how often what would end something is chosen.
WALKS = ((256, 0.0), (128, 0.1), (128, 0.5))
# Each tag is walked through too, the shorter the more there are.
MOST_TAGS, LEAST_TAG_TOKENS = 128, 16
# Steps that are timed together: the clock of CPU time ticks every few milliseconds.
TIMED_STEPS = 16
# In the order in which they end what is open: a string before what holds it, all before the next.
_CLOSING_SIGNS = '"}],'


class GrammarSpec(NamedTuple):
    """`kind` is `structural_tag`, `regex`, `ebnf` or `lark`."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class JobLimits:
    """What one child may take. `wall_s` bounds how long it waits for a core."""

    cpu_s: float
    wall_s: float
    memory_bytes: int
    compiled_bytes: int
    step_s: float


@dataclass(frozen=True, slots=True)
class Job:
    """One grammar. With an `answer` its closing is wanted, else whether it may be used."""

    number: int
    kind: str
    text: str
    limits: JobLimits
    answer: list[int] | None = None
    most_tokens: int = LONGEST_TOKENS


class Grammars:
    """xgrammar with a tokenizer's vocabulary, given as it serializes it."""

    def __init__(self, vocabulary: str) -> None:
        import numpy as np

        self._xgrammar = import_xgrammar()
        info = self._xgrammar.TokenizerInfo.deserialize_json(vocabulary)
        # One thread, so that the limit of CPU time is one of time.
        self._compiler = self._xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)
        self._words = (info.vocab_size + 31) // 32
        self._stops = list(info.stop_token_ids)
        texts: list[bytes] = info.decoded_vocab
        ranks = {i: _rank(text) for i, text in enumerate(texts) if len(text) == 1}
        closing = [i for i, rank in ranks.items() if rank < len(_CLOSING_SIGNS)]
        self._soonest = sorted((i for i in ranks if ranks[i] < 1000), key=lambda i: (ranks[i], i))
        self._no_stop = np.full(self._words, -1, dtype=np.int32)
        _clear(self._no_stop, self._stops)
        self._no_closing = self._no_stop.copy()
        _clear(self._no_closing, closing)

    def check(self, job: Job) -> dict[str, Any]:
        """Compile, find the shortest answer, and walk on as a model may."""
        compiled = self._compiled(job)
        size_bytes = compiled.memory_size_bytes
        if size_bytes > job.limits.compiled_bytes:
            return {"limit": "compiled"}
        timed = _TimedSteps(job.limits.step_s)
        try:
            matcher = self._xgrammar.GrammarMatcher(compiled)
            shortest = self._shortest(matcher, LONGEST_TOKENS, timed)
            for tokens, closes in WALKS:
                self._walk(self._xgrammar.GrammarMatcher(compiled), tokens, closes, timed)
            self._walk_through_tags(compiled, job, timed)
        except _DeadEndError:
            return {"limit": "empty"}
        if timed.slow:
            return {"limit": "slow"}
        tokens = None if shortest is None else len(shortest)
        return {"shortest_tokens": tokens, "compiled_bytes": size_bytes}

    def closing(self, job: Job) -> dict[str, Any]:
        """Ids that end the job's answer, as few as a choice sign by sign finds."""
        matcher = self._xgrammar.GrammarMatcher(self._compiled(job))
        if not all(map(matcher.accept_token, job.answer or ())):
            return {"closing": None}
        try:
            return {"closing": self._shortest(matcher, job.most_tokens)}
        except _DeadEndError:
            return {"closing": None}

    def _compiled(self, job: Job) -> Any:
        compiler = self._compiler
        if job.kind == "regex":
            return compiler.compile_regex(job.text)
        if job.kind == "lark":
            return compiler.compile_lark(job.text)
        if job.kind == "ebnf":
            return compiler.compile_grammar(job.text)
        tag = json.loads(job.text)
        if "structures" not in tag:
            return compiler.compile_structural_tag(job.text)
        # As vLLM reads the older form of a tag.
        items = [
            self._xgrammar.StructuralTagItem(
                begin=one["begin"], schema=json.dumps(one["schema"]), end=one["end"]
            )
            for one in tag["structures"]
        ]
        return compiler.compile_structural_tag(items, tag["triggers"])

    def _walk_through_tags(self, compiled: Any, job: Job, timed: "_TimedSteps") -> None:
        """A model may never begin a tag, and what it holds is compiled and applied all the same."""
        begins = _begins(json.loads(job.text)) if job.kind == "structural_tag" else []
        tokens = max(LEAST_TAG_TOKENS, LONGEST_TOKENS // max(1, len(begins)))
        for begin in begins[:MOST_TAGS]:
            matcher = self._xgrammar.GrammarMatcher(compiled)
            if matcher.accept_string(begin):
                self._shortest(matcher.fork(), tokens, timed)
                self._walk(matcher, tokens, 0.1, timed)

    def _mask(self, matcher: Any) -> Any:
        import numpy as np

        # All ones where nothing is forbidden, for xgrammar then leaves it as it is.
        mask = np.full((1, self._words), -1, dtype=np.int32)
        matcher.fill_next_token_bitmask(mask)
        if not mask.any():
            raise _DeadEndError
        return mask[0]

    def _shortest(
        self, matcher: Any, most_tokens: int, timed: "_TimedSteps | None" = None
    ) -> list[int] | None:
        ids: list[int] = []
        while len(ids) <= most_tokens:
            mask = self._mask(matcher)
            if any(_has(mask, stop) for stop in self._stops):
                return ids
            chosen = next((i for i in self._soonest if _has(mask, i)), None)
            if chosen is None:
                chosen = _first(mask)
            if chosen is None or not matcher.accept_token(chosen):
                return None
            ids.append(chosen)
            if timed is not None and timed.step():
                return None
        return None

    def _walk(self, matcher: Any, tokens: int, closes: float, timed: "_TimedSteps") -> None:
        """Take tokens at random, as a model may that does not come to an end: some grammars take
        the longer for a token the more there were."""
        dice = random.Random(tokens)  # noqa: S311  (the same walk each time)
        for _ in range(tokens):
            mask = self._mask(matcher)
            open_ended = mask & self._no_closing
            if dice.random() < closes or not open_ended.any():
                open_ended = mask & self._no_stop
            token = _any(open_ended, dice)
            if token is None or not matcher.accept_token(token) or timed.step():
                return


class _DeadEndError(Exception):
    """The grammar allows nothing, not even an end: the engine would fail there."""


class _TimedSteps:
    """`slow` once some steps in a row took longer than `step_s` each."""

    def __init__(self, step_s: float, clock_s: Callable[[], float] = time.process_time) -> None:
        self._step_s, self._clock_s = step_s, clock_s
        self._steps, self._since_s = 0, clock_s()
        self.slow = False

    def step(self) -> bool:
        """Whether it has become clear that steps are slow."""
        self._steps += 1
        if self._steps % TIMED_STEPS == 0:
            now_s = self._clock_s()
            self.slow |= now_s - self._since_s > TIMED_STEPS * self._step_s
            self._since_s = now_s
        return self.slow


def _begins(tag: Any) -> list[str]:
    """What the tags begin with that a structural tag holds, but for what stands inside schemas."""
    begins: list[str] = []
    waiting = [tag]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += part
        elif isinstance(part, dict):
            if isinstance(part.get("begin"), str):
                begins.append(part["begin"])
            waiting += [value for name, value in part.items() if "schema" not in name]
    return begins


def _rank(text: bytes) -> int:
    """The lower, the sooner a sign ends what is open. Tokens of several signs come last, for they
    may say more than is needed."""
    sign = chr(text[0])
    if not sign.isascii() or sign.isspace():
        return 1000
    if sign in _CLOSING_SIGNS:
        return _CLOSING_SIGNS.index(sign)
    return 100 + ord(sign) if sign.isdigit() else 300 + ord(sign)


def _has(mask: Any, token: int) -> bool:
    return bool((int(mask[token >> 5]) >> (token & 31)) & 1)


def _clear(mask: Any, tokens: Sequence[int]) -> None:
    bits = mask.view("uint32")
    for token in tokens:
        bits[token >> 5] &= 0xFFFFFFFF ^ (1 << (token & 31))


def _first(mask: Any) -> int | None:
    words = mask.nonzero()[0]
    return None if not len(words) else int(words[0]) * 32 + _bits(int(mask[words[0]]))[0]


def _any(mask: Any, dice: random.Random) -> int | None:
    words = mask.nonzero()[0]
    if not len(words):
        return None
    word = int(words[dice.randrange(len(words))])
    return word * 32 + dice.choice(_bits(int(mask[word])))


def _bits(word: int) -> list[int]:
    return [bit for bit in range(32) if (word >> bit) & 1]


def import_xgrammar() -> Any:
    """xgrammar without torch and transformers, which its kernels and its reading of tokenizers want
    and nothing here does: 56 MiB instead of 267, and 0.2 s instead of 1.6. As it is, where it is
    not built as this expects."""
    known = {name: sys.modules.get(name) for name in ("torch", "transformers")}
    try:
        return _import_without_torch()
    except Exception:  # noqa: BLE001  (whatever another release makes of it)
        for name in [name for name in sys.modules if name.split(".")[0] in ("xgrammar", *known)]:
            del sys.modules[name]
        import xgrammar

        return xgrammar


def _import_without_torch() -> Any:
    from importlib import import_module
    from importlib.util import find_spec

    found = find_spec("xgrammar")
    if found is None or found.submodule_search_locations is None:
        raise ImportError("xgrammar")
    package: Any = ModuleType("xgrammar")
    package.__path__, package.__spec__ = list(found.submodule_search_locations), found
    sys.modules["xgrammar"] = package
    sys.modules["transformers"] = _Absent("transformers")
    # tvm_ffi asks whether it can be imported; xgrammar's matcher imports it for its type names.
    sys.modules["torch"] = None  # pyright: ignore[reportArgumentType]
    import_module("xgrammar.load_binding")
    import_module("xgrammar.exception")
    sys.modules["torch"] = _Absent("torch")
    places = {
        "TokenizerInfo": "tokenizer_info",
        "GrammarCompiler": "compiler",
        "GrammarMatcher": "matcher",
        "StructuralTagItem": "grammar",
    }
    for name, module in places.items():
        setattr(package, name, getattr(import_module(f"xgrammar.{module}"), name))
    return package


class _Absent(ModuleType):
    """A module of which any name is a class that does nothing."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__ = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__init__": lambda self, *args, **options: None})
