"""The openai client against all three base URLs, on answers in real English."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jsonschema
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.e2e.site import Site

JAPAN: list[ChatCompletionMessageParam] = [
    {"role": "user", "content": "What is the capital of Japan?"}
]
CITY_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}},
    "required": ["city"],
    "additionalProperties": False,
}
PERSON_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 10},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
WEATHER_TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": CITY_SCHEMA,
    },
}


@dataclass(frozen=True, slots=True)
class Target:
    """An openai client for one base URL, and the model to ask there."""

    api: openai.OpenAI
    model: str


@pytest.fixture(
    params=[("/api/chat/v1", "chat"), ("/api/reasoning/v1", "reasoning"), ("/v1", "chat")],
    ids=lambda param: param[0],
)
def target(site: Site, request: pytest.FixtureRequest) -> Iterator[Target]:
    path, model = request.param
    with openai.OpenAI(base_url=site.url + path, api_key="any", max_retries=0) as api:
        yield Target(api, model)


def test_an_answer_in_english(target: Target) -> None:
    answer = target.api.chat.completions.create(
        model=target.model, messages=JAPAN, temperature=0, max_tokens=30
    )
    assert "Tokyo" in (answer.choices[0].message.content or "")
    assert answer.model == target.model
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer._request_id


def test_a_stream_gives_the_same_text_and_then_its_usage(target: Target) -> None:
    with target.api.chat.completions.create(
        model=target.model,
        messages=JAPAN,
        temperature=0,
        max_tokens=30,
        stream=True,
        stream_options={"include_usage": True},
    ) as stream:
        chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert "Tokyo" in text
    assert len([chunk for chunk in chunks if chunk.choices]) > 4
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 4
    assert all(chunk.usage is None for chunk in chunks[:-1])


@pytest.mark.parametrize("choice", ["required", "named"])
def test_a_tool_call_keeps_the_tools_schema(target: Target, choice: str) -> None:
    named: Any = {"type": "function", "function": {"name": "get_weather"}}
    answer = target.api.chat.completions.create(
        model=target.model,
        messages=[{"role": "user", "content": "What is the weather in Rome?"}],
        tools=[WEATHER_TOOL],
        tool_choice="required" if choice == "required" else named,
        temperature=0,
        max_tokens=100,
    )
    calls = answer.choices[0].message.tool_calls
    assert calls
    for call in calls:
        assert call.type == "function"
        assert call.function.name == "get_weather"
        jsonschema.validate(json.loads(call.function.arguments), CITY_SCHEMA)


def test_json_keeps_its_schema(target: Target) -> None:
    answer = target.api.chat.completions.create(
        model=target.model,
        messages=[{"role": "user", "content": "Describe a person as JSON."}],
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "person", "schema": PERSON_SCHEMA},
        },
        temperature=0,
        max_tokens=60,
    )
    jsonschema.validate(json.loads(answer.choices[0].message.content or ""), PERSON_SCHEMA)


def test_sampling_fields_reach_the_engine(target: Target) -> None:
    def sample(seed: int) -> list[str | None]:
        answer = target.api.chat.completions.create(
            model=target.model,
            messages=[{"role": "user", "content": "Tell me a story."}],
            n=2,
            seed=seed,
            temperature=1,
            logprobs=True,
            top_logprobs=2,
            max_tokens=8,
        )
        assert len(answer.choices) == 2
        for choice in answer.choices:
            assert choice.logprobs is not None
            assert choice.logprobs.content is not None
            assert len(choice.logprobs.content) == 8
            assert all(len(token.top_logprobs) == 2 for token in choice.logprobs.content)
        return [choice.message.content for choice in answer.choices]

    first = sample(seed=7)
    assert first[0] != first[1]
    assert sample(seed=7) == first
    stopped = target.api.chat.completions.create(
        model=target.model, messages=JAPAN, temperature=0, max_tokens=30, stop=["of Japan"]
    )
    assert stopped.choices[0].message.content == "The capital "
    assert stopped.choices[0].finish_reason == "stop"


def test_completions_and_responses(target: Target) -> None:
    completion = target.api.completions.create(
        model=target.model, prompt="The capital of France is", temperature=0, max_tokens=5
    )
    assert "Paris" in completion.choices[0].text
    response = target.api.responses.create(
        model=target.model,
        input="What is the capital of France?",
        temperature=0,
        max_output_tokens=30,
    )
    assert "Paris" in response.output_text
    with target.api.responses.create(
        model=target.model, input="Say hi.", max_output_tokens=8, stream=True
    ) as stream:
        kinds = [event.type for event in stream]
    assert kinds[0] == "response.created"
    assert kinds[-1] in ("response.completed", "response.incomplete")


def test_the_models_are_listed(target: Target) -> None:
    names = [model.id for model in target.api.models.list()]
    assert target.model in names
    assert "smollm2" in names


def test_a_limit_above_the_tiers_is_lowered_and_the_client_is_warned(target: Target) -> None:
    """At an OpenAI base URL clients cannot know it."""
    answer = target.api.chat.completions.with_raw_response.create(
        model=target.model, messages=JAPAN, temperature=0, max_tokens=32_000
    )
    assert "32000 lowered to" in answer.headers["x-tierserve-warning"]
    whole = answer.parse()
    assert "Tokyo" in (whole.choices[0].message.content or "")
    assert whole.usage is not None
    assert whole.usage.completion_tokens <= 2048


@pytest.mark.parametrize("tier", ["chat", "reasoning"])
def test_a_limit_above_the_tiers_is_refused_at_its_own_route(site: Site, tier: str) -> None:
    reply = site.post(f"/api/{tier}", {"messages": JAPAN, "max_tokens": 2049})
    assert reply.status_code == 400
    assert "gives at most" in reply.json()["error"]["message"]


@pytest.mark.parametrize("model", ["reasoning", "smollm2"])
def test_one_base_url_knows_tiers_and_the_served_model(site: Site, model: str) -> None:
    with openai.OpenAI(base_url=f"{site.url}/v1", api_key="any", max_retries=0) as api:
        names = [listed.id for listed in api.models.list()]
        assert names == ["chat", "reasoning", "smollm2"]
        assert api.models.retrieve(model).id == model
        before = site.metrics_now().value("tierserve_requests_total", tier="reasoning")
        answer = api.chat.completions.create(
            model=model, messages=JAPAN, temperature=0, max_tokens=30
        )
    assert "Tokyo" in (answer.choices[0].message.content or "")
    used = site.metrics_now().value("tierserve_requests_total", tier="reasoning") - before
    assert used == (1 if model == "reasoning" else 0)


def test_a_client_that_retries_hears_of_an_unknown_model(site: Site) -> None:
    with (
        openai.OpenAI(base_url=f"{site.url}/v1", api_key="any") as api,
        pytest.raises(openai.NotFoundError, match="nope"),
    ):
        api.chat.completions.create(model="nope", messages=JAPAN)
