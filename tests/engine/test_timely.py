"""An answer whose time is over: it ends as at a limit of tokens, and the engine is ended too."""

from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest

from serve_app.core.reasoning.deadline import BY_DEADLINE, DeadlinePlan, RunningDeadline
from tests.engine.fake_generation import (
    END,
    EOS,
    MARKS,
    FakeBinder,
    Kind,
    Outcome,
    Said,
    decode,
    ends,
    generated,
)

STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
LONG = ends(*range(10, 40))
JSON = SimpleNamespace(json={"type": "object"}, json_object=None, structural_tag=None, regex=None)


def due_at(result: int) -> RunningDeadline:
    """Its time is over with that result of the engine, of all of its calls: its clock is asked with
    each one."""
    looks = count(1)
    return RunningDeadline(1000, result + 0.05, lambda: float(next(looks)))


async def in_time(*script: Any, time: RunningDeadline, **options: Any) -> Outcome:
    """As the edge has it made: a request with a deadline has somebody who may close it, too."""
    close = options.pop("close_reasoning", lambda *_: None)
    return await generated(*script, time=time, close_reasoning=close, **options)


@STREAMED
async def test_an_answer_ends_with_length_when_its_time_is_over(stream: bool) -> None:
    time = due_at(4)
    outcome = await in_time(LONG, stream=stream, time=time, prompt=[50], plan=None, marks=None)
    assert outcome.ids == {0: [10, 11, 12, 13]}
    assert outcome.texts == {0: decode([10, 11, 12, 13])}
    assert outcome.finish == {0: ["length"]}
    assert outcome.generation.sequences[0].cut
    assert outcome.generation.sequences[0].cut_in_time
    assert time.answer_cut


@STREAMED
async def test_one_that_ends_before_is_as_it_is_without_a_deadline(stream: bool) -> None:
    time = due_at(1000)
    plain = await generated(ends(5, 6, END, 9), stream=stream, with_logprobs=True)
    timed = await in_time(ends(5, 6, END, 9), stream=stream, time=time, with_logprobs=True)
    assert (timed.ids, timed.texts, timed.finish) == (plain.ids, plain.texts, plain.finish)
    assert timed.logprobs == plain.logprobs
    assert not time.answer_cut


@STREAMED
async def test_the_end_that_the_model_has_set_stands(stream: bool) -> None:
    """It came with the last result that was in time."""
    time = due_at(3)
    outcome = await in_time(ends(5, 6), stream=stream, time=time, prompt=[50], plan=None)
    assert outcome.finish == {0: ["stop"]}
    assert not time.answer_cut


@STREAMED
async def test_the_answer_behind_its_reasoning_ends_too(stream: bool) -> None:
    outcome = await in_time(ends(5, 6, END, *range(10, 40)), stream=stream, time=due_at(6))
    assert outcome.ids == {0: [5, 6, END, 10, 11, 12]}
    assert outcome.finish == {0: ["length"]}
    assert outcome.thought[0] == "complete"


@STREAMED
async def test_a_turn_that_went_on_behind_closed_reasoning_ends_too(stream: bool) -> None:
    def close(_: int, tokens: int) -> str | None:
        return BY_DEADLINE if tokens >= 3 else None

    time = due_at(5)
    script = (LONG, ends(*range(60, 90)))
    outcome = await in_time(*script, stream=stream, time=time, close_reasoning=close)
    written = [10, 11, 12, *MARKS.closing, 60, 61]
    assert outcome.ids == {0: written}
    assert outcome.finish == {0: ["length"]}
    thought = outcome.generation.sequences[0].thought
    assert thought is not None
    assert thought.cut_by == BY_DEADLINE
    assert time.answer_cut


@STREAMED
async def test_reasoning_that_is_cut_has_no_answer_and_says_so(stream: bool) -> None:
    outcome = await in_time(LONG, stream=stream, time=due_at(4))
    assert (outcome.thought[0], outcome.finish) == ("unfinished", {0: ["length"]})


@STREAMED
async def test_json_is_closed_when_its_time_is_over(stream: bool) -> None:
    binder = FakeBinder(ids=(8, 9))
    outcome = await in_time(
        LONG,
        stream=stream,
        time=due_at(4),
        prompt=[50],
        plan=None,
        marks=None,
        binder=binder,
        structured_outputs=JSON,
    )
    assert outcome.ids == {0: [10, 11, 12, 13, 8, 9]}
    assert outcome.finish == {0: ["length"]}
    assert outcome.generation.sequences[0].closed


@STREAMED
async def test_all_sequences_of_a_request_end(stream: bool) -> None:
    time = RunningDeadline(1000, 0.0, lambda: 1.0)
    script = ([LONG], [LONG])
    outcome = await in_time(
        *script, stream=stream, time=time, prompt=[50], plan=None, marks=None, n=2
    )
    assert outcome.ids == {0: [10], 1: [10]}
    assert outcome.finish == {0: ["length"], 1: ["length"]}


async def test_a_call_that_is_one_result_is_asked_for_in_parts() -> None:
    outcome = await in_time(Said([5, END, 9, EOS]), time=due_at(1000))
    assert [asked.params.output_kind for asked in outcome.asked] == [Kind.DELTA]


async def test_reasoning_is_closed_by_the_deadline_before_its_time_is_over() -> None:
    """As planned: five tokens of an answer take five seconds of the twenty."""
    clock = {"s": 0.0}

    def look() -> float:
        return clock["s"]

    plan = DeadlinePlan(20, 10, 5, "as a test has it")
    time = RunningDeadline(20_000, 20.0, look, lambda: 1.0, lambda _: 1.0, plan)

    def close(index: int, tokens: int) -> str | None:
        clock["s"] = float(tokens)
        return time.close_reasoning(index, tokens)

    outcome = await in_time(LONG, ends(60, 61), stream=True, time=time, close_reasoning=close)
    thought = outcome.generation.sequences[0].thought
    assert thought is not None
    assert thought.cut_by == BY_DEADLINE
    # At 14 s another token, five of the answer and their end are still in time.
    assert thought.tokens == 14 + len(MARKS.closing) - 1
    assert outcome.finish == {0: ["stop"]}
