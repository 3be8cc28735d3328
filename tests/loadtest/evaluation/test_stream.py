"""Reasoning is told apart from its answer, whichever way the server sends it."""

import json
from typing import Any

import pytest

from loadtest.client.stream import TextReader, after_reasoning
from loadtest.evaluation.ask import Answer, fill
from tests.loadtest.evaluation.fake_openai import Reply, chunks


def heard(made: list[dict[str, Any]]) -> Answer:
    """The answer of chunks that come a second apart."""
    reader = TextReader()
    for second, chunk in enumerate(made):
        reader.feed(b"data: " + json.dumps(chunk).encode() + b"\n\n", float(second))
    reader.close(float(len(made)))
    answer = Answer("p", 0)
    fill(answer, reader)
    return answer


def content(*pieces: str, finish_reason: str = "stop") -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]}
        for piece in pieces
    ]
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": finish_reason}]}
    return [*made, end]


def validated(reply: Reply) -> list[dict[str, Any]]:
    made = chunks(reply)
    for chunk in made:
        for choice in chunk["choices"]:
            choice.setdefault("finish_reason", None)
    return made


def test_thought_and_answer_in_fields_of_their_own() -> None:
    answer = heard(validated(Reply(thought="hm hm hm", answer="it is 4")))

    assert (answer.thought.split(), answer.text.strip()) == (["hm"] * 3, "it is 4")
    # The first chunk names the role only; thought from second 1, answer from second 4.
    assert (answer.ttft_s, answer.ttfo_s, answer.e2e_s) == (1.0, 4.0, 6.0)
    assert (answer.prompt_tokens, answer.completion_tokens, answer.reasoning_tokens) == (5, 6, 3)
    assert answer.thought_end == "complete"


def test_an_answer_within_content_begins_after_the_thought() -> None:
    answer = heard(content("<th", "ink>", "hm", "</think>", "\n", "4"))

    assert (answer.thought, answer.text) == ("hm", "\n4")
    assert (answer.ttft_s, answer.ttfo_s) == (0.0, 5.0)
    assert answer.reasoning_tokens is None


def test_an_opening_tag_may_stay_in_the_prompt() -> None:
    answer = heard(content("hm", "</think>", "4"))

    assert (answer.thought, answer.text, answer.ttfo_s) == ("hm", "4", 2.0)


@pytest.mark.parametrize(
    ("made", "end"),
    [
        (content("<think>", "hm", finish_reason="length"), "unfinished"),
        (content("so 4", finish_reason="length"), None),
        (validated(Reply(answer="", end=None, finish_reason="length")), "unfinished"),
        (validated(Reply(answer="so 4", end="cut")), "cut"),
        (validated(Reply(answer="so 4", thought="", end="off")), "off"),
    ],
)
def test_how_a_thought_ended_is_said_or_seen(made: list[dict[str, Any]], end: str | None) -> None:
    assert heard(made).thought_end == end


def test_no_usage_is_no_zero() -> None:
    answer = heard(validated(Reply(usage=False, end=None)))

    assert (answer.prompt_tokens, answer.completion_tokens) == (None, None)
    assert answer.reasoning_tokens is None


@pytest.mark.parametrize("text", ["<", "<think", "  <think>\nhm"])
def test_a_thought_that_begins_is_no_answer(text: str) -> None:
    assert after_reasoning(text) == ""
