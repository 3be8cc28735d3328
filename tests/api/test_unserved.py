"""What other servers have at this base URL: a 404 in the client's form that says what is here."""

import pytest

from tests.api.asgi import FakeEngine, answers, call
from tests.api.web_client import a_client
from tests.builders import an_edge
from tests.virtual_time import run_virtual

FAMILIES = [
    ("/v1/embeddings", "Embeddings are not served here"),
    ("/embeddings", "Embeddings are"),
    ("/v1/v1/embeddings", "Embeddings are"),
    ("/v1/audio/transcriptions", "Speech is"),
    ("/v1/images/generations", "Images are"),
    ("/v1/moderations", "Moderations are"),
    ("/v1/rerank", "Reranking is"),
    ("/v2/rerank", "Reranking is"),
    ("/v1/files", "Files are"),
    ("/v1/fine_tuning/jobs", "Fine-tuning is"),
]


@pytest.mark.parametrize(("path", "words"), FAMILIES)
async def test_what_is_not_served_is_named_with_what_is(path: str, words: str) -> None:
    async with a_client() as client:
        answer = await client.post(path, json={"input": "hi"})
    made = await call(an_edge(FakeEngine(answers({}))), path, {})
    assert answer.status_code == made.status == 404
    for error in (answer.json()["error"], made.error):
        assert error["message"].startswith(words)
        assert "/v1/chat/completions" in error["message"]
        assert (error["type"], error["code"], error["param"]) == (
            "not_found_error",
            "not_served",
            None,
        )


@pytest.mark.parametrize(
    "path", ["/v1/responses/resp_1", "/responses/resp_1", "/v1/responses/resp_1/input_items"]
)
async def test_a_response_that_nobody_kept_is_not_a_missing_model(path: str) -> None:
    async with a_client() as client:
        error = (await client.get(path)).json()["error"]
    assert error["code"] == "response_not_found"
    assert "No response is kept" in error["message"]


async def test_anthropics_clients_get_their_own_form() -> None:
    async with a_client() as client:
        below = await client.post("/v1/messages/batches", json={})
        marked = await client.get("/v1/nothing", headers={"anthropic-version": "2023-06-01"})
        method = await client.get("/v1/messages")
        plain = await client.get("/v1/nothing")
    assert [answer.json().get("type") for answer in (below, marked, method, plain)] == [
        "error",
        "error",
        "error",
        None,
    ]
    assert (method.status_code, method.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "", "POST"),
        ("DELETE", "/v1/models", "GET"),
        ("PUT", "/tokenize", "POST"),
        ("POST", "/health", "GET"),
    ],
)
def test_another_method_says_which_one_the_path_takes(method: str, path: str, allowed: str) -> None:
    made = run_virtual(call(an_edge(FakeEngine(answers({}))), path, {}, method=method))
    assert (made.status, made.headers["allow"]) == (405, allowed)
    assert made.error["code"] == "method_not_allowed"
