"""Every request gets an answer, however short its thought is cut."""

import asyncio
import json
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import aiohttp
import pytest
from transformers import AutoTokenizer

from loadtest.evaluation.datasets import Problem
from serve_app.engine.models.model_dir import MICRO_MODEL, resolve_model
from tests.e2e.client import Reply, ask, client_session
from tests.e2e.figures import keep_figures
from tests.e2e.site import Site
from tests.e2e.thinking.conftest import chunks_of, joined, message, thought_of

# From none to more than the longest thought.
BUDGETS = (0, 16, 48, 96, 400)
EACH = 100
AT_ONCE = 16
BOXED = re.compile(r"\\boxed\{(-?\d+)\}")
# Held-out accuracy of a whole thought is 0.95 or more over 500 problems; here they are 100.
LEAST_ACCURACY = 0.9
MAY_FALL = 0.05


async def ask_all(url: str, bodies: Sequence[object]) -> list[Reply]:
    """All of them, so many at once that the tier refuses none."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(session: aiohttp.ClientSession, body: object) -> Reply:
        async with places:
            return await ask(session, url, body)

    async with client_session() as session:
        return list(await asyncio.gather(*(one(session, body) for body in bodies)))


def body_of(problem: Problem, budget: int, **more: object) -> dict[str, object]:
    return {"prompt": problem.text, "seed": 1, "thinking_token_budget": budget, **more}


@pytest.mark.timeout(600)
async def test_all_answers_are_there_and_more_reasoning_answers_better(
    site: Site, problems: list[Problem]
) -> None:
    accuracy: dict[int, float] = {}
    for number, budget in enumerate(BUDGETS):
        chosen = problems[number * EACH : (number + 1) * EACH]
        replies = await ask_all(
            f"{site.url}/api/chat", [body_of(problem, budget) for problem in chosen]
        )
        answers = [json.loads(reply.text) for reply in replies]
        assert all(reply.status == 200 for reply in replies)
        assert all((message(answer)["content"] or "").strip() for answer in answers)
        results = [BOXED.findall(message(answer)["content"]) for answer in answers]
        assert all(results), "an answer without a result"
        right = [result[-1] == p.answer for result, p in zip(results, chosen, strict=True)]
        accuracy[budget] = sum(right) / len(right)
        assert_truthful(answers, budget)
    keep_figures("accuracy by thinking budget", **{str(k): v for k, v in accuracy.items()})
    steps = list(pairwise(accuracy.values()))
    assert all(later >= earlier - MAY_FALL for earlier, later in steps), accuracy
    assert accuracy[BUDGETS[-1]] >= LEAST_ACCURACY > accuracy[BUDGETS[0]] + 0.3, accuracy


def assert_truthful(answers: Sequence[dict[str, Any]], budget: int) -> None:
    for answer in answers:
        thought = thought_of(answer)
        details = answer["usage"]["completion_tokens_details"]
        assert details["reasoning_tokens"] == thought["tokens"]
        assert (thought["end"] == "off") == (budget == 0)
        assert (message(answer)["reasoning"] is None) == (budget == 0)
    if budget == BUDGETS[-1]:
        assert all(thought_of(answer)["end"] == "complete" for answer in answers)


async def test_reasoning_tokens_are_those_of_the_engines_ids(
    site: Site, problems: list[Problem]
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(resolve_model(MICRO_MODEL))
    assert tokenizer is not None
    end = tokenizer.convert_tokens_to_ids("</think>")
    bodies = [
        body_of(p, budget, return_token_ids=True) for budget in (8, 30, 400) for p in problems[:10]
    ]
    for body, reply in zip(bodies, await ask_all(f"{site.url}/api/chat", bodies), strict=True):
        answer = json.loads(reply.text)
        ids = answer["choices"][0]["token_ids"]
        assert thought_of(answer)["tokens"] == ids.index(end)
        assert answer["usage"]["completion_tokens"] == len(ids)
        if thought_of(answer)["end"] == "cut":
            phrase = tokenizer.encode(
                "\n\nTime is up: I answer with what I have.\n", add_special_tokens=False
            )
            assert ids.index(end) - len(phrase) == body["thinking_token_budget"]


@pytest.mark.parametrize("stop", [None, ["#####"]], ids=["", "stop"])
@pytest.mark.parametrize("budget", [0, 12, 400])
def test_a_stream_says_what_a_whole_answer_says(
    site: Site, problems: list[Problem], budget: int, stop: list[str] | None
) -> None:
    for problem in problems[:4]:
        body = body_of(problem, budget, temperature=0.6, stop=stop)
        whole = site.post("/api/chat", body).json()
        stream = {**body, "stream": True, "stream_options": {"include_usage": True}}
        chunks = chunks_of(site.post("/api/chat", stream).text)
        for field in ("content", "reasoning", "reasoning_content"):
            assert joined(chunks, field) == (message(whole)[field] or "")
        assert not message(whole)["content"].startswith("\n")
        (ended,) = [chunk for chunk in chunks if "tierserve" in chunk]
        assert thought_of(ended) == thought_of(whole)
        assert ended["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
        for count in ("completion_tokens", "completion_tokens_details"):
            assert chunks[-1]["usage"][count] == whole["usage"][count]


@pytest.mark.parametrize(
    "limits",
    [
        {"max_tokens": 1},
        {"max_tokens": 10},
        {"max_tokens": 40},
        {"stop": [" "]},
        {"stop": ["\n"], "stream": True},
        {"logit_bias": {}, "n": 3, "thinking_token_budget": 5},
        {"include_reasoning": False, "thinking_token_budget": 5},
    ],
    ids=str,
)
def test_nothing_that_a_request_sets_takes_its_answer(
    site: Site, problems: list[Problem], limits: dict[str, object]
) -> None:
    reply = site.post("/api/chat", {"prompt": problems[0].text, "seed": 1, **limits})
    assert reply.status_code == 200, reply.text
    if limits.get("stream"):
        assert joined(chunks_of(reply.text), "content")
        return
    for choice in reply.json()["choices"]:
        assert choice["message"]["content"], choice
        assert choice["finish_reason"] in ("stop", "length")


async def test_many_long_prompts_with_a_seed_are_answered(site: Site) -> None:
    """The engine reads them in parts; vLLM's own died of it on the CPU."""
    bodies = [
        {"prompt": f"{number} Tom has 3 pens and buys 4. " * 180, "max_tokens": 40, "seed": number}
        for number in range(AT_ONCE)
    ]
    replies = await ask_all(f"{site.url}/api/chat", bodies)
    assert [reply.status for reply in replies] == [200] * AT_ONCE


def test_reasoning_that_the_model_closes_is_not_closed_again(
    site: Site, problems: list[Problem]
) -> None:
    answer = site.post("/api/chat", body_of(problems[0], 400, max_tokens=900)).json()
    assert thought_of(answer)["end"] == "complete"
    assert "Time is up" not in message(answer)["content"] + message(answer)["reasoning"]
