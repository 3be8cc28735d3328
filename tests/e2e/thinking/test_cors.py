"""A web page as client: HAProxy, the web application and the replicas all answer browsers."""

import pytest

from tests.e2e.site import Site
from tests.e2e.thinking.conftest import PAGE

SDK_HEADERS = "authorization,content-type,x-stainless-os,x-stainless-retry-count"
BODY = {"model": "chat", "messages": [{"role": "user", "content": "2 + 3 = ?"}], "max_tokens": 40}
PATHS = ["/v1/chat/completions", "/api/chat", "/api/reasoning/v1/chat/completions"]


@pytest.mark.parametrize("path", [*PATHS, "/v1/models", "/nothing", "/api/chat/nothing"])
def test_a_preflight_is_answered(site: Site, path: str) -> None:
    asked = {
        "access-control-request-method": "POST",
        "access-control-request-headers": SDK_HEADERS,
    }
    answer = site.http.options(path, headers={"origin": PAGE, **asked})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert answer.headers["access-control-allow-headers"] == SDK_HEADERS
    other = site.http.options(path, headers={"origin": "https://other.example", **asked})
    assert "access-control-allow-origin" not in other.headers


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", PATHS)
def test_the_page_reads_the_answer_and_its_headers(site: Site, path: str, *, stream: bool) -> None:
    model = "reasoning" if "reasoning" in path else "chat"
    answer = site.post(path, {**BODY, "model": model, "stream": stream}, origin=PAGE)
    assert answer.status_code == 200
    assert answer.headers.get_list("access-control-allow-origin") == [PAGE]
    assert "x-request-id" in answer.headers["access-control-expose-headers"]


@pytest.mark.parametrize("path", ["/api/chat/v1/models", "/v1/models", "/v1/embeddings"])
def test_the_page_reads_models_and_errors(site: Site, path: str) -> None:
    answer = site.http.get(path, headers={"origin": PAGE})
    assert answer.headers.get_list("access-control-allow-origin") == [PAGE]
