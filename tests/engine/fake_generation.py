"""A fake of vLLM's `generate`: scripted answers, in vLLM's shapes, and a guard in front of it.

A token's text is its number and a blank; the marks and the end of an answer have words of their
own, and a line end is one.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from serve_app.core.generation import GENERATION, CloseReasoning, Generation
from serve_app.core.reasoning.budget import ThinkingPlan
from serve_app.core.reasoning.deadline import RunningDeadline
from serve_app.core.reasoning.trace import ThoughtMarks
from serve_app.engine.answer_guard import AnswerGuard
from serve_app.engine.grammar.closing import Closed
from serve_app.engine.grammar.structure import EndTokens, StructureBinder
from serve_app.errors import RequestError

START, END, EOS, BLANK, USER = 1, 2, 0, 3, 50
PHRASE = (7, 8)
MARKS = ThoughtMarks(START, END, (START, BLANK), (*PHRASE, END), (BLANK, END, BLANK))
PLAN = ThinkingPlan(enabled=True, answer_tokens=20, answer_share=0.25)
LOOK_FOR = "what to look for"
_WORDS = {START: "<think>", END: "</think>", EOS: "", BLANK: "\n"}


class Kind(Enum):
    DELTA = 1
    FINAL_ONLY = 2


def decode(ids: Sequence[int]) -> str:
    return "".join(_WORDS.get(token, f"{token} ") for token in ids)


@dataclass
class FakeParams:
    """What the guard knows of SamplingParams."""

    max_tokens: int = 100
    temperature: float = 0.6
    output_kind: Kind = Kind.FINAL_ONLY
    n: int = 1
    min_tokens: int = 0
    thinking_token_budget: int | None = None
    repetition_detection: object = None
    structured_outputs: Any = None
    ignore_eos: bool = False
    seed: int | None = None
    stop: list[str] | None = None
    include_stop_str_in_output: bool = False
    detokenize: bool = True
    stop_token_ids: list[int] | None = None
    extra_args: dict[str, Any] | None = None

    def clone(self) -> "FakeParams":
        return replace(self)


@dataclass
class FakeOutput:
    """CompletionOutput."""

    index: int
    text: str
    token_ids: list[int]
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    logprobs: list[Any] | None = None


@dataclass
class FakeResult:
    """RequestOutput, with its `add` as vLLM 0.32 has it."""

    prompt_token_ids: list[int]
    outputs: list[FakeOutput]
    finished: bool = False

    def add(self, next_output: "FakeResult", aggregate: bool) -> None:
        assert aggregate
        self.finished |= next_output.finished
        for new in next_output.outputs:
            (old,) = [output for output in self.outputs if output.index == new.index]
            old.text += new.text
            old.token_ids.extend(new.token_ids)
            if new.logprobs:
                assert old.logprobs is not None
                old.logprobs.extend(new.logprobs)
            old.finish_reason, old.stop_reason = new.finish_reason, new.stop_reason


@dataclass(frozen=True)
class FakeBinder(StructureBinder):
    """Binds all answers, and closes every JSON with the same ids, behind as much of it as leaves
    room for them. An answer that ends with `last` is whole. `refusal` is raised instead."""

    sandbox: Any = None
    syntax: Any = None
    limits: Any = None
    ids: tuple[int, ...] | None = (9,)
    last: int = 33
    refusal: RequestError | None = None
    end_tokens: EndTokens = field(default_factory=lambda: EndTokens(2, 4))

    async def bind(self, bound: Any, field: str | None) -> tuple[Any, EndTokens]:
        if self.refusal is not None:
            raise self.refusal
        return bound, self.end_tokens

    async def close(
        self, bound: Any, answer: Sequence[int], *, least_kept: int, most_tokens: int
    ) -> Closed | None:
        if answer and answer[-1] == self.last:
            return Closed(len(answer), [], whole=True)
        kept = min(len(answer), most_tokens - len(self.ids or ()))
        return None if self.ids is None or kept < least_kept else Closed(kept, list(self.ids))


@dataclass(frozen=True)
class Said:
    """One sequence of the script, and how it ends."""

    ids: Sequence[int]
    finish: str = "stop"
    stop_reason: int | str | None = None


def ends(*ids: int) -> Said:
    """Ended by the model."""
    return Said([*ids, EOS])


@dataclass
class Asked:
    prompt: Any
    params: FakeParams
    name: str
    options: dict[str, Any]

    @property
    def prompt_ids(self) -> list[int]:
        return self.prompt["prompt_token_ids"]


@dataclass
class FakeGenerate:
    """Each call gets the next entry of the script: its sequences."""

    script: list[Sequence[Said]]
    with_logprobs: bool = False
    delta_tokens: int = 1
    asked: list[Asked] = field(default_factory=list)
    open: int = 0

    async def __call__(
        self, prompt: Any, params: FakeParams, request_id: str, **options: Any
    ) -> AsyncGenerator[FakeResult, None]:
        self.asked.append(Asked(deepcopy(prompt), replace(params), request_id, options))
        said = self.script[len(self.asked) - 1]
        self.open += 1
        try:
            ids = list(prompt["prompt_token_ids"])
            if params.output_kind is Kind.FINAL_ONLY:
                yield FakeResult(ids, [self._output(i, s, s.ids) for i, s in enumerate(said)], True)
                return
            for result in self._deltas(ids, said):
                yield result
        finally:
            self.open -= 1

    def _deltas(self, prompt: list[int], said: Sequence[Said]) -> list[FakeResult]:
        """In turn one delta of each sequence, as a batch gives them."""
        longest, step = max(len(one.ids) for one in said), self.delta_tokens
        pieces = [
            self._output(index, one, one.ids[at : at + step], last=at + step >= len(one.ids))
            for at in range(0, longest, step)
            for index, one in enumerate(said)
            if at < len(one.ids)
        ]
        return [FakeResult(prompt, [piece], piece is pieces[-1]) for piece in pieces]

    def _output(
        self, index: int, said: Said, ids: Sequence[int], *, last: bool = True
    ) -> FakeOutput:
        output = FakeOutput(index, decode(ids), list(ids))
        if self.with_logprobs:
            output.logprobs = [{token: -0.5} for token in ids]
        if last:
            output.finish_reason, output.stop_reason = said.finish, said.stop_reason
        return output


@contextmanager
def asked_by_the_edge(generation: Generation | None) -> Any:
    reported = GENERATION.set(generation)
    try:
        yield
    finally:
        GENERATION.reset(reported)


@dataclass
class Outcome:
    """An answer as a client puts it together, and what was told beside it."""

    generation: Generation
    asked: list[Asked]
    results: list[FakeResult]
    texts: dict[int, str] = field(default_factory=dict)
    ids: dict[int, list[int]] = field(default_factory=dict)
    logprobs: dict[int, list[Any]] = field(default_factory=dict)
    finish: dict[int, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for output in (output for result in self.results for output in result.outputs):
            at = output.index
            self.texts[at] = self.texts.get(at, "") + output.text
            self.ids.setdefault(at, []).extend(output.token_ids)
            self.logprobs.setdefault(at, []).extend(output.logprobs or [])
            if output.finish_reason is not None:
                self.finish.setdefault(at, []).append(output.finish_reason)

    @property
    def thought(self) -> tuple[str, int, int]:
        return self.thoughts[0]

    @property
    def thoughts(self) -> list[tuple[str, int, int]]:
        found = [facts.thought for facts in self.generation.sequences.values()]
        return [(str(t.end), t.tokens, t.answer_tokens) for t in found if t is not None]


def a_guard(generate: FakeGenerate, **changed: Any) -> Any:
    """An AnswerGuard, which takes fakes of vLLM's objects for vLLM's."""
    made: Any = AnswerGuard
    return replace(made(generate, MARKS, EOS, 1000, LOOK_FOR, FakeBinder(), decode), **changed)


async def generated(
    *script: Sequence[Said] | Said,
    stream: bool = False,
    prompt: Sequence[int] = (USER, START, BLANK),
    plan: ThinkingPlan | None = PLAN,
    stop_repetition: bool = False,
    marks: ThoughtMarks | None = MARKS,
    with_logprobs: bool = False,
    delta_tokens: int = 1,
    max_model_len: int = 1000,
    binder: FakeBinder = FakeBinder(),
    close_reasoning: CloseReasoning | None = None,
    time: RunningDeadline | None = None,
    **params: Any,
) -> Outcome:
    """One call through the guard. By default the prompt leaves a thought open."""
    said = [[one] if isinstance(one, Said) else one for one in script]
    generate = FakeGenerate(said, with_logprobs, delta_tokens)
    generation = Generation(plan, stop_repetition, close_reasoning=close_reasoning, time=time)
    kind = Kind.DELTA if stream else Kind.FINAL_ONLY
    guard = a_guard(generate, marks=marks, max_model_len=max_model_len, binder=binder)
    with asked_by_the_edge(generation):
        outputs = guard(
            {"prompt_token_ids": list(prompt), "prompt": "text"},
            FakeParams(output_kind=kind, **params),
            "id",
            priority=3,
        )
        results = [deepcopy(result) async for result in outputs]
    assert generate.open == 0
    return Outcome(generation, generate.asked, results)
