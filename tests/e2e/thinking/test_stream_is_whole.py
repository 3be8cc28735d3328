"""What a stream is joined to is the whole answer, field by field, for requests with a seed."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.e2e.site import Site
from tests.e2e.thinking.conftest import chunks_of

QUESTION = "Tom has 12 apples. He buys 15 more and gives away 7. How many apples does he have?"
EXAMPLES = 40
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "count": {"type": "integer"},
        "kind": {"enum": ["red", "reddish", "green"]},
        "more": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["name", "count", "kind"],
    "additionalProperties": False,
}
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
        },
    },
}
SHAPES: list[dict[str, Any]] = [
    {},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}},
    {"response_format": {"type": "json_object"}},
    {"tools": [ADD], "tool_choice": "required"},
    {"tools": [ADD], "tool_choice": {"type": "function", "function": {"name": "add"}}},
    {"tools": [ADD]},
]
STOPS = [["15"], ["\n\n"], ["\n"], ["</think>"], ["Tom"], ["27", "20"], ["e"], [" "], ['"']]
REQUESTS = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0, 0.9]),
        "seed": st.integers(0, 1000),
        "max_tokens": st.integers(1, 220),
        "shape": st.sampled_from(SHAPES),
    },
    optional={
        "stop": st.sampled_from(STOPS),
        "n": st.integers(2, 3),
        "include_stop_str_in_output": st.booleans(),
        "stop_in_thinking": st.booleans(),
        "thinking_token_budget": st.sampled_from([0, 10, 40]),
        "min_tokens": st.just(1),
    },
)


def arguments_of(call: str) -> object:
    """vLLM writes the arguments of a whole answer's call anew, as far as they are JSON."""
    try:
        return json.loads(call)
    except ValueError:
        return call


def whole_of(answer: dict[str, Any]) -> dict[str, Any]:
    """By index what each answer is; ids of calls are made up anew each time."""
    choices = {}
    for choice in answer["choices"]:
        message = choice["message"]
        calls = [call["function"] for call in message.get("tool_calls") or ()]
        choices[choice["index"]] = {
            "content": message["content"] or "",
            "reasoning": message.get("reasoning") or "",
            "calls": [(call["name"], arguments_of(call["arguments"])) for call in calls],
            "finish_reason": choice["finish_reason"],
        }
    return {
        "choices": choices,
        "usage": answer["usage"]["completion_tokens"],
        "tierserve": answer.get("tierserve"),
    }


def joined_of(text: str) -> dict[str, Any]:
    choices: dict[int, dict[str, Any]] = {}
    usage, facts = None, {}
    for chunk in chunks_of(text):
        usage = (chunk.get("usage") or {}).get("completion_tokens", usage)
        for name, value in chunk.get("tierserve", {}).items():
            merged = facts.setdefault(name, type(value)())
            merged.update(value) if isinstance(value, dict) else merged.extend(value)
        for choice in chunk["choices"]:
            into = choices.setdefault(
                choice["index"],
                {"content": "", "reasoning": "", "calls": {}, "finish_reason": None},
            )
            delta = choice["delta"]
            into["content"] += delta.get("content") or ""
            into["reasoning"] += delta.get("reasoning") or ""
            for call in delta.get("tool_calls") or ():
                made = into["calls"].setdefault(call["index"], ["", ""])
                made[0] += call["function"].get("name") or ""
                made[1] += call["function"].get("arguments") or ""
            into["finish_reason"] = choice["finish_reason"] or into["finish_reason"]
    for into in choices.values():
        into["calls"] = [
            (name, arguments_of(arguments)) for name, arguments in into["calls"].values()
        ]
    for name in ("thoughts", "closed"):
        if name in facts:
            facts[name] = sorted(facts[name], key=str)
    return {"choices": choices, "usage": usage, "tierserve": facts or None}


def both(site: Site, body: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The whole answer, and what a stream of the same is joined to."""
    whole = site.post("/api/chat", body)
    assert whole.status_code == 200, (body, whole.text)
    streamed = site.post(
        "/api/chat", {**body, "stream": True, "stream_options": {"include_usage": True}}
    )
    assert streamed.status_code == 200, (body, streamed.text)
    return whole_of(whole.json()), joined_of(streamed.text)


@pytest.mark.timeout(600)
def test_a_stream_joined_is_the_whole_answer(started_site: Site) -> None:
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(REQUESTS)
    def holds(request: dict[str, Any]) -> None:
        body: dict[str, Any] = {"messages": [{"role": "user", "content": QUESTION}], **request}
        body |= body.pop("shape")
        if body.get("n"):
            body["temperature"] = 0.9
        whole, joined = both(started_site, body)
        assert joined == whole, json.dumps(body)

    holds()


@pytest.mark.parametrize("stop", [["15"], ["\n"], ["</think>"]])
def test_stops_are_looked_for_in_the_answer_alone(site: Site, stop: list[str]) -> None:
    body = {"messages": [{"role": "user", "content": QUESTION}], "temperature": 0}
    plain, _ = both(site, body)
    stopped, joined = both(site, {**body, "stop": stop})
    assert joined == stopped
    assert stopped["choices"][0]["reasoning"] == plain["choices"][0]["reasoning"]
    answer = plain["choices"][0]["content"]
    assert stopped["choices"][0]["content"] == answer.partition(stop[0])[0]
    in_thought, _ = both(site, {**body, "stop": ["15"], "stop_in_thinking": True})
    assert "15" not in in_thought["choices"][0]["reasoning"].partition("Time is up")[0]


def test_a_stop_id_does_not_end_the_reasoning(site: Site) -> None:
    body = {"messages": [{"role": "user", "content": QUESTION}], "temperature": 0}
    plain, _ = both(site, body)
    ids = site.post("/api/chat/tokenize", {"prompt": " 15", "add_special_tokens": False}).json()
    stopped, joined = both(site, {**body, "stop_token_ids": ids["tokens"]})
    assert joined == stopped
    assert stopped["choices"][0]["reasoning"] == plain["choices"][0]["reasoning"]


def test_copies_of_one_seed_differ(site: Site) -> None:
    """Though each is gone on with after its thought was cut."""
    body = {
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0.9,
        "seed": 5,
        "n": 4,
        "max_tokens": 200,
        "stop": ["15"],
        "stop_in_thinking": True,
    }
    whole, joined = both(site, body)
    assert joined == whole
    assert len({json.dumps(choice) for choice in whole["choices"].values()}) > 1


def test_a_response_that_its_limit_cuts_ends_as_incomplete(site: Site) -> None:
    body = {
        "model": "chat",
        "input": QUESTION,
        "temperature": 0,
        "max_output_tokens": 5,
        "stream": True,
        "reasoning": {"effort": "none"},
    }
    events = [
        json.loads(line[6:])
        for line in site.post("/v1/responses", body).text.splitlines()
        if line.startswith("data: ")
    ]
    assert events[-1]["type"] in ("response.incomplete", "response.completed")
    cut = events[-1]["response"]["status"] == "incomplete"
    assert cut == (events[-1]["type"] == "response.incomplete")
    assert cut
    assert events[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    tool = {"type": "function", **ADD["function"]}
    body |= {"tools": [tool], "tool_choice": "required", "max_output_tokens": 4}
    text = site.post("/v1/responses", body).text
    assert "event: response.incomplete" in text
    assert "<tool_call>" not in text
