"""Requests as other clients write them, from public reports: answered as they mean, or refused."""

import gzip
import json
from typing import Any

import httpx
import pytest

from tests.e2e.site import Site
from tests.e2e.thinking.conftest import message, thought_of

QUESTION = "Tom has 12 apples. He buys 15 more and gives away 7. How many apples does he have?"
USER = {"role": "user", "content": QUESTION}
ASKED: dict[str, Any] = {"temperature": 0, "max_tokens": 200, "messages": [USER]}
NOW = {"type": "function", "function": {"name": "now"}}


def refused(reply: httpx.Response, status: int = 400) -> dict[str, Any]:
    assert reply.status_code == status, reply.text
    return reply.json()["error"]


def answered(reply: httpx.Response) -> dict[str, Any]:
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_a_tool_without_parameters_is_called_without_arguments(site: Site) -> None:
    body = {**ASKED, "max_tokens": 300, "tools": [NOW], "tool_choice": "required"}
    calls = message(answered(site.post("/api/chat", body)))["tool_calls"]
    assert calls
    assert {call["function"]["arguments"] for call in calls} == {"{}"}
    tool = {"type": "function", "name": "now"}
    body = {"model": "chat", "input": QUESTION, "temperature": 0, "max_output_tokens": 300}
    reply = answered(
        site.post("/v1/responses", {**body, "tools": [tool], "tool_choice": "required"})
    )
    made = [item for item in reply["output"] if item["type"] == "function_call"]
    assert {item["arguments"] for item in made} == {"{}"}
    body = {**ASKED, "model": "chat", "tools": [{"name": "now"}], "tool_choice": {"type": "any"}}
    reply = answered(site.post("/v1/messages", body))
    used = [block for block in reply["content"] if block["type"] == "tool_use"]
    assert used
    assert all(block["input"] == {} for block in used)


@pytest.mark.parametrize("choice", ["required", "auto"])
def test_a_tools_schema_of_an_earlier_draft_is_refused_by_its_place(
    site: Site, choice: str
) -> None:
    pair = {"type": "array", "items": [{"type": "integer"}, {"type": "string"}]}
    parameters = {"type": "object", "properties": {"a": pair}, "required": ["a"]}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    error = refused(site.post("/api/chat", {**ASKED, "tools": [tool], "tool_choice": choice}))
    assert error["param"] == "tools[0].function.parameters"
    assert "`prefixItems`" in error["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_anthropics_last_message_is_continued(site: Site, stream: bool) -> None:
    """The answer is the continuation alone."""
    body = {
        **ASKED,
        "model": "chat",
        "thinking": {"type": "disabled"},
        "messages": [USER, {"role": "assistant", "content": "Tom has"}],
        "stream": stream,
    }
    reply = site.post("/v1/messages", body)
    assert reply.status_code == 200, reply.text
    if stream:
        data = [line[6:] for line in reply.text.splitlines() if line.startswith("data: ")]
        deltas = [json.loads(event).get("delta", {}) for event in data if event != "[DONE]"]
        text = "".join(delta.get("text") or "" for delta in deltas)
    else:
        (block,) = reply.json()["content"]
        text = block["text"]
    assert text.lstrip()[:1].isdigit(), text
    assert "Tom has" not in text
    assert "</think>" not in text


def test_tokens_are_counted_at_the_base_url(site: Site) -> None:
    body = {"model": "chat", "messages": [USER]}
    counted = answered(site.post("/v1/messages/count_tokens", body))["input_tokens"]
    assert 10 < counted < 100


def test_an_effort_in_anthropics_words_bounds_the_reasoning(site: Site) -> None:
    body = {**ASKED, "model": "chat", "max_tokens": 80}
    low, high, none = (
        answered(site.post("/v1/messages", {**body, "output_config": {"effort": effort}}))
        for effort in ("low", "high", "none")
    )
    thought = [block for reply in (low, high) for block in reply["content"][:1]]
    assert [block["type"] for block in thought] == ["thinking", "thinking"]
    assert len(thought[0]["thinking"]) < len(thought[1]["thinking"])
    assert [block["type"] for block in none["content"]] == ["text"]


@pytest.mark.parametrize(
    "off",
    [
        {"enable_thinking": False},
        {"thinking": {"type": "disabled"}},
        {"reasoning": {"effort": "none"}},
    ],
    ids=str,
)
def test_thinking_off_is_off_in_whatever_words(site: Site, off: dict[str, Any]) -> None:
    reply = answered(site.post("/api/chat", {**ASKED, **off}))
    assert thought_of(reply)["end"] == "off"
    assert reply["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0


def test_a_budget_in_anthropics_words_is_kept_at_chat_completions(site: Site) -> None:
    thinking = {"type": "enabled", "budget_tokens": 20}
    assert thought_of(answered(site.post("/api/chat", {**ASKED, "thinking": thinking})))["end"] == (
        "cut"
    )


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [None]}, "messages[0]"),
        ({"messages": [USER, {"role": "usr", "content": "x"}]}, "messages[1].role"),
        ({"messages": [USER, {"role": "user"}]}, "messages[1].content"),
        ({"seed": 2**63}, "seed"),
        ({"n": 0}, "n"),
        ({"top_k": -5}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"presence_penalty": 5}, "presence_penalty"),
        ({"frequency_penalty": -5}, "frequency_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"stop": [""]}, "stop"),
        ({"logprobs": True, "top_logprobs": 50}, "top_logprobs"),
        ({"best_of": 3}, "best_of"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"guided_regex": "(("}, "guided_regex"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"tools": [{}]}, "tools[0].function"),
    ],
    ids=str,
)  # fmt: skip
def test_an_error_names_the_field_as_the_client_wrote_it(
    site: Site, fields: dict[str, Any], param: str
) -> None:
    error = refused(site.post("/api/chat", {**ASKED, **fields}))
    assert error["param"] == param
    assert not any(word in error["message"] for word in ("None", "object is not", "{'", "<class"))


