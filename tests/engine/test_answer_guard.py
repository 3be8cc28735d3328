"""Every request gets an answer: what the guard does where a generation ends without one."""

import pytest

from serve_app.core.generation import Generation
from serve_app.engine.guarded_call import MOST_TURNS
from tests.engine.fake_generation import (
    BLANK,
    END,
    EOS,
    MARKS,
    PHRASE,
    PLAN,
    USER,
    FakeGenerate,
    FakeParams,
    Kind,
    Outcome,
    Said,
    a_guard,
    asked_by_the_edge,
    decode,
    ends,
    generated,
)

STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
PROMPT = [USER, *MARKS.opening]


def shown(ids: list[int]) -> str:
    """The text of these ids, whose line ends behind the thought belong to the thought's form."""
    thought, mark, answer = decode(ids).rpartition("</think>")
    return thought + mark + answer.lstrip("\n")


def answered(outcome: Outcome, ids: list[int], finish: str = "stop") -> None:
    """One sequence with these ids, which count, one text that fits them, one end, at the end."""
    assert outcome.ids == {0: ids}
    assert outcome.generation.sequences[0].tokens == len(ids)
    assert outcome.texts == {0: shown(ids)}
    assert outcome.finish == {0: [finish]}
    assert outcome.results[-1].finished
    assert not any(result.finished for result in outcome.results[:-1])


# --- nothing is lacking


@STREAMED
async def test_a_thought_with_an_answer_passes_as_it_is(stream: bool) -> None:
    outcome = await generated(ends(5, 6, END, 9), stream=stream)
    answered(outcome, [5, 6, END, 9, EOS])
    assert outcome.thought == ("complete", 2, 2)
    assert len(outcome.asked) == 1


@STREAMED
async def test_an_answer_that_reaches_the_limit_is_one(stream: bool) -> None:
    outcome = await generated(Said([5, END, 9], "length"), stream=stream)
    answered(outcome, [5, END, 9], "length")
    assert len(outcome.asked) == 1


@STREAMED
async def test_a_thought_closed_at_its_budget_is_reported_as_cut(
    stream: bool,
) -> None:
    own = [5] * (100 - 20 - len(MARKS.closing))
    outcome = await generated(ends(*own, *MARKS.closing, 9), stream=stream)
    assert outcome.thought == ("cut", len(own) + len(PHRASE), 2)


# --- the model ends inside its thought


@STREAMED
@pytest.mark.parametrize("delta_tokens", [1, 3])
async def test_an_end_inside_the_thought_is_followed_by_the_closing_and_an_answer(
    stream: bool, delta_tokens: int
) -> None:
    outcome = await generated(ends(5, 6), ends(9, 9), stream=stream, delta_tokens=delta_tokens)
    answered(outcome, [5, 6, *MARKS.closing, 9, 9, EOS])
    assert outcome.thought == ("cut", 2 + len(PHRASE), 3)
    first, second = outcome.asked
    assert second.prompt_ids == [*first.prompt_ids, 5, 6, *MARKS.closing]
    assert "prompt" not in second.prompt
    assert second.params.max_tokens == 100 - 2 - len(MARKS.closing)
    assert second.params.thinking_token_budget is None
    assert second.options == {"priority": 3, "reasoning_ended": True}
    assert second.name != first.name
    assert all(result.prompt_token_ids == first.prompt_ids for result in outcome.results)


@STREAMED
async def test_a_stop_string_inside_the_thought_does_not_take_the_answer(stream: bool) -> None:
    outcome = await generated(Said([5, 6], "stop", "6"), ends(9), stream=stream)
    answered(outcome, [5, 6, *MARKS.closing, 9, EOS])
    assert outcome.thought == ("cut", 2 + len(PHRASE), 2)


@STREAMED
async def test_a_stop_string_in_the_answer_ends_it(stream: bool) -> None:
    outcome = await generated(Said([5, END, 6], "stop", "6"), stream=stream)
    answered(outcome, [5, END, 6])
    assert len(outcome.asked) == 1


@STREAMED
async def test_a_thought_that_repeats_itself_is_closed_and_not_reported_as_a_repetition(
    stream: bool,
) -> None:
    outcome = await generated(Said([5, 5, 5], "repetition"), ends(9), stream=stream)
    answered(outcome, [5, 5, 5, *MARKS.closing, 9, EOS])
    assert not outcome.generation.sequences[0].repeated


@STREAMED
async def test_an_answer_that_repeats_itself_ends_and_that_is_reported(stream: bool) -> None:
    for script in ([Said([5, END, 9, 9], "repetition")], [ends(5), Said([9, 9], "repetition")]):
        outcome = await generated(*script, stream=stream)
        assert outcome.finish == {0: ["repetition"]}
        assert outcome.generation.sequences[0].repeated


# --- the model ends right behind its thought


@STREAMED
async def test_an_end_right_behind_the_thought_is_followed_by_an_answer(stream: bool) -> None:
    outcome = await generated(ends(5, END), ends(9), stream=stream)
    answered(outcome, [5, END, 9, EOS])
    assert outcome.thought == ("complete", 1, 2)
    assert [asked.params.min_tokens for asked in outcome.asked] == [0, 1]


