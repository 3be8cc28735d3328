"""What people reported of other servers (docs/compatibility.md), where no other test has it."""

from typing import Any

import pytest

from tests.e2e.site import Site
from tests.e2e.thinking.conftest import chunks_of, joined, message

QUESTION = "Tom has 12 apples. He buys 15 more and gives away 7. How many apples does he have?"
ASKED: dict[str, Any] = {
    "temperature": 0,
    "max_tokens": 200,
    "messages": [{"role": "user", "content": QUESTION}],
}


def bound(schema: dict[str, Any]) -> dict[str, Any]:
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    return {**ASKED, "response_format": form}


@pytest.mark.parametrize("stop", ["15", "\n\n", "</think>", "Check"])
def test_a_stop_string_in_the_reasoning_changes_nothing(site: Site, stop: str) -> None:
    plain = message(site.post("/api/chat", ASKED).json())
    stopped = message(site.post("/api/chat", {**ASKED, "stop": [stop]}).json())
    assert stopped == plain
    chunks = chunks_of(site.post("/api/chat", {**ASKED, "stop": stop, "stream": True}).text)
    assert joined(chunks, "reasoning") == plain["reasoning"]
    assert joined(chunks, "content") == plain["content"]


@pytest.mark.parametrize("stream", [False, True])
def test_anthropics_clients_see_which_stop_it_was(site: Site, stream: bool) -> None:
    body = {**ASKED, "model": "chat", "stop_sequences": ["never", "answer"], "stream": stream}
    reply = site.post("/v1/messages", body)
    if stream:
        deltas = [event for event in chunks_of(reply.text) if event["type"] == "message_delta"]
        ended = deltas[-1]["delta"]
    else:
        ended = reply.json()
        assert [block["type"] for block in ended["content"]] == ["thinking", "text"]
    assert (ended["stop_reason"], ended["stop_sequence"]) == ("stop_sequence", "answer")


@pytest.mark.parametrize("tokens", [12, 40])
def test_a_response_that_is_cut_says_so(site: Site, tokens: int) -> None:
    body = {
        "model": "chat",
        "input": "Count from one to a hundred in words.",
        "temperature": 0,
        "max_output_tokens": tokens,
        "min_tokens": tokens,
    }
    reason = {"reason": "max_output_tokens"}
    whole = site.post("/v1/responses", body).json()
    assert (whole["status"], whole["incomplete_details"]) == ("incomplete", reason)
    *_, last = chunks_of(site.post("/v1/responses", {**body, "stream": True}).text)
    assert last["type"] == "response.incomplete"
    assert (last["response"]["status"], last["response"]["incomplete_details"]) == (
        "incomplete",
        reason,
    )


def test_a_large_integer_in_a_schema_is_kept_or_refused(site: Site) -> None:
    def most(number: int) -> dict[str, Any]:
        count = {"type": "integer", "minimum": 0, "maximum": number}
        return bound({"type": "object", "properties": {"count": count}, "required": ["count"]})

    taken = site.post("/api/chat", most(20_000_000_000))
    assert taken.status_code == 200, taken.text
    refused = site.post("/api/chat", most(2**64))
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "response_format"


def test_a_pattern_with_a_length_is_refused_and_not_half_kept(site: Site) -> None:
    word = {"type": "string", "pattern": "^[a-z]+$", "maxLength": 8}
    refused = site.post("/api/chat", bound({"type": "array", "items": word, "minItems": 2}))
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (400, "structure_unsupported")
    assert error["param"] == "response_format"
    assert "`pattern`" in error["message"]
