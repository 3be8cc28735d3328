"""The same on vLLM's own routes."""

import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from serve_app.engine.vllm.engine import _schemas
from serve_app.engine.vllm.fast_path import FastRoute, answer_without_fastapi

# Importing vLLM takes longer than all quick tests of this folder, and warns of what is its own.
pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(300)]


def test_vllms_routes_are_as_they_are_known() -> None:
    """All four, with the schema that FastAPI reads their bodies by."""
    from vllm.entrypoints.anthropic.api_router import router as messages
    from vllm.entrypoints.openai.chat_completion.api_router import router as chat
    from vllm.entrypoints.openai.completion.api_router import router as completion
    from vllm.entrypoints.openai.responses.api_router import router as responses

    schemas = _schemas()
    app = FastAPI()
    for router in (messages, chat, completion, responses):
        app.include_router(router)
    assert set(answer_without_fastapi(app, schemas)) == set(schemas)
    routes: list[Any] = app.router.routes
    for route in routes:
        if isinstance(fast := getattr(route, "app", None), FastRoute):
            (body,) = route.dependant.body_params
            assert body.field_info.annotation is fast.schema


def test_vllms_own_handler_streams() -> None:
    from vllm.entrypoints.openai.chat_completion.api_router import router

    class Serving:
        async def create_chat_completion(self, request: Any, raw_request: Any) -> Any:
            async def events() -> AsyncIterator[str]:
                yield f"data: {request.messages[0]['content']} {raw_request.headers['x-mark']}\n\n"

            return events()

    app = FastAPI()
    app.include_router(router)
    app.state.openai_serving_chat, app.state.args = Serving(), SimpleNamespace()
    assert answer_without_fastapi(app, _schemas()) == ["/v1/chat/completions"]
    body = {"messages": [{"role": "user", "content": "hello"}], "stream": True}
    reply = TestClient(app).post(
        "/v1/chat/completions", content=json.dumps(body), headers={"x-mark": "mark"}
    )
    assert reply.text == "data: hello mark\n\n"
