"""What the guard makes of a prompt and its parameters before the engine gets them."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from serve_app.core.generation import Generation
from serve_app.core.reasoning.budget import LEAST_THOUGHT_TOKENS
from serve_app.engine.continuation import REPETITION
from serve_app.engine.grammar.structure import EndTokens
from serve_app.engine.vllm.stop_scope import stop_id_of
from serve_app.errors import RequestError, invalid
from tests.engine.fake_generation import (
    BLANK,
    END,
    EOS,
    LOOK_FOR,
    MARKS,
    PLAN,
    START,
    USER,
    FakeBinder,
    FakeGenerate,
    FakeParams,
    Outcome,
    Said,
    a_guard,
    asked_by_the_edge,
    decode,
    ends,
    generated,
)

STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
ANSWER = ends(5, END, 9)
ROOM = 100 - PLAN.answer_tokens - len(MARKS.closing)
JSON = SimpleNamespace(json={"type": "object"}, json_object=None, structural_tag=None, regex=None)
REGEX = SimpleNamespace(json=None, json_object=None, structural_tag=None, regex="a+")


def asked_for(outcome: Outcome) -> tuple[list[int], int | None, bool]:
    """The prompt, the budget that the engine counts with, whether the thought is over."""
    asked = outcome.asked[0]
    return asked.prompt_ids, asked.params.thinking_token_budget, asked.options["reasoning_ended"]


# --- what passes unchanged


async def test_what_no_request_of_the_edge_stands_behind_passes_unchanged() -> None:
    generate = FakeGenerate([[ends(5)]])
    prompt, params = {"prompt_token_ids": [USER]}, FakeParams()
    with asked_by_the_edge(None):
        results = [result async for result in a_guard(generate)(prompt, params, "id", priority=3)]
    (asked,) = generate.asked
    assert (asked.prompt, asked.params, asked.options) == (prompt, FakeParams(), {"priority": 3})
    assert results[0].outputs[0].token_ids == [5, EOS]


@pytest.mark.parametrize("changed", [{"marks": None}, {"plan": None}])
async def test_without_marks_or_a_plan_no_thought_is_planned_and_none_is_missed(
    changed: dict[str, Any],
) -> None:
    outcome = await generated(ends(5), prompt=[USER], **changed)
    (asked,) = outcome.asked
    assert asked.prompt_ids == [USER]
    assert asked.params == FakeParams()
    assert asked.options == {"priority": 3}
    assert outcome.ids == {0: [5, EOS]}
    assert outcome.thoughts == []


# --- the thought that a prompt leaves open


async def test_a_budget_is_counted_with_the_tokens_that_the_prompt_has_opened_with() -> None:
    for opened in ([START], [START, BLANK], [START, BLANK, 5, 5]):
        outcome = await generated(ANSWER, prompt=[USER, *opened])
        assert asked_for(outcome) == ([USER, *opened], ROOM + len(opened) - 1, False)
        assert outcome.generation.sequences[0].thought is not None
        assert outcome.generation.sequences[0].thought.budget_tokens == ROOM


@pytest.mark.parametrize("prompt", [[USER], [START, 5, END, USER]])
async def test_a_thought_is_opened_where_the_prompt_leaves_none_open(prompt: list[int]) -> None:
    opened = [*prompt, *MARKS.opening]
    outcome = await generated(ANSWER, prompt=prompt)
    assert asked_for(outcome) == (opened, ROOM + 1, False)
    assert outcome.results[0].prompt_token_ids == opened
    assert outcome.thought == ("complete", 1, 2)


async def test_where_it_is_not_forced_the_prompt_stays_and_there_is_no_thought() -> None:
    outcome = await generated(ends(9), prompt=[USER], plan=replace(PLAN, forced=False))
    assert asked_for(outcome) == ([USER], None, True)
    assert outcome.thought == ("off", 0, 2)


# --- no thought


@pytest.mark.parametrize(
    "plan",
    [replace(PLAN, enabled=False), replace(PLAN, most_tokens=0)],
    ids=["thinking is off", "the request wants none"],
)
@pytest.mark.parametrize("prompt", [[USER, *MARKS.opening], [USER]], ids=["open", "not open"])
async def test_a_thought_that_is_not_to_be_is_closed_in_the_prompt(
    plan: Any, prompt: list[int]
) -> None:
    outcome = await generated(ends(9), plan=plan, prompt=prompt)
    assert asked_for(outcome) == ([USER, *MARKS.opening, *MARKS.none], None, True)
    assert outcome.thought == ("off", 0, 2)


async def test_an_empty_thought_that_the_template_has_written_is_not_written_twice() -> None:
    prompt = [USER, *MARKS.opening, *MARKS.none]
    outcome = await generated(ends(9), plan=replace(PLAN, enabled=False), prompt=prompt)
    assert asked_for(outcome) == (prompt, None, True)


async def test_a_limit_that_is_too_small_for_a_thought_is_all_the_answers() -> None:
    """Of 14 tokens 4 are kept and 3 close a thought, of 15 one more is left."""
    outcome = await generated(ends(9), max_tokens=14)
    assert asked_for(outcome)[1:] == (None, True)
    assert outcome.asked[0].params.max_tokens == 14
    outcome = await generated(ANSWER, max_tokens=15)
    assert asked_for(outcome)[1:] == (LEAST_THOUGHT_TOKENS + 1, False)


@STREAMED
async def test_an_empty_answer_is_asked_for_anew_without_a_thought_too(stream: bool) -> None:
    plan = replace(PLAN, enabled=False)
    outcome = await generated(ends(), ends(9), plan=plan, stream=stream)
    assert outcome.ids == {0: [9, EOS]}
    assert outcome.texts == {0: decode([9])}
    assert outcome.thought[0] == "off"


# --- limits


async def test_what_is_added_to_the_prompt_is_taken_from_the_limit_at_the_contexts_end() -> None:
    outcome = await generated(ANSWER, prompt=[USER], max_model_len=60, max_tokens=59)
    assert outcome.asked[0].params.max_tokens == 60 - 1 - len(MARKS.opening)


@pytest.mark.parametrize(("on", "own", "reported"), [
    (True, None, LOOK_FOR), (True, "its own", "its own"), (False, None, None),
])  # fmt: skip
async def test_the_engine_looks_for_repetition_where_the_tier_wants_it(
    on: bool, own: str | None, reported: str | None
) -> None:
    outcome = await generated(ANSWER, stop_repetition=on, repetition_detection=own)
    assert outcome.asked[0].params.repetition_detection == reported


# --- JSON


@STREAMED
@pytest.mark.parametrize("delta_tokens", [1, 3])
async def test_json_has_its_whole_limit_and_is_closed_from_where_that_fits(
    stream: bool, delta_tokens: int
) -> None:
    cut = Said([5, END, 6, 7, 8], "length")
    outcome = await generated(
        cut, structured_outputs=JSON, stream=stream, max_tokens=50, delta_tokens=delta_tokens
    )
    assert outcome.asked[0].params.max_tokens == 50
    assert outcome.ids == {0: [5, END, 6, 7, 8, 9]}
    assert outcome.texts == {0: decode([5, END, 6, 7, 8, 9])}
    assert outcome.finish == {0: ["length"]}
    assert outcome.generation.sequences[0].closed
    assert outcome.thought[2] == 4
    assert [result.finished for result in outcome.results][-1:] == [True]


@STREAMED
@pytest.mark.parametrize("delta_tokens", [1, 2, 3])
@pytest.mark.parametrize("marks", [MARKS, None], ids=["thinks", "does not"])
async def test_json_at_its_limit_goes_back_to_make_room_for_its_end(
    stream: bool, delta_tokens: int, marks: Any
) -> None:
    begin = [5, END] if marks is not None else []
    said = Said([*begin, *range(20, 20 + 6 - len(begin))], "length")
    outcome = await generated(
        said,
        structured_outputs=JSON,
        stream=stream,
        marks=marks,
        plan=PLAN if marks is not None else None,
        max_tokens=6,
        delta_tokens=delta_tokens,
        with_logprobs=True,
        binder=FakeBinder(ids=(8, 9)),
    )
    ids = [*list(said.ids)[:4], 8, 9]
    assert outcome.ids == {0: ids}
    assert outcome.texts == {0: decode(ids)}
    assert outcome.logprobs == {0: [*[{token: -0.5} for token in ids[:4]], None, None]}
    assert outcome.finish == {0: ["length"]}


@STREAMED
async def test_json_that_is_whole_at_its_limit_stops_there(stream: bool) -> None:
    said = Said([20, 21, 33], "length")
    outcome = await generated(
        said, structured_outputs=JSON, stream=stream, marks=None, max_tokens=3
    )
    assert outcome.ids == {0: [20, 21, 33]}
    assert outcome.finish == {0: ["stop"]}
    assert not outcome.generation.sequences[0].closed


async def test_a_stream_sends_all_but_the_end_of_a_limit_at_once() -> None:
    kept_back = FakeBinder().end_tokens.kept_back
    said = ends(*range(20, 20 + 9))
    outcome = await generated(
        said, structured_outputs=JSON, stream=True, marks=None, max_tokens=kept_back + 5
    )
    assert [len(result.outputs) for result in outcome.results] == [1] * 10
    assert outcome.ids == {0: list(said.ids)}
    assert outcome.finish == {0: ["stop"]}


@STREAMED
async def test_what_a_stream_has_sent_is_not_taken_back(stream: bool) -> None:
    """Whole answers neither, so that both are equal."""
    end_tokens = EndTokens(0, 0)
    binder = FakeBinder(ids=tuple(range(60)), end_tokens=end_tokens)
    said = Said([*range(100, 100 + end_tokens.kept_back + 5)], "length")
    outcome = await generated(
        said,
        structured_outputs=JSON,
        stream=stream,
        marks=None,
        max_tokens=len(said.ids),
        binder=binder,
    )
    assert outcome.ids == {0: list(said.ids)}
    assert outcome.finish == {0: ["length"]}
    assert not outcome.generation.sequences[0].closed


@STREAMED
async def test_json_that_repeats_itself_is_closed_and_reported_so(stream: bool) -> None:
    said = Said([20, 21, 22], REPETITION)
    outcome = await generated(said, structured_outputs=JSON, stream=stream, marks=None)
    assert outcome.ids == {0: [20, 21, 22, 9]}
    assert outcome.finish == {0: ["length"]}
    assert outcome.generation.sequences[0].repeated


@STREAMED
async def test_of_several_sequences_each_has_an_end_of_its_own(stream: bool) -> None:
    said = [Said([20, 21, 22, 23], "length"), ends(24, 25), Said([26, 27, 28, 33], "length")]
    outcome = await generated(
        said, structured_outputs=JSON, stream=stream, marks=None, n=3, max_tokens=4
    )
    assert outcome.ids == {0: [20, 21, 22, 9], 1: [24, 25, EOS], 2: [26, 27, 28, 33]}
    assert outcome.finish == {0: ["length"], 1: ["stop"], 2: ["stop"]}


@STREAMED
async def test_json_that_cannot_be_closed_is_reported_as_cut(stream: bool) -> None:
    cut = Said([5, END, 6, 6], "length")
    binder = FakeBinder(ids=None)
    outcome = await generated(cut, structured_outputs=JSON, stream=stream, binder=binder)
    assert outcome.ids == {0: [5, END, 6, 6]}
    assert outcome.finish == {0: ["length"]}
    assert not outcome.generation.sequences[0].closed


async def test_a_thought_that_uses_its_budget_leaves_json_more_than_its_closing() -> None:
    """Otherwise the answer is the shortest that the grammar allows."""
    outcome = await generated(ANSWER, structured_outputs=JSON, max_tokens=400)
    thought = outcome.generation.sequences[0].thought
    assert thought is not None
    assert thought.budget_tokens is not None
    used = thought.budget_tokens + len(MARKS.closing)
    kept = PLAN.answer_tokens + FakeBinder().end_tokens.reserve(400)
    assert outcome.asked[0].params.max_tokens - used == kept


REFUSED = invalid("No answer can satisfy it.", param="response_format")


@STREAMED
async def test_a_grammar_that_is_refused_reaches_no_engine(stream: bool) -> None:
    generate = FakeGenerate([])
    guard = a_guard(generate, binder=FakeBinder(refusal=REFUSED))
    params = FakeParams(structured_outputs=REGEX)
    for generation in (Generation(PLAN), None):
        with asked_by_the_edge(generation), pytest.raises(RequestError):
            await anext(guard({"prompt_token_ids": [USER]}, params, "id"))
    assert generate.asked == []


class NotingBinder(FakeBinder):
    """Binds by another form than was asked for, which names the field."""

    async def bind(self, bound: Any, field: str | None) -> tuple[Any, EndTokens]:
        return SimpleNamespace(**{**vars(bound), "regex": field}), EndTokens(2, 2)


@pytest.mark.parametrize("generation", [Generation(structure_field="regex of the request"), None])
async def test_the_engine_gets_the_form_that_was_checked(generation: Generation | None) -> None:
    generate = FakeGenerate([[ends(9)]])
    guard = a_guard(generate, marks=None, binder=NotingBinder())
    params = FakeParams(structured_outputs=REGEX)
    with asked_by_the_edge(generation):
        results = [r async for r in guard({"prompt_token_ids": [USER]}, params, "id")]
    assert len(results) == 1
    reported = None if generation is None else generation.structure_field
    assert generate.asked[0].params.structured_outputs.regex == reported


@pytest.mark.parametrize("bound", [REGEX, JSON])
async def test_no_token_of_a_limit_is_kept_from_an_answer(bound: Any) -> None:
    outcome = await generated(ANSWER, structured_outputs=bound, plan=None)
    assert outcome.asked[0].params.max_tokens == 100


@STREAMED
async def test_each_sequence_goes_on_with_a_seed_of_its_own(stream: bool) -> None:
    script = [[ends(5), ends(6)], ends(9), ends(10)]
    outcome = await generated(*script, stream=stream, n=2, seed=5)
    assert [asked.params.seed for asked in outcome.asked] == [5, 5, 6]


@pytest.mark.parametrize("stops", [{"stop": ["a"]}, {"stop_token_ids": [9]}], ids=str)
@pytest.mark.parametrize(("stops_in_thought", "behind"), [(False, END), (True, None)])
async def test_stops_count_behind_the_thought_unless_the_request_wants_them_in_it(
    stops_in_thought: bool, behind: int | None, stops: dict[str, Any]
) -> None:
    plan = replace(PLAN, stops_in_thought=stops_in_thought)
    outcome = await generated(ends(5), ends(9), plan=plan, **stops)
    first, following = (cast("Any", asked.params) for asked in outcome.asked)
    assert stop_id_of(first) == behind
    assert stop_id_of(following) is None


async def test_a_request_without_stops_costs_the_engine_nothing_for_them() -> None:
    outcome = await generated(ends(5, END, 9))
    assert outcome.asked[0].params.extra_args is None
