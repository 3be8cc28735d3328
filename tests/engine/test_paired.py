"""A direct answer beside the reasoning: when it becomes the answer, and when it is in vain."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.generation import CloseReasoning, Generation
from serve_app.core.reasoning.answer_policy import AnswerPolicy, PolicyPlan
from serve_app.core.reasoning.trace import ThoughtEnd
from tests.engine.fake_generation import (
    END,
    EOS,
    MARKS,
    PLAN,
    USER,
    FakeOutput,
    FakeParams,
    FakeResult,
    Kind,
    a_guard,
    asked_by_the_edge,
    decode,
)

STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
REASONED = [*range(10, 50), END, 60, EOS]
PAIR = PolicyPlan(AnswerPolicy.PAIR, trial_every_tokens=5, trial_tokens=6, samples=2)
BOXED = ["so ", "\\boxed{", "20", "}"]


@dataclass
class Engine:
    """Writes `direct` for the direct answer, one of `trials` for each trial in turn, `reasoned` for
    the other answer, all at the same pace."""

    direct: Sequence[str] = tuple(BOXED)
    trials: Sequence[str] = ("20}",) * 9
    reasoned: Sequence[int] = tuple(REASONED)
    direct_ends: str = "stop"
    asked: dict[str, tuple[list[int], FakeParams]] = field(default_factory=dict)
    open: set[str] = field(default_factory=set)

    async def __call__(
        self, prompt: Any, params: FakeParams, request_id: str, **options: Any
    ) -> AsyncGenerator[FakeResult, None]:
        ids = list(prompt["prompt_token_ids"])
        self.asked[request_id] = (ids, replace(params))
        self.open.add(request_id)
        try:
            outputs = self._outputs(request_id)
            for output in outputs:
                await asyncio.sleep(0)
                last = output is outputs[-1]
                if params.output_kind is Kind.DELTA or last:
                    yield FakeResult(ids, [output], last)
        finally:
            self.open.remove(request_id)

    def _outputs(self, name: str) -> list[FakeOutput]:
        if "-t" in name:
            text = self.trials[int(name.rpartition("-t")[2])]
            outputs = [FakeOutput(0, sign, [70 + at]) for at, sign in enumerate(text)]
        elif name == "id-d":
            outputs = [FakeOutput(0, text, [90 + at]) for at, text in enumerate(self.direct)]
            outputs.append(FakeOutput(0, "", [EOS]))
            outputs[-1].finish_reason = self.direct_ends
            return outputs
        elif name == "id":
            outputs = [FakeOutput(0, decode([token]), [token]) for token in self.reasoned]
        else:
            outputs = [FakeOutput(0, decode([80, EOS]), [80, EOS])]
        outputs[-1].finish_reason = "stop"
        return outputs


@dataclass
class Ran:
    generation: Generation
    ids: list[int]
    text: str
    finish: str | None


async def ran(
    engine: Engine,
    *,
    stream: bool = True,
    close: CloseReasoning | None = None,
    policy: PolicyPlan = PAIR,
    limit: int = 100,
) -> Ran:
    generation = Generation(PLAN, policy=policy, close_reasoning=close)
    kind = Kind.DELTA if stream else Kind.FINAL_ONLY
    made: Any = engine
    with asked_by_the_edge(generation):
        outputs = a_guard(made)(
            {"prompt_token_ids": [USER, *MARKS.opening]},
            FakeParams(max_tokens=limit, output_kind=kind),
            "id",
        )
    found = Ran(generation, [], "", None)
    async for result in outputs:
        for output in result.outputs:
            found.ids += output.token_ids
            found.text += output.text
            found.finish = output.finish_reason or found.finish
    assert engine.open == set()
    return found


@STREAMED
async def test_a_direct_answer_that_a_trial_confirms_is_the_answer(stream: bool) -> None:
    engine = Engine()
    found = await ran(engine, stream=stream)
    (facts,) = found.generation.sequences.values()
    assert facts.thought is not None
    assert facts.thought.cut_by == "pair"
    own = found.ids[: found.ids.index(MARKS.closing[0])]
    assert own == REASONED[: len(own)]
    assert 5 <= len(own) < 20
    assert found.ids == [*own, *MARKS.closing, 90, 91, 92, 93, EOS]
    assert found.text.endswith("</think>so \\boxed{20}")
    assert found.finish == "stop"
    # Nothing was generated behind the reasoning's end, and each token counts once.
    assert set(engine.asked) == {"id", "id-d", "id-t0"}
    assert facts.tokens == len(found.ids)
    assert [facts.tokens for facts in found.generation.unseen] == [3]


@STREAMED
async def test_a_direct_answer_that_is_longer_than_what_is_left_does_not_stand_in(
    stream: bool,
) -> None:
    engine = Engine([*["a "] * 60, *BOXED], ("20}",) * 30, [*[10] * 95, END, 60, EOS])
    found = await ran(engine, stream=stream)
    (facts,) = found.generation.sequences.values()
    assert facts.thought is not None
    assert facts.thought.cut_by == "pair"
    # The engine answers within the limit; what the direct answer took counts beside it.
    assert found.ids[-2:] == [80, EOS]
    assert facts.tokens == len(found.ids) <= 100
    assert found.generation.direct in found.generation.unseen


async def test_the_direct_answer_has_the_same_prompt_without_reasoning() -> None:
    engine = Engine()
    found = await ran(engine)
    prompt, params = engine.asked["id-d"]
    assert prompt == [USER, *MARKS.opening, *MARKS.none]
    assert params.thinking_token_budget is None
    assert params.max_tokens == 100
    assert found.generation.prompt_tokens == 1 + len(MARKS.opening)
    assert set(engine.asked) <= set(found.generation.engine_ids)


@STREAMED
@pytest.mark.parametrize(
    ("direct", "ends"),
    [
        (["so ", "\\boxed{", "21", "}"], "stop"),
        (["I do not know"], "stop"),
        (BOXED, "length"),
    ],
    ids=["other", "without", "cut"],
)
async def test_where_the_two_differ_the_reasoned_one_decides(
    stream: bool, direct: list[str], ends: str
) -> None:
    engine = Engine(direct, direct_ends=ends)
    found = await ran(engine, stream=stream)
    assert found.ids == REASONED
    (facts,) = found.generation.sequences.values()
    assert facts.thought is not None
    assert facts.thought.end is ThoughtEnd.COMPLETE
    assert found.generation.direct in found.generation.unseen
    # Without a direct answer no trial is asked for.
    assert any("-t" in name for name in engine.asked) == ("21" in direct)


@STREAMED
async def test_a_direct_answer_ends_with_the_reasoning_that_was_faster(stream: bool) -> None:
    engine = Engine(["a "] * 500, reasoned=[*range(10, 20), END, *[60] * 30, EOS])
    found = await ran(engine, stream=stream)
    assert found.ids[:11] == [*range(10, 20), END]
    assert found.generation.direct is not None
    # It is of no use from there on, and not only from the answer's end on.
    assert 0 < found.generation.direct.tokens < 20


async def test_a_deadline_may_close_the_reasoning_before() -> None:
    found = await ran(
        Engine(["a "] * 500), close=lambda _, tokens: "deadline" if tokens > 12 else None
    )
    assert found.generation.sequences[0].thought is not None
    assert found.generation.sequences[0].thought.cut_by == "deadline"
    assert found.ids[-2:] == [80, EOS]


async def test_a_client_that_leaves_takes_both_along() -> None:
    engine = Engine(["a "] * 500)
    made: Any = engine
    with asked_by_the_edge(Generation(PLAN, policy=PAIR)):
        params = FakeParams(output_kind=Kind.DELTA)
        outputs = a_guard(made)({"prompt_token_ids": [USER, *MARKS.opening]}, params, "id")
    for _ in range(5):
        await anext(outputs)
    assert engine.open == {"id", "id-d"}
    await outputs.aclose()
    assert engine.open == set()


async def test_a_direct_answer_that_fails_fails_the_request() -> None:
    """As where the engine has died, whose other calls fail too."""

    class Failing(Engine):
        def _outputs(self, name: str) -> list[FakeOutput]:
            if name == "id-d":
                raise RuntimeError("no engine")
            return super()._outputs(name)

    engine = Failing()
    with pytest.raises(RuntimeError, match="no engine"):
        await ran(engine)
    assert engine.open == set()


@given(
    before=st.integers(0, 40),
    said=st.sampled_from(["20", "21", ""]),
    trials=st.lists(st.sampled_from(["20}", "21}", "no", "}", "20"]), min_size=30, max_size=30),
    reasoned=st.integers(1, 60),
    stream=st.booleans(),
    every=st.integers(4, 20),
)
def test_whichever_is_faster_the_answer_is_one_of_the_two(
    before: int, said: str, trials: list[str], reasoned: int, stream: bool, every: int
) -> None:
    """And all tokens are counted once."""
    engine = Engine(
        [*["a "] * before, "\\boxed{", said, "}"], trials, [*[10] * reasoned, END, 60, EOS]
    )
    found = asyncio.run(ran(engine, stream=stream, policy=replace(PAIR, trial_every_tokens=every)))
    (facts,) = found.generation.sequences.values()
    direct = [*range(90, 93 + before), EOS]
    assert facts.tokens == len(found.ids)
    assert facts.thought is not None
    assert found.finish == "stop"
    if facts.thought.cut_by is None:
        assert found.ids == [*[10] * reasoned, END, 60, EOS]
        return
    own = found.ids[: -len(direct) - len(MARKS.closing)]
    assert set(own) == {10}
    assert found.ids == [*own, *MARKS.closing, *direct]
    assert said == trials[len(found.generation.unseen) - 1].rstrip("}")
    assert found.generation.direct not in found.generation.unseen
