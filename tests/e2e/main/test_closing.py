"""JSON and calls have their whole limit, and what it cuts is closed and says so."""

import json
from typing import Any

import jsonschema
import pytest

from tests.e2e.site import Site

FACTS = {
    "type": "object",
    "properties": {
        "country": {"type": "string"},
        "capital": {"type": "string"},
        "language": {"type": "string"},
        "continent": {"type": "string"},
        "population": {"type": "integer"},
    },
    "required": ["country", "capital", "language", "continent", "population"],
    "additionalProperties": False,
}
FRANCE = {
    "temperature": 0,
    "messages": [
        {
            "role": "user",
            "content": "Give facts about France as JSON with country, capital, language, continent "
            "and population.",
        }
    ],
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "facts", "schema": FACTS, "strict": True},
    },
}
FORM_FIELDS = [f"customer_shipping_address_field_number_{number}" for number in range(16)]
FORM = {
    "type": "object",
    "properties": {name: {"type": "string", "maxLength": 12} for name in FORM_FIELDS},
    "required": FORM_FIELDS,
    "additionalProperties": False,
}
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["c", "f"]}},
    "required": ["city", "unit"],
}


def answer_to(site: Site, body: dict[str, Any]) -> dict[str, Any]:
    reply = site.post("/api/chat", body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_an_answer_is_whole_at_every_limit_that_it_fits_into(site: Site) -> None:
    """The value as without a limit and `stop`, or `length` and a value that the schema allows."""
    free = answer_to(site, FRANCE)
    tokens = free["usage"]["completion_tokens"]
    assert free["choices"][0]["finish_reason"] == "stop"
    for limit in (tokens, tokens + 1, tokens + 40):
        answer = answer_to(site, {**FRANCE, "max_tokens": limit})
        assert answer["choices"][0] == free["choices"][0]
    value = json.loads(free["choices"][0]["message"]["content"])
    for limit in range(tokens - 2, 30, -7):
        answer = answer_to(site, {**FRANCE, "max_tokens": limit})
        choice = answer["choices"][0]
        assert choice["finish_reason"] == "length"
        assert answer["tierserve"]["closed"] == [0]
        assert answer["usage"]["completion_tokens"] <= limit
        closed = json.loads(choice["message"]["content"])
        jsonschema.validate(closed, FACTS)
        assert closed["population"] in (0, value["population"])
        for name in ("country", "capital", "language", "continent"):
            assert value[name].startswith(closed[name])


def test_a_limit_below_the_shortest_answer_says_that_it_has_cut(site: Site) -> None:
    choice = answer_to(site, {**FRANCE, "max_tokens": 3})["choices"][0]
    assert choice["finish_reason"] == "length"


def test_a_form_that_fits_into_the_tiers_limit_is_filled_in(site: Site) -> None:
    body = {
        "temperature": 0,
        "messages": [{"role": "user", "content": "Fill in the form with short words."}],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "form", "schema": FORM, "strict": True},
        },
    }
    answer = answer_to(site, body)
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert "closed" not in answer.get("tierserve", {})
    assert [*json.loads(answer["choices"][0]["message"]["content"])] == FORM_FIELDS


@pytest.mark.parametrize("limit", [8, 16, 24, 40, 60])
@pytest.mark.parametrize("stream", [False, True])
def test_a_named_call_has_its_limit_and_is_no_raw_text(
    site: Site, limit: int, stream: bool
) -> None:
    function = {"name": "get_weather", "parameters": WEATHER}
    body = {
        "temperature": 0,
        "max_tokens": limit,
        "messages": [{"role": "user", "content": "Weather in Paris?"}],
        "tools": [{"type": "function", "function": function}],
        "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
        "stream": stream,
    }
    reply = site.post("/api/chat", body)
    assert reply.status_code == 200, reply.text
    assert "<tool_call>" not in reply.text
    if stream:
        return
    choice = reply.json()["choices"][0]
    calls = choice["message"].get("tool_calls") or []
    for call in calls:
        jsonschema.validate(json.loads(call["function"]["arguments"]), WEATHER)
    assert calls or choice["finish_reason"] == "length"
    if limit == 60:
        assert json.loads(calls[0]["function"]["arguments"])["city"] == "Paris"
