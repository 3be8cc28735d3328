"""Trial answers beside a running sequence: when they are asked, and what they end."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from serve_app.core.generation import CloseReasoning, Generation
from serve_app.core.reasoning.answer_policy import AnswerPolicy, PolicyPlan
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
OPENER = (4, 4)
LONG = [*range(10, 50), END, 60, EOS]
EXIT = PolicyPlan(AnswerPolicy.EARLY_EXIT, trial_every_tokens=5, trial_tokens=6)


@dataclass
class Engine:
    """Writes `said` for the sequence, and for each trial in turn one of `trials`, whose texts are
    as they stand. A token of the sequence takes as long as one of a trial."""

    trials: Sequence[str]
    said: Sequence[int] = tuple(LONG)
    asked: list[tuple[str, list[int], FakeParams]] = field(default_factory=list)
    open: int = 0

    async def __call__(
        self, prompt: Any, params: FakeParams, request_id: str, **options: Any
    ) -> AsyncGenerator[FakeResult, None]:
        ids = list(prompt["prompt_token_ids"])
        self.asked.append((request_id, ids, params))
        self.open += 1
        try:
            for output, last in self._outputs(request_id):
                await asyncio.sleep(0)
                if params.output_kind is Kind.DELTA or last:
                    yield FakeResult(ids, [output], last)
        finally:
            self.open -= 1

    def _outputs(self, name: str) -> list[tuple[FakeOutput, bool]]:
        if "-t" in name:
            text = self.trials[int(name.rpartition("-t")[2])]
            outputs = [FakeOutput(0, sign, [70 + at]) for at, sign in enumerate(text)]
        elif name == "id":
            outputs = [FakeOutput(0, decode([token]), [token]) for token in self.said]
        else:
            outputs = [FakeOutput(0, decode([80, 81, EOS]), [80, 81, EOS])]
        outputs[-1].finish_reason = "stop"
        return [(output, output is outputs[-1]) for output in outputs]

    @property
    def of_trials(self) -> list[tuple[str, list[int], FakeParams]]:
        return [asked for asked in self.asked if "-t" in asked[0]]


async def ran(
    engine: Engine, *, stream: bool = True, close: CloseReasoning | None = None, **guard: Any
) -> tuple[Generation, list[int]]:
    generation = Generation(PLAN, policy=EXIT, close_reasoning=close)
    kind = Kind.DELTA if stream else Kind.FINAL_ONLY
    made: Any = engine
    with asked_by_the_edge(generation):
        outputs = a_guard(made, trial_opener=OPENER, **guard)(
            {"prompt_token_ids": [USER, *MARKS.opening]}, FakeParams(output_kind=kind), "id"
        )
    ids: list[int] = []
    async for result in outputs:
        ids += [token for output in result.outputs for token in output.token_ids]
    assert engine.open == 0
    return generation, ids


@STREAMED
async def test_trials_that_agree_end_the_reasoning(stream: bool) -> None:
    engine = Engine(["20} and", "20.0}", "21}"])
    generation, ids = await ran(engine, stream=stream)
    (facts,) = generation.sequences.values()
    assert facts.thought is not None
    assert facts.thought.cut_by == "early_exit"
    own = ids[: ids.index(MARKS.closing[0])]
    assert ids == [*own, *MARKS.closing, 80, 81, EOS]
    assert own == LONG[: len(own)]
    assert len(own) < 30
    assert [facts.tokens for facts in generation.unseen] == [3, 5]


async def test_a_trial_is_asked_behind_the_reasoning_so_far() -> None:
    engine = Engine(["20}", "20}"])
    generation, _ = await ran(engine)
    (name, ids, params), (then, more, _) = engine.of_trials
    prompt = [USER, *MARKS.opening]
    assert ids == [*prompt, *LONG[:5], *MARKS.closing, *OPENER]
    assert more[: len(prompt) + 10] == [*prompt, *LONG[:10]]
    assert (params.temperature, params.max_tokens, params.n) == (0.0, 6, 1)
    assert {name, then} < set(generation.engine_ids)


@STREAMED
@pytest.mark.parametrize(
    "trials", [["1}", "2}", "3}", "4}", "5}", "6}", "7}", "8}"], ["no", "no"] * 4], ids=str
)
async def test_trials_that_do_not_agree_change_nothing(stream: bool, trials: list[str]) -> None:
    generation, ids = await ran(Engine(trials), stream=stream)
    assert ids == LONG
    assert generation.sequences[0].thought is not None
    assert generation.sequences[0].thought.cut_by is None


async def test_one_trial_runs_at_a_time() -> None:
    """One that takes longer than the next is due."""
    engine = Engine(["123456789012345678901234567890", "5}"])
    await ran(engine)
    assert len(engine.of_trials) == 2


async def test_a_trial_for_which_the_context_has_no_room_is_left_out() -> None:
    room = 3 + 5 + len(MARKS.closing) + len(OPENER) + EXIT.trial_tokens - 1
    engine = Engine([], said=[*range(10, 16), END, 60])
    await ran(engine, max_model_len=room)
    assert engine.of_trials == []


async def test_who_else_may_close_the_reasoning_still_can() -> None:
    engine = Engine(["1}", "2}", "3}"])
    generation, _ = await ran(engine, close=lambda _, tokens: "deadline" if tokens > 12 else None)
    assert generation.sequences[0].thought is not None
    assert generation.sequences[0].thought.cut_by == "deadline"


async def test_a_trial_ends_with_its_sequence_and_with_its_client() -> None:
    engine = Engine(["9" * 500], said=[*range(10, 20), END, 60, EOS])
    await ran(engine)
    assert len(engine.of_trials) == 1
    engine = Engine(["9" * 500])
    made: Any = engine
    with asked_by_the_edge(Generation(PLAN, policy=EXIT)):
        params = FakeParams(output_kind=Kind.DELTA)
        outputs = a_guard(made)({"prompt_token_ids": [USER, *MARKS.opening]}, params, "id")
    for _ in range(12):
        await anext(outputs)
    assert engine.open == 2
    await outputs.aclose()
    assert engine.open == 0


async def test_a_trial_that_fails_fails_the_request() -> None:
    """As where the engine has died, whose other calls fail too."""

    class Failing(Engine):
        def _outputs(self, name: str) -> list[tuple[FakeOutput, bool]]:
            if "-t" in name:
                raise RuntimeError("no engine")
            return super()._outputs(name)

    engine = Failing([])
    with pytest.raises(RuntimeError, match="no engine"):
        await ran(engine)
    assert engine.open == 0
