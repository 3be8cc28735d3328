"""What unchanged clients do at a base URL: its spellings, limits above the tier's, browsers."""

from typing import Any

import openai
import pytest

from serve_app.core.tiers import Tier
from tests.e2e.site import Site, wait_for

MESSAGES = [{"role": "user", "content": "What is the capital of Japan?"}]
CHAT = {"model": "chat", "messages": MESSAGES, "max_tokens": 4, "temperature": 0}
# As opencode and others send it, whatever the model.
FAR_ABOVE = 32_000


@pytest.mark.parametrize(
    "path", ["/health", "/ping", "/version", "/favicon.ico", "/api/chat/health"]
)
def test_what_clients_look_for_first_is_there(site: Site, path: str) -> None:
    assert site.get(path).status_code == 200


@pytest.mark.parametrize("path", ["/v1/models", "/v1//models", "/models", "/v1/v1/models"])
def test_the_models_tell_their_limits_at_each_spelling(site: Site, path: str) -> None:
    models = {model["id"]: model for model in site.http.get(f"{site.url}{path}").json()["data"]}
    for tier in Tier:
        reported = site.tier(tier)
        assert models[tier]["max_model_len"] == reported["max_model_len"] == 4096
        limits = models[tier]["limits"]
        assert limits["max_new_tokens"] == reported["max_new_tokens"]
        assert limits["slots"] == reported["slots"] >= 1
        assert (limits["tier"], limits["when_above"]) == (tier, "lower")


@pytest.mark.parametrize("base", ["", "/v1", "/v1/", "/v1/v1", "/api/chat", "/api/chat/v1/"])
def test_the_openai_client_works_at_each_base_url(site: Site, base: str) -> None:
    with openai.OpenAI(base_url=site.url + base, api_key="any", max_retries=0) as api:
        answer = api.chat.completions.create(
            model="chat", messages=[{"role": "user", "content": "Hi"}], max_tokens=4
        )
        assert answer.choices[0].message.content
        assert "chat" in {model.id for model in api.models.list()}


def test_tokens_are_counted_at_the_root(site: Site) -> None:
    for model in ("chat", "reasoning"):
        tokens = site.post("/tokenize", {"model": model, "prompt": "Hello there"}).json()["tokens"]
        text = site.post("/detokenize", {"model": model, "tokens": tokens}).json()
        assert text["prompt"] == "Hello there"
        body = {"model": model, "messages": MESSAGES}
        for path in ("/v1/messages/count_tokens", "/messages/count_tokens"):
            assert site.post(path, body).json()["input_tokens"] > 5


@pytest.mark.parametrize("prefix", ["", "/api/reasoning"])
def test_what_is_not_served_is_said(site: Site, prefix: str) -> None:
    answer = site.post(f"{prefix}/v1/embeddings", {"model": "chat", "input": "hi"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_served")
    assert "/v1/chat/completions" in answer.json()["error"]["message"]


# --- a limit above the tier's


@pytest.mark.parametrize(
    ("path", "fields", "name"),
    [
        ("/v1/chat/completions", {"messages": MESSAGES}, "max_tokens"),
        ("/v1/chat/completions", {"messages": MESSAGES}, "max_completion_tokens"),
        ("/api/chat/v1/chat/completions", {"messages": MESSAGES}, "max_tokens"),
        ("/v1/completions", {"prompt": "The capital of Japan is"}, "max_tokens"),
        ("/v1/responses", {"input": "What is the capital of Japan?"}, "max_output_tokens"),
        ("/v1/messages", {"messages": MESSAGES}, "max_tokens"),
    ],
)
def test_it_is_lowered_with_a_warning_and_the_truth_in_the_usage(
    site: Site, path: str, fields: dict[str, Any], name: str
) -> None:
    body = {"model": "chat", **fields, name: FAR_ABOVE, "temperature": 0}
    answer = site.post(path, body)
    assert answer.status_code == 200, answer.text
    assert f"{name} {FAR_ABOVE} lowered to 1024" in answer.headers["x-tierserve-warning"]
    usage = answer.json()["usage"]
    assert 0 < usage.get("completion_tokens", usage.get("output_tokens")) <= 1024


def test_a_stream_says_it_too(site: Site) -> None:
    body = {**CHAT, "max_tokens": FAR_ABOVE, "stream": True, "stop": ["."]}
    answer = site.post("/v1/chat/completions", body)
    assert "lowered to 1024" in answer.headers["x-tierserve-warning"]
    assert answer.text.endswith("data: [DONE]\n\n")


def test_the_tiers_own_route_refuses_it_and_names_a_tier_that_would_take_it(site: Site) -> None:
    def refusal(tokens: int) -> str:
        error = site.post("/api/chat", {"prompt": "hi", "max_tokens": tokens}).json()["error"]
        assert error["code"] == "max_tokens_exceeds_tier_limit"
        return error["message"]

    # Replicas exchange their limits every few seconds.
    wait_for(lambda: "POST /api/reasoning" in refusal(2048), "reasoning is named")
    assert "POST /api/" not in refusal(2049)
    above = site.post("/api/reasoning", {"prompt": "hi", "max_tokens": 2049}).json()["error"]
    assert "POST /api/" not in above["message"]


# --- the context


def test_what_does_not_fit_beside_the_prompt_is_not_given(site: Site) -> None:
    body = {"model": "chat", "max_tokens": 1024, "ignore_eos": True, "temperature": 0}
    answer = site.post("/v1/completions", {**body, "prompt": [7] * 4090}).json()
    assert answer["usage"]["completion_tokens"] == 6
    assert answer["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("tokens", [4096, 4097, 5000])
def test_a_prompt_that_leaves_no_room_is_refused_by_its_field(site: Site, tokens: int) -> None:
    body = {"model": "chat", "prompt": [7] * tokens, "max_tokens": 8}
    error = site.post("/v1/completions", body).json()["error"]
    assert (error["param"], error["code"]) == ("prompt", "context_length_exceeded")


# --- browsers, for which nothing is set here


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat", "/api/chat/v1/models"])
def test_browsers_are_permitted_nothing_by_default(site: Site, path: str) -> None:
    asked = {"origin": "https://a.example", "access-control-request-method": "POST"}
    for answer in (
        site.http.options(path, headers=asked),
        site.http.get("/api/chat/v1/models", headers=asked),
    ):
        assert not [name for name in answer.headers if name.startswith("access-control")]
