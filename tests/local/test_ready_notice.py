"""What a person reads when the service is ready."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from serve_app.local.exposure import Exposure
from serve_app.local.ready_notice import ReadyService, listed_models, ready_lines
from tests.http_server import QuietHandler, listening


def a_service(**more: Any) -> ReadyService:
    given: dict[str, Any] = {
        "base_url": "http://127.0.0.1:8000",
        "exposure": Exposure("127.0.0.1"),
        "port": 8000,
        "routes": ["/api/chat", "/api/reasoning"],
        "models": ["chat", "reasoning", "smollm2"],
        "log_dir": Path("/tmp/ts-1/logs"),
        "run_dir": Path("/tmp/ts-1"),
        "status_url": "http://127.0.0.1:8000",
    }
    return ReadyService(**{**given, **more})


def test_it_names_the_openai_base_url_and_the_models() -> None:
    text = "\n".join(ready_lines(a_service(), 33.4))
    assert "Ready after 33 s at http://127.0.0.1:8000\n" in text
    assert "OpenAI base URL  http://127.0.0.1:8000/v1" in text
    assert "models           chat, reasoning, smollm2" in text
    assert "curl -N http://127.0.0.1:8000/api/reasoning" in text
    assert "requests  a JSON line each in the logs (worker-*.out); here with --log-requests" in text
    assert "logs      /tmp/ts-1/logs\n" in text


def test_where_every_line_is_shown_it_names_no_file_for_the_requests() -> None:
    text = "\n".join(ready_lines(a_service(logs_requests=True), 1))
    assert "--log-requests" not in text
    assert "requests  a JSON line each, below" in text


def test_with_keys_it_says_how_to_make_one_and_shows_where_it_goes() -> None:
    keyed = Exposure("0.0.0.0", database="/k", status_address="127.0.0.1:9")
    service = a_service(exposure=keyed, status_url="http://127.0.0.1:9")
    text = "\n".join(ready_lines(service, 1))
    assert "tierserve keys add NAME" in text
    assert '-H "Authorization: Bearer $KEY"' in text
    assert "status    curl http://127.0.0.1:9/api/tiers" in text
    assert "(any API key)" not in text
    assert "asks for no key" not in text
    text = "\n".join(ready_lines(a_service(exposure=keyed, has_keys=True), 1))
    assert "tierserve keys add" not in text.split("OpenAI")[0]


def test_a_service_without_a_list_of_models_gets_no_openai_line() -> None:
    assert "OpenAI" not in "\n".join(ready_lines(a_service(models=[]), 1))


@contextmanager
def answering(body: bytes) -> Iterator[str]:
    class Handler(QuietHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/v1/models" else 404)
            self.end_headers()
            self.wfile.write(body)

    with listening(Handler) as url:
        yield url


def test_models_are_what_the_service_lists() -> None:
    with answering(json.dumps({"data": [{"id": "chat"}, {"id": "m"}]}).encode()) as url:
        assert listed_models(url) == ["chat", "m"]


@pytest.mark.parametrize("body", [b"no json", b"[]", b'{"data": [1]}', b"{}"])
def test_a_list_that_is_none_is_no_reason_to_fail(body: bytes) -> None:
    with answering(body) as url:
        assert listed_models(url) == []
    assert listed_models(url) == []  # nobody listens there any more
