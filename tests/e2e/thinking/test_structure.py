"""A schema binds the answer and not the thought, and what is bound comes to its end."""

import json
from typing import Any

import jsonschema
import openai
import pytest

from loadtest.evaluation.datasets import Problem
from tests.e2e.site import Site
from tests.e2e.thinking.conftest import chunks_of, joined, message, thought_of
from tests.e2e.thinking.schemas import schemas
from tests.e2e.thinking.test_answers import ask_all

SCHEMAS = 200
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "calculate",
        "description": "Calculates",
        "parameters": {
            "type": "object",
            "properties": {
                "expression": {"type": "string"},
                "digits": {"type": "integer", "minimum": 0, "maximum": 9},
            },
            "required": ["expression", "digits"],
        },
    },
}


def as_format(schema: dict[str, object]) -> dict[str, object]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


@pytest.mark.timeout(600)
async def test_every_generated_schema_is_kept_behind_the_reasoning(
    site: Site, problems: list[Problem]
) -> None:
    asked = schemas(SCHEMAS)
    bodies = [
        {
            "prompt": problem.text,
            "response_format": as_format(schema),
            "thinking_token_budget": (0, 20, 200)[number % 3],
            "stream": number % 2 == 0,
            "seed": 1,
        }
        for number, (schema, problem) in enumerate(zip(asked, problems, strict=False))
    ]
    replies = await ask_all(f"{site.url}/api/chat", bodies)
    assert len(replies) == SCHEMAS
    for schema, body, reply in zip(asked, bodies, replies, strict=True):
        assert reply.status == 200, reply.text
        if body["stream"]:
            chunks = chunks_of(reply.text)
            content, thought = joined(chunks, "content"), joined(chunks, "reasoning")
        else:
            answer = json.loads(reply.text)
            content, thought = message(answer)["content"], message(answer)["reasoning"]
        jsonschema.validate(json.loads(content), schema)
        assert bool(thought) == (body["thinking_token_budget"] != 0)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "calculate"}}], ids=str
)
def test_a_call_that_is_asked_for_comes_behind_the_reasoning(
    site: Site, problems: list[Problem], choice: object, stream: bool
) -> None:
    body = {
        "prompt": problems[0].text,
        "tools": [TOOL],
        "tool_choice": choice,
        "parallel_tool_calls": False,
        "thinking_token_budget": 20,
        "seed": 1,
        "stream": stream,
    }
    reply = site.post("/api/chat", body)
    assert reply.status_code == 200, reply.text
    if stream:
        chunks = chunks_of(reply.text)
        deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
        calls = [call for delta in deltas for call in delta.get("tool_calls") or ()]
        name = "".join(call["function"].get("name") or "" for call in calls)
        arguments = "".join(call["function"].get("arguments") or "" for call in calls)
        assert joined(chunks, "reasoning")
    else:
        answer = reply.json()
        (call,) = message(answer)["tool_calls"]
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        assert thought_of(answer)["tokens"] > 0
    assert name == "calculate"
    jsonschema.validate(json.loads(arguments), TOOL["function"]["parameters"])


def test_several_calls_and_their_results_are_a_conversation(api: openai.OpenAI) -> None:
    def call(number: int) -> Any:
        arguments = json.dumps({"expression": f"{number} + 1", "digits": 0})
        function = {"name": "calculate", "arguments": arguments}
        return {"id": str(number), "type": "function", "function": function}

    answer = api.chat.completions.create(
        model="chat",
        messages=[
            {"role": "user", "content": "What is 1 + 1, and 2 + 1?"},
            {"role": "assistant", "content": "", "tool_calls": [call(1), call(2)]},
            {"role": "tool", "tool_call_id": "1", "content": "2"},
            {"role": "tool", "tool_call_id": "2", "content": "3"},
        ],
        tools=[TOOL],
        seed=1,
        extra_body={"return_prompt_text": True},
    )
    assert answer.choices[0].message.content
    prompt = (answer.model_extra or {})["prompt_text"]
    assert prompt.count('<tool_call>\n{"name": "calculate"') == 2
    assert "<tool_response>\n2\n</tool_response>\n<tool_response>\n3\n</tool_response>" in prompt


async def test_json_that_would_not_end_is_closed(site: Site, problems: list[Problem]) -> None:
    schema: dict[str, object] = {
        "type": "object",
        "properties": {"note": {"type": "string"}, "count": {"type": "integer"}},
        "required": ["note", "count"],
    }
    bodies = [
        {
            "prompt": problem.text,
            "response_format": as_format(schema),
            "reasoning_effort": "none",
            "max_tokens": 70,
            "seed": 1,
        }
        for problem in problems[:24]
    ]
    answers = [json.loads(reply.text) for reply in await ask_all(f"{site.url}/api/chat", bodies)]
    for answer in answers:
        jsonschema.validate(json.loads(message(answer)["content"]), schema)
    assert any("closed" in answer["tierserve"] for answer in answers)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/api/chat", {"response_format": as_format({"$ref": "#"})}, "response_format"),
        ("/api/chat", {"structured_outputs": {"regex": "((a*)*)*"}}, "structured_outputs.regex"),
        (
            "/api/chat/v1/responses",
            {"text": {"format": {"type": "json_schema", "name": "a", "schema": {"$ref": "#"}}}},
            "text.format",
        ),
        (
            "/api/chat",
            {
                "tools": [
                    {"type": "function", "function": {"name": "f", "parameters": {"$ref": "#"}}}
                ],
                "tool_choice": "required",
            },
            "tools",
        ),
    ],
    ids=["response_format", "regex", "responses", "tools"],
)
def test_what_no_answer_should_be_bound_to_is_a_400_before_any_stream(
    site: Site, path: str, fields: dict[str, object], param: str, stream: bool
) -> None:
    asked = {"input": "Hi"} if "responses" in path else {"prompt": "Hi", "max_tokens": 16}
    reply = site.post(path, {**asked, **fields, "stream": stream})
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert error["param"] == param
    assert error["code"] in ("structure_empty", "structure_too_slow")
