"""Prompt rules, presets, repetition and the cache, as the openai client sees them."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from loadtest.evaluation.datasets import Problem
from serve_app.core.reasoning.prompt_rules import MATH_DIRECTIVE
from tests.e2e.site import Site
from tests.e2e.thinking.conftest import chunks_of

HI: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Tom has 3 pens."}]
SHOW_PROMPT = {"return_prompt_text": True}


def create(api: openai.OpenAI, messages: list[ChatCompletionMessageParam], **options: Any) -> Any:
    """The raw answer: its headers are part of what is promised."""
    extra = {**SHOW_PROMPT, **options.pop("extra_body", {})}
    return api.chat.completions.with_raw_response.create(
        model="chat", messages=messages, seed=1, extra_body=extra, **options
    )


def prompt_of(raw: Any) -> str:
    return raw.parse().model_extra["prompt_text"]


def test_the_system_message_is_folded_and_earlier_reasoning_is_removed(api: openai.OpenAI) -> None:
    raw = create(
        api,
        [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "<think>\nA secret.\n</think>\n\nHi."},
            {"role": "user", "content": "Tom has 3 pens."},
        ],
        max_tokens=40,
    )
    assert prompt_of(raw) == (
        "<｜begin▁of▁sentence｜><｜User｜>Be kind.\n\nHello<｜Assistant｜>Hi."
        "<｜end▁of▁sentence｜><｜User｜>Tom has 3 pens.<｜Assistant｜><think>\n"
    )


def test_a_task_brings_its_directive_and_is_refused_if_unknown(api: openai.OpenAI) -> None:
    raw = create(api, HI, max_tokens=40, extra_body={"task": "math"})
    assert f"Tom has 3 pens.\n{MATH_DIRECTIVE}<｜Assistant｜>" in prompt_of(raw)
    with pytest.raises(openai.BadRequestError, match="math, code, service, creative"):
        create(api, HI, extra_body={"task": "cooking"})


def test_a_tasks_temperature_is_used_and_the_requests_own_wins(
    api: openai.OpenAI, problems: list[Problem]
) -> None:
    """The same seed gives the same answer at the same temperature."""
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": problems[0].text}]

    def said(**options: Any) -> tuple[str, str]:
        answer = create(api, messages, **options).parse().choices[0].message
        return answer.reasoning, answer.content

    code = said(extra_body={"task": "code"})
    assert code == said(temperature=0.3)
    assert said(temperature=0.6, top_p=0.95) == said()
    assert said(temperature=0.3, extra_body={"task": "creative"}) == code


def test_a_hot_request_is_answered_and_warned(api: openai.OpenAI) -> None:
    hot = create(api, HI, max_tokens=40, temperature=1.2)
    assert "temperature 1.2" in hot.headers["x-tierserve-warning"]
    assert hot.parse().choices[0].message.content
    assert "x-tierserve-warning" not in create(api, HI, max_tokens=40).headers


@pytest.mark.parametrize(
    ("options", "header"),
    [
        ({"reasoning_effort": "none"}, "off"),
        ({"extra_body": {"thinking_token_budget": 0}}, "off"),
        ({"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}}, "off"),
        ({"reasoning_effort": "minimal", "max_tokens": 100}, "cut"),
    ],
)
def test_how_much_a_request_thinks_is_its_own_affair(
    api: openai.OpenAI, problems: list[Problem], options: dict[str, Any], header: str
) -> None:
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": problems[0].text}]
    raw = create(api, messages, **options)
    assert raw.headers["x-tierserve-thought"] == header
    answer = raw.parse()
    assert answer.choices[0].message.content
    tokens = answer.usage.completion_tokens_details.reasoning_tokens
    assert (tokens == 0) == (header == "off")


def test_an_effort_or_budget_that_is_none_is_refused(api: openai.OpenAI) -> None:
    for extra, field in (
        ({"thinking_token_budget": -5}, "thinking_token_budget"),
        ({"thinking_token_budget": "many"}, "thinking_token_budget"),
        ({"reasoning_effort": "enormous"}, "reasoning_effort"),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            create(api, HI, extra_body=extra)
        assert refused.value.param == field


@pytest.mark.parametrize("stream", [False, True])
def test_endless_repetition_ends_and_is_reported(site: Site, stream: bool) -> None:
    body = {
        "prompt": "Hi",
        "reasoning_effort": "none",
        "temperature": 0,
        "logit_bias": {"300": 100},
        "stream": stream,
    }
    reply = site.post("/api/chat", body)
    if stream:
        (ended,) = [chunk for chunk in chunks_of(reply.text) if "tierserve" in chunk]
    else:
        ended = reply.json()
    assert ended["choices"][0]["finish_reason"] == "stop"
    assert ended["tierserve"]["finish_reasons"] == {"0": "repetition"}


@pytest.fixture
def clients(site: Site) -> Iterator[dict[str, openai.OpenAI]]:
    """Two users of the reasoning tier, by their keys."""
    base_url = f"{site.url}/api/reasoning/v1"
    with ExitStack() as stack:
        yield {
            key: stack.enter_context(openai.OpenAI(base_url=base_url, api_key=key, max_retries=0))
            for key in ("a", "b")
        }


def test_a_repeated_question_is_answered_from_the_cache(
    site: Site, clients: dict[str, openai.OpenAI]
) -> None:
    messages: list[ChatCompletionMessageParam] = [
        {"role": "user", "content": "Tom has 3 pens and buys 4."}
    ]

    def ask(key: str, **options: Any) -> Any:
        options = {"max_tokens": 200, "temperature": 0, **options}
        return clients[key].chat.completions.with_raw_response.create(
            model="reasoning", messages=messages, **options
        )

    def said(raw: Any) -> list[tuple[str | None, str | None]]:
        deltas = [chunk.choices[0].delta for chunk in raw.parse() if chunk.choices]
        return [(delta.content, getattr(delta, "reasoning", None)) for delta in deltas]

    def hits() -> float:
        return site.metrics_now().value("tierserve_answer_cache_requests_total", result="hit")

    hits_before = hits()
    first, again, other = ask("a"), ask("a"), ask("b")
    results = [raw.headers["x-tierserve-cache"] for raw in (first, again, other)]
    assert results == ["miss", "hit", "miss"]
    assert again.parse().choices == first.parse().choices
    assert again.parse().id != first.parse().id
    streamed = ask("a", stream=True)
    chunks = said(streamed)
    replayed = ask("a", stream=True)
    assert replayed.headers["x-tierserve-cache"] == "hit"
    assert replayed.headers["content-type"] == streamed.headers["content-type"]
    assert said(replayed) == chunks
    assert len(chunks) > 10
    assert "x-tierserve-cache" not in ask("a", temperature=0.7).headers
    assert hits() - hits_before == 2


def test_how_much_of_the_prompts_the_engine_knew_is_a_metric(site: Site) -> None:
    body = {"prompt": "Tom has 3 pens and buys 4. " * 60, "max_tokens": 20}
    for _ in range(3):
        assert site.post("/api/reasoning", body).status_code == 200
    rate = site.metrics_now().value("tierserve_prefix_cache_hit_rate", tier="reasoning")
    assert 0.2 < rate < 1


def test_the_other_endpoints_answer_too(site: Site, problems: list[Problem]) -> None:
    text = problems[0].text
    responses = site.post("/api/chat/v1/responses", {"input": text, "instructions": "Be kind."})
    kinds = [item["type"] for item in responses.json()["output"]]
    assert kinds == ["reasoning", "message"]
    body = {"model": "chat", "max_tokens": 300, "messages": [{"role": "user", "content": text}]}
    messages = site.post("/api/chat/v1/messages", body).json()
    assert [block["type"] for block in messages["content"]] == ["thinking", "text"]
    off = site.post("/api/chat/v1/messages", {**body, "thinking": {"type": "disabled"}}).json()
    assert [block["type"] for block in off["content"]] == ["text"]
