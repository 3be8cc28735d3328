"""The fast path answers as vLLM's application does without it."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, StreamingResponse
from prometheus_fastapi_instrumentator import Instrumentator
from prometheus_fastapi_instrumentator.middleware import PrometheusInstrumentatorMiddleware
from pydantic import BaseModel, ConfigDict, model_validator
from starlette.middleware.cors import CORSMiddleware
from starlette.testclient import TestClient

from serve_app.engine.vllm.fast_path import (
    FAST_ROUTES,
    FastRoute,
    answer_without_fastapi,
    build_chunks_unchecked,
    giving_up_early,
    without_http_metrics,
)
from serve_app.engine.vllm.patches.patch import PatchError

PATH = "/v1/chat/completions"
BODIES = {
    "a whole answer": b'{"text": "a\\u00e9", "times": 2}',
    "a stream": b'{"text": "a", "times": 3, "stream": true}',
    "a number as text": b'{"text": "a", "times": "2"}',
    "a field that is missing": b'{"times": 2}',
    "a field of another kind": b'{"text": ["a"], "times": 2}',
    "a list": b'[{"text": "a"}]',
    "nothing": b"",
    "no JSON": b'{"text": ',
    "half a surrogate": b'{"text": "\\ud800", "times": 0}',
    "not a number": b'{"text": "a", "share": NaN}',
    "a fault with a status": b'{"text": "teapot"}',
    "a fault that has a handler": b'{"text": "known"}',
}


class Asked(BaseModel):
    text: str
    times: int = 1
    share: float = 0.0
    stream: bool = False


class KnownFault(Exception):
    pass


def validate_json_request(raw_request: Request) -> None:
    assert raw_request.headers["content-type"] == "application/json"


def make_app() -> FastAPI:
    app = FastAPI()

    @app.exception_handler(KnownFault)
    async def tell(_: Request, fault: KnownFault) -> JSONResponse:
        return JSONResponse({"fault": str(fault)}, status_code=418)

    @app.post(PATH, dependencies=[Depends(validate_json_request)])
    async def answer(request: Asked, raw_request: Request) -> Any:
        if request.text == "teapot":
            raise HTTPException(418, "teapot")
        if request.text == "known":
            raise KnownFault("known")
        if request.stream:

            async def parts() -> AsyncIterator[str]:
                for _ in range(request.times):
                    yield request.text

            return StreamingResponse(parts(), media_type="text/event-stream")
        return JSONResponse({"text": request.text * request.times, "agent": raw_request.method})

    return app


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_the_answer_is_the_same(body: bytes) -> None:
    def answer(app: FastAPI) -> tuple[int, str, bytes]:
        headers = {"content-type": "application/json"}
        reply = TestClient(app).post(PATH, content=body, headers=headers)
        return reply.status_code, reply.headers["content-type"], reply.content

    usual, fast = make_app(), make_app()
    assert answer_without_fastapi(fast, {PATH: Asked}) == [PATH]
    assert answer(fast) == answer(usual)
    FAST_ROUTES.apply(fast, {PATH: Asked})
    assert answer(fast) == answer(usual)


async def test_nothing_is_sent_to_a_client_that_has_disconnected() -> None:
    async def left(request: Asked, raw_request: Request) -> None:
        assert (await raw_request.receive())["type"] == "http.disconnect"

    async def usual(*_: Any) -> None:
        raise AssertionError("the request was a good one")

    messages = [{"type": "http.request", "body": b'{"text": "a"}'}, {"type": "http.disconnect"}]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "headers": []}
    await FastRoute(Asked, left, giving_up_early(Asked), usual)(scope, receive, send)
    assert sent == []


def test_routes_that_need_more_are_left_alone() -> None:
    app = FastAPI()

    def allowed(raw_request: Request) -> None:
        del raw_request

    @app.post(PATH, dependencies=[Depends(allowed)])
    async def guarded(request: Asked, raw_request: Request) -> str:
        return f"{request} {raw_request}"

    @app.post("/v1/completions")
    async def more(request: Asked, raw_request: Request, deep: bool = False) -> str:
        return f"{request} {raw_request} {deep}"

    @app.get("/v1/responses")
    async def listed(raw_request: Request) -> str:
        return f"{raw_request}"

    schemas = dict.fromkeys([PATH, "/v1/completions", "/v1/responses"], Asked)
    assert answer_without_fastapi(app, schemas) == []
    with pytest.raises(PatchError, match=r"left to FastAPI: /v1/chat/completions, /v1/completions"):
        FAST_ROUTES.apply(app, schemas)


# --- what is taken out of the application

GENERATING = "/v1/chat/completions"


def make_plain_app() -> FastAPI:
    app = FastAPI()
    app.add_middleware(CORSMiddleware, allow_origins=["*"])

    @app.get("/health")
    def health() -> str:
        return "well"

    @app.post(GENERATING)
    def generate() -> str:
        return "text"

    Instrumentator().instrument(app)
    return app


def test_only_the_http_metrics_go_and_every_route_answers() -> None:
    app = make_plain_app()
    without_http_metrics(app, {GENERATING})
    assert [middleware.cls for middleware in app.user_middleware] == [CORSMiddleware]
    client = TestClient(app)
    assert client.get("/health").json() == "well"
    assert client.post(GENERATING).json() == "text"


def test_they_go_from_an_application_that_has_answered_already() -> None:
    app = make_plain_app()
    client = TestClient(app)
    assert client.get("/health").status_code == 200
    without_http_metrics(app, {GENERATING})
    assert client.get("/health").status_code == 200
    layers, layer = [], app.middleware_stack
    while layer is not None:
        layers.append(type(layer))
        layer = getattr(layer, "app", None)
    assert CORSMiddleware in layers
    assert PrometheusInstrumentatorMiddleware not in layers


def test_generating_routes_are_looked_at_first() -> None:
    app = make_plain_app()
    paths = [getattr(route, "path", None) for route in app.router.routes]
    without_http_metrics(app, {GENERATING})
    paths.remove(GENERATING)
    assert [getattr(route, "path", None) for route in app.router.routes] == [GENERATING, *paths]


looked_at: list[str] = []


class Base(BaseModel):
    model_config = ConfigDict(extra="allow")

    @model_validator(mode="wrap")
    @classmethod
    def __log_extra_fields__(cls, data: Any, handler: Callable[[Any], Any]) -> Any:
        looked_at.append(cls.__name__)
        return handler(data)


class Part(Base):
    text: str

    @model_validator(mode="after")
    def strip(self) -> "Part":
        self.text = self.text.strip()
        return self


class Whole(Base):
    parts: list[Part]


def test_chunks_are_built_without_a_look_for_made_up_fields() -> None:
    def chunk() -> dict[str, Any]:
        looked_at.clear()
        return Whole(parts=[Part(text=" a ")]).model_dump()

    before = chunk()
    assert "Part" in looked_at
    assert "Whole" in looked_at
    build_chunks_unchecked([Part, Whole])
    assert chunk() == before == {"parts": [{"text": "a"}]}
    assert looked_at == []
