"""The routes without a client library: short form, limits, error answers, request ids."""

import re

import httpx
import pytest

from serve_app.core.tiers import DEFAULT_MAX_NEW_TOKENS, Tier
from tests.e2e.site import Site

JAPAN = {"prompt": "What is the capital of Japan?", "max_tokens": 30, "temperature": 0}
MESSAGES = [{"role": "user", "content": "What is the capital of Japan?"}]


def error_of(answer: httpx.Response) -> dict[str, object]:
    """The error, which has OpenAI's four fields and no other."""
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


@pytest.mark.parametrize("tier", list(Tier))
@pytest.mark.parametrize("body", [JAPAN, {"messages": MESSAGES, "max_tokens": 30}])
def test_the_tiers_own_route_needs_no_model(site: Site, tier: Tier, body: dict) -> None:
    answer = site.post(tier.route_prefix, {**body, "temperature": 0}).json()
    assert "Tokyo" in answer["choices"][0]["message"]["content"]
    assert answer["model"] == tier.value


def test_the_short_form_streams(site: Site) -> None:
    answer = site.post("/api/chat", {**JAPAN, "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("path", ["/api/chat", "/api/chat/v1/chat/completions", "/v1/messages"])
def test_a_request_id_is_taken_or_made(site: Site, path: str) -> None:
    body = {"model": "chat", "messages": MESSAGES, "max_tokens": 2}
    given = site.post(path, body, **{"x-request-id": "my-id.1"})
    assert given.headers.get_list("x-request-id") == ["my-id.1"]
    made = site.post(path, body).headers.get_list("x-request-id")
    assert len(made) == 1
    assert made[0]
    refused = site.post(path, {**body, "max_tokens": -1}, **{"x-request-id": "my-id.2"})
    assert refused.status_code == 400
    assert refused.headers.get_list("x-request-id") == ["my-id.2"]


@pytest.mark.parametrize("tier", list(Tier))
def test_the_limit_is_the_tiers_and_the_error_says_so(site: Site, tier: Tier) -> None:
    limit = DEFAULT_MAX_NEW_TOKENS[tier]
    answer = site.post(tier.route_prefix, {"prompt": "hi", "max_tokens": limit + 1})
    error = error_of(answer)
    assert answer.status_code == 400
    assert error["param"] == "max_tokens"
    assert str(limit) in str(error["message"])
    assert site.tier(tier)["max_new_tokens"] == limit
    allowed = site.post(tier.route_prefix, {"prompt": "hi", "max_tokens": limit, "stop": [" "]})
    assert allowed.status_code == 200


def test_the_limit_is_the_default_too(site: Site) -> None:
    """A grammar without an end: only a limit of tokens ends it."""
    endless = {"prompt": "go", "structured_outputs": {"regex": "(ab)+"}, "temperature": 0}
    limit = 48
    body = {**endless, "max_tokens": limit, "ignore_eos": True}
    answer = site.post("/api/chat", body).json()
    assert answer["usage"]["completion_tokens"] == limit
    assert answer["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/api/chat", {"prompt": "word " * 9000}, 400, None),
        ("/api/chat", {"prompt": "hi", "max_new_tokens": 5}, 400, "max_new_tokens"),
        ("/api/chat", {"prompt": "hi", "temprature": 1}, 400, "temprature"),
        ("/api/chat", {"prompt": "hi", "n": 1000}, 400, "n"),
        ("/api/chat", {}, 400, "messages"),
        ("/v1/chat/completions", {"model": "nope", "messages": MESSAGES}, 404, "model"),
        ("/api/chat/v1/chat/completions", {"model": "nope", "messages": MESSAGES}, 404, "model"),
        ("/api/chat", {"prompt": "x" * 5_000_000}, 413, None),
        ("/v1/chat/completions", {"model": "chat", "prompt": "x" * 5_000_000}, 413, None),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_bad_request_names_its_field(
    site: Site, path: str, body: dict, status: int, param: str | None
) -> None:
    answer = site.post(path, body)
    error = error_of(answer)
    assert (answer.status_code, error["type"]) == (
        status,
        "not_found_error" if status == 404 else "invalid_request_error",
    )
    assert param is None or error["param"] == param


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/v1/responses"])
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"hi"', b"\xff\xfe", b"{'a': 1}"])
def test_what_is_no_json_object_is_a_bad_request(site: Site, path: str, body: bytes) -> None:
    answer = site.http.post(path, content=body)
    assert answer.status_code == 400
    assert error_of(answer)["code"] == "invalid_json"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/chat", 405),
        ("GET", "/v1/chat/completions", 405),
        ("GET", "/nothing", 404),
        ("POST", "/api/chat/v1/nothing", 404),
        ("POST", "/api/chat/sleep", 404),
        ("POST", "/api/chat/v1/load_lora_adapter", 404),
        ("GET", "/v1/models/nothing", 404),
    ],
)
def test_routes_that_are_none(site: Site, method: str, path: str, status: int) -> None:
    answer = site.http.request(method, path, json={} if method == "POST" else None)
    assert answer.status_code == status
    assert path in str(error_of(answer)["message"]) or "nothing" in answer.text


def test_anthropics_messages(site: Site) -> None:
    for path, model in (("/v1/messages", "chat"), ("/api/reasoning/v1/messages", "reasoning")):
        body = {"model": model, "max_tokens": 30, "messages": MESSAGES, "temperature": 0}
        answer = site.post(path, body).json()
        assert answer["type"] == "message"
        assert "Tokyo" in answer["content"][0]["text"]
        stream = site.post(path, {**body, "stream": True}).text
        assert stream.startswith("event: message_start")
        assert re.search(r"event: message_stop\s", stream)
        refused = site.post(path, {**body, "max_tokens": -1})
        assert refused.status_code == 400
        assert refused.json()["type"] == "error"


def test_tokens_are_counted_without_a_slot(site: Site) -> None:
    answer = site.post("/api/chat/tokenize", {"model": "chat", "prompt": "Hello there"}).json()
    assert answer["count"] == len(answer["tokens"]) > 1
    text = site.post("/api/chat/detokenize", {"model": "chat", "tokens": answer["tokens"]}).json()
    assert text["prompt"] == "Hello there"