@STREAMED
async def test_an_answer_of_blanks_is_asked_for_once_more_with_more_tokens(stream: bool) -> None:
    outcome = await generated(ends(5, END, BLANK), ends(BLANK), ends(9, 9), stream=stream)
    answered(outcome, [5, END, BLANK, BLANK, 9, 9, EOS])
    assert [asked.params.min_tokens for asked in outcome.asked] == [0, 1, 8]
    assert outcome.asked[2].prompt_ids == [*PROMPT, 5, END, BLANK, BLANK]
    assert len({asked.name for asked in outcome.asked}) == 3


@STREAMED
async def test_a_model_that_never_answers_is_asked_no_more_after_some_turns(stream: bool) -> None:
    outcome = await generated(ends(5, END), *[ends(BLANK)] * MOST_TURNS, stream=stream)
    answered(outcome, [5, END, *[BLANK] * MOST_TURNS, EOS])
    assert len(outcome.asked) == 1 + MOST_TURNS


# --- no tokens are left


@STREAMED
async def test_where_the_closing_leaves_no_token_a_thought_ends_unfinished(stream: bool) -> None:
    used = 100 - len(MARKS.closing)
    outcome = await generated(ends(*[5] * used), stream=stream)
    answered(outcome, [*[5] * used, EOS])
    assert outcome.thought[0] == "unfinished"
    outcome = await generated(ends(*[5] * (used - 1)), Said([9], "length"), stream=stream)
    assert outcome.asked[1].params.max_tokens == 1
    assert outcome.ids[0][-1] == 9


@STREAMED
async def test_an_empty_answer_without_a_token_left_ends_as_it_is(stream: bool) -> None:
    outcome = await generated(ends(5, END), stream=stream, max_tokens=2)
    assert outcome.finish == {0: ["stop"]}
    assert len(outcome.asked) == 1


@STREAMED
async def test_no_more_tokens_are_asked_for_than_are_left(stream: bool) -> None:
    outcome = await generated(
        ends(*[5] * 12, END), ends(BLANK), Said([9], "length"), stream=stream, max_tokens=16
    )
    assert [asked.params.max_tokens for asked in outcome.asked] == [16, 3, 2]
    assert outcome.asked[2].params.min_tokens == 2


# --- several sequences


@STREAMED
async def test_of_several_sequences_only_the_one_that_misses_its_answer_goes_on(
    stream: bool,
) -> None:
    first = [ends(5, END, 9), ends(6, 6), ends(5, END, BLANK)]
    outcome = await generated(first, ends(8), ends(7), stream=stream, n=3)
    assert outcome.ids == {
        0: [5, END, 9, EOS],
        1: [6, 6, *MARKS.closing, 8, EOS],
        2: [5, END, BLANK, 7, EOS],
    }
    assert outcome.texts == {index: shown(ids) for index, ids in outcome.ids.items()}
    assert outcome.finish == {index: ["stop"] for index in range(3)}
    assert [end for end, *_ in outcome.thoughts] == ["complete", "cut", "complete"]
    assert [asked.params.n for asked in outcome.asked] == [3, 1, 1]


async def test_the_prompts_of_one_request_are_reported_one_after_the_other() -> None:
    generation = Generation(stop_repetition=True)
    generate = FakeGenerate([[ends(9), ends(9)], [ends(9), Said([9, 9], "repetition")]])
    guard = a_guard(generate, marks=None)
    with asked_by_the_edge(generation):
        calls = [guard({"prompt_token_ids": [5]}, FakeParams(n=2), f"id-{at}") for at in range(2)]
        for outputs in calls:
            async for _ in outputs:
                pass
    assert [facts.repeated for facts in generation.sequences.values()] == [False] * 3 + [True]
    assert [facts.tokens for facts in generation.sequences.values()] == [2, 2, 2, 2]
    assert generation.prompt_tokens == 2


# --- probabilities, and a client that leaves


@STREAMED
async def test_each_id_keeps_its_place_among_the_probabilities(stream: bool) -> None:
    outcome = await generated(ends(5, 6), ends(9), stream=stream, with_logprobs=True)
    reported = [{5: -0.5}, {6: -0.5}, *[None] * len(MARKS.closing), {9: -0.5}, {EOS: -0.5}]
    assert outcome.logprobs == {0: reported}
    assert len(outcome.ids[0]) == len(reported)


@pytest.mark.parametrize("results", [1, 3, 5])
async def test_whoever_leaves_early_ends_the_engines_generation(results: int) -> None:
    """Within the thought, at its end, and in the answer that was asked for behind it."""
    generate = FakeGenerate([[ends(5, 6)], [ends(9, 9)]])
    with asked_by_the_edge(Generation(PLAN)):
        params = FakeParams(output_kind=Kind.DELTA)
        outputs = a_guard(generate)({"prompt_token_ids": PROMPT}, params, "id")
        for _ in range(results):
            await anext(outputs)
        assert generate.open == 1
        assert len(generate.asked) == (1 if results <= 3 else 2)
        await outputs.aclose()
    assert generate.open == 0
