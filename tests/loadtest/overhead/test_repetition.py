"""The requests of a repetition: of fixed work, never twice, the same for every system."""

import json

import pytest

from loadtest.overhead.plan import OpenLoop
from loadtest.overhead.repetition import arrivals_s, make_prompts
from loadtest.sse_client import chat_body


def test_no_prompt_comes_twice() -> None:
    labels = [
        f"{level}/{number}.{attempt}"
        for level in (1, 8)
        for number in range(3)
        for attempt in range(2)
    ]
    prompts = [prompt for label in labels for prompt in make_prompts(128, label)]

    assert len(set(prompts)) == len(prompts)
    assert make_prompts(4, labels[0]) == make_prompts(4, labels[0])


def test_a_request_is_of_fixed_work() -> None:
    body = json.loads(chat_body("chat", "hello", output_tokens=64))

    assert body["max_tokens"] == 64
    assert body["ignore_eos"] is True
    assert body["temperature"] == 0
    assert body["stream_options"] == {"include_usage": True}


def test_arrivals_are_the_same_for_every_system_and_others_in_every_round() -> None:
    level = OpenLoop(rate_rps=20.0, requests=2000)

    due_s = arrivals_s(level, 0)

    assert due_s == arrivals_s(level, 0) == sorted(due_s)
    assert due_s != arrivals_s(level, 1)
    assert due_s[-1] == pytest.approx(2000 / 20.0, rel=0.1)
