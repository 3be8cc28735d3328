"""Compiles a grammar with xgrammar, finds its shortest answer, and walks through it.

Only the children of the grammar worker do this, each once.
"""

import json
import random
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any, NamedTuple

from serve_app.core.structure.json_cuts import JsonLexer
from serve_app.engine.grammar.closing import (
    LONGEST_TOKENS,
    DeadEndError,
    Endings,
    Vocabulary,
    bits_of,
    clear,
)

# Walks through a grammar: how many tokens, and how often what would end something is chosen.
WALKS = ((256, 0.0), (128, 0.1), (128, 0.5))
# Each tag is walked through too, the shorter the more there are.
MOST_TAGS, LEAST_TAG_TOKENS = 128, 16
# Of an end that is looked for behind a walk.
MOST_END_SIGNS = 256
# Steps that are timed together: the clock of CPU time ticks every few milliseconds.
TIMED_STEPS = 16
_CLOSING_SIGNS = b'"}],'


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
    least_kept: int = 0
    most_tokens: int = LONGEST_TOKENS


class Grammars:
    """xgrammar with a tokenizer's vocabulary, given as it serializes it. `xgrammar` is the module:
    `import_xgrammar()` in a process that needs neither torch nor transformers."""

    def __init__(self, vocabulary: str, xgrammar: Any) -> None:
        import numpy as np

        self._xgrammar = xgrammar
        info = self._xgrammar.TokenizerInfo.deserialize_json(vocabulary)
        # One thread, so that the limit of CPU time is one of time.
        self._compiler = self._xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)
        self._vocabulary = Vocabulary(info)
        self._no_stop = np.full(self._vocabulary.words, -1, dtype=np.int32)
        clear(self._no_stop, self._vocabulary.stops)
        self._no_closing = self._no_stop.copy()
        signs = self._vocabulary.signs
        clear(self._no_closing, [i for i, sign in signs.items() if sign in _CLOSING_SIGNS])

    def check(self, job: Job) -> dict[str, Any]:
        """Compile, find the shortest answer, and walk on as a model may. `closing_tokens` is the
        longest end that was found on these ways."""
        compiled = self._compiled(job)
        size_bytes = compiled.memory_size_bytes
        if size_bytes > job.limits.compiled_bytes:
            return {"limit": "compiled"}
        timed = _TimedSteps(job.limits.step_s)
        endings = Endings(self._vocabulary, self._mask, timed.step)
        try:
            shortest = endings.shortest(self._xgrammar.GrammarMatcher(compiled))
            ends = [shortest]
            for tokens, closes in WALKS:
                matcher = self._xgrammar.GrammarMatcher(compiled)
                ends.append(self._walk(matcher, tokens, closes, timed, endings))
            self._walk_through_tags(compiled, job, timed, endings)
        except DeadEndError:
            return {"limit": "empty"}
        if timed.slow:
            return {"limit": "slow"}
        tokens = None if shortest is None else len(shortest)
        longest = max(len(end) for end in ends if end is not None) if any(ends) else 0
        return {
            "shortest_tokens": tokens,
            "closing_tokens": longest,
            "compiled_bytes": size_bytes,
        }

    def closing(self, job: Job) -> dict[str, Any]:
        """What is kept of the job's answer, and the ids that end it."""
        matcher = self._xgrammar.GrammarMatcher(self._compiled(job))
        answer = job.answer or []
        if not all(map(matcher.accept_token, answer)):
            return {"closing": None}
        endings = Endings(self._vocabulary, self._mask)
        try:
            closed = endings.close(
                matcher, answer, least_kept=job.least_kept, most_tokens=job.most_tokens
            )
        except DeadEndError:
            closed = None
        return {"closing": None if closed is None else asdict(closed)}

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

    def _walk_through_tags(
        self, compiled: Any, job: Job, timed: "_TimedSteps", endings: Endings
    ) -> None:
        """A model may never begin a tag, and what it holds is compiled and applied all the same."""
        begins = _begins(json.loads(job.text)) if job.kind == "structural_tag" else []
        tokens = max(LEAST_TAG_TOKENS, LONGEST_TOKENS // max(1, len(begins)))
        for begin in begins[:MOST_TAGS]:
            matcher = self._xgrammar.GrammarMatcher(compiled)
            if matcher.accept_string(begin):
                self._walk(matcher, tokens, 0.1, timed, endings)

    def _mask(self, matcher: Any) -> Any:
        import numpy as np

        # All ones where nothing is forbidden, for xgrammar then leaves it as it is.
        mask = np.full((1, self._vocabulary.words), -1, dtype=np.int32)
        matcher.fill_next_token_bitmask(mask)
        if not mask.any():
            raise DeadEndError
        return mask[0]

    def _walk(
        self, matcher: Any, tokens: int, closes: float, timed: "_TimedSteps", endings: Endings
    ) -> list[int] | None:
        """Take tokens at random, as a model may that does not come to an end: some grammars take
        the longer for a token the more there were. The end that is found then."""
        rng = random.Random(tokens)  # noqa: S311  (the same walk each time)
        lexer = JsonLexer()
        for _ in range(tokens):
            mask = self._mask(matcher)
            open_ended = mask & self._no_closing
            if rng.random() < closes or not open_ended.any():
                open_ended = mask & self._no_stop
            token = _any(open_ended, rng)
            if token is None or not matcher.accept_token(token):
                break
            lexer.feed(self._vocabulary.texts[token])
            if timed.step():
                return None
        return endings.shortest(matcher, lexer, min(MOST_END_SIGNS, tokens))


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


def _any(mask: Any, rng: random.Random) -> int | None:
    words = mask.nonzero()[0]
    if not len(words):
        return None
    word = int(words[rng.randrange(len(words))])
    return word * 32 + rng.choice(bits_of(int(mask[word])))


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