def test_a_functions_result_reaches_the_model(site: Site) -> None:
    result = {"role": "function", "name": "w", "content": "42"}
    body = {**ASKED, "messages": [USER, result], "return_prompt_text": True}
    prompt = answered(site.post("/api/chat", body))["prompt_text"]
    assert "<tool_response>\n42\n</tool_response>" in prompt


def test_a_copy_that_is_left_out_is_refused_at_completions(site: Site) -> None:
    body = {"model": "chat", "prompt": "The capital of France is", "max_tokens": 6, "best_of": 3}
    error = refused(site.post("/v1/completions", body))
    assert error["param"] == "best_of"
    assert "use `n`" in error["message"]


@pytest.mark.parametrize(
    ("guided", "pattern"),
    [({"guided_choice": ["yes", "no"]}, ("yes", "no")), ({"guided_regex": "4[0-9]"}, None)],
    ids=str,
)
def test_a_guided_answer_has_its_form(
    site: Site, guided: dict[str, Any], pattern: tuple[str, ...] | None
) -> None:
    content = message(answered(site.post("/api/chat", {**ASKED, **guided})))["content"]
    assert content in (pattern or [f"4{digit}" for digit in range(10)])


def test_a_model_that_is_not_served_is_answered_with_those_that_are(site: Site) -> None:
    for path, anthropic in (("/v1/chat/completions", False), ("/v1/messages", True)):
        reply = site.post(path, {**ASKED, "model": "usr"})
        error = refused(reply, 404)
        assert (error["code"], error["param"]) == ("model_not_found", "model")
        assert "`chat`, `reasoning`" in error["message"]
        assert (reply.json().get("type") == "error") is anthropic


def test_a_compressed_body_is_415(site: Site) -> None:
    headers = {"content-encoding": "gzip", "content-type": "application/json"}
    body = gzip.compress(json.dumps({**ASKED, "model": "chat"}).encode())
    for path in ("/api/chat", "/v1/chat/completions"):
        reply = site.http.post(path, content=body, headers=headers)
        assert refused(reply, 415)["code"] == "unsupported_content_encoding"


def test_unknown_responses_are_404_of_their_own(site: Site) -> None:
    assert refused(site.get("/v1/responses/resp_1"), 404)["code"] == "response_not_found"
    body = {"model": "chat", "input": "And?", "previous_response_id": "resp_1"}
    error = refused(site.post("/v1/responses", body), 404)
    assert error["code"] == "previous_response_not_found"
