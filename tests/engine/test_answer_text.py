"""A stream's text and ids stay in step where its thought ends; an answer begins with its words."""

from typing import Any

from serve_app.core.generation import SequenceFacts
from serve_app.core.reasoning.trace import ThoughtTrace
from serve_app.engine.answer_text import in_step, without_blanks
from serve_app.engine.continuation import Written
from tests.engine.fake_generation import END, MARKS, FakeOutput, decode


def a_sequence(budget_tokens: int | None = 50) -> Written:
    return Written(SequenceFacts(ThoughtTrace(MARKS, budget_tokens)))


def sent(sequence: Written, outputs: list[Any]) -> list[tuple[str, list[int]]]:
    """What is passed on of a stream's outputs."""
    passed: list[tuple[str, list[int]]] = []
    for output in outputs:
        aligned = in_step(output, sequence)
        if aligned is None:
            continue
        sequence.take(aligned.token_ids)
        without_blanks(aligned, sequence, decode)
        passed.append((aligned.text, list(aligned.token_ids)))
    return passed


def test_an_id_waits_for_the_text_that_stop_strings_hold_back() -> None:
    """With a stop string of four signs vLLM's text is three signs behind."""
    outputs = [
        FakeOutput(0, "I thi", [5]),
        FakeOutput(0, "nk</th", [END]),
        FakeOutput(0, "ink>", [6]),
        FakeOutput(0, "\n\nFour", [7]),
    ]
    assert sent(a_sequence(), outputs) == [
        ("I thi", [5]),
        ("nk</think>", [END, 6]),
        ("Four", [7]),
    ]


def test_what_is_held_back_at_the_end_is_passed_on_with_it() -> None:
    outputs = [FakeOutput(0, "nk</th", [END]), FakeOutput(0, "ink>", [], "length")]
    assert sent(a_sequence(), outputs) == [("nk</think>", [END])]


def test_line_ends_go_only_before_the_answer_begins() -> None:
    outputs = [
        FakeOutput(0, "</think>", [END]),
        FakeOutput(0, "\n\n", [6]),
        FakeOutput(0, "\n One", [7]),
        FakeOutput(0, "\n\ntwo", [8]),
    ]
    assert [text for text, _ in sent(a_sequence(), outputs)] == [
        "</think>",
        "",
        " One",
        "\n\ntwo",
    ]


def test_a_thought_keeps_its_line_ends_and_so_does_a_model_without_thoughts() -> None:
    thinking = [FakeOutput(0, "\n\nSo", [5])]
    assert sent(a_sequence(), thinking) == [("\n\nSo", [5])]
    plain = Written(SequenceFacts())
    assert sent(plain, [FakeOutput(0, "\n\nSo", [5])]) == [("\n\nSo", [5])]


def test_an_answer_without_a_thought_begins_with_its_words_too() -> None:
    assert sent(a_sequence(None), [FakeOutput(0, "\n\nFour", [5])]) == [("Four", [5])]
