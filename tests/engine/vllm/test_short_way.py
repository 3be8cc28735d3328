"""What is taken out of vLLM's application leaves its routes and its chunks as they are."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from prometheus_fastapi_instrumentator import Instrumentator
from prometheus_fastapi_instrumentator.middleware import PrometheusInstrumentatorMiddleware
from pydantic import BaseModel, ConfigDict, model_validator
from starlette.middleware.cors import CORSMiddleware
from starlette.testclient import TestClient

from serve_app.engine.vllm.short_way import build_chunks_plainly, shorten_way

GENERATING = "/v1/chat/completions"


def make_app() -> FastAPI:
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
    app = make_app()
    shorten_way(app, {GENERATING})
    assert [middleware.cls for middleware in app.user_middleware] == [CORSMiddleware]
    client = TestClient(app)
    assert client.get("/health").json() == "well"
    assert client.post(GENERATING).json() == "text"


def test_they_go_from_an_application_that_has_answered_already() -> None:
    app = make_app()
    client = TestClient(app)
    assert client.get("/health").status_code == 200
    shorten_way(app, {GENERATING})
    assert client.get("/health").status_code == 200
    layers, layer = [], app.middleware_stack
    while layer is not None:
        layers.append(type(layer))
        layer = getattr(layer, "app", None)
    assert CORSMiddleware in layers
    assert PrometheusInstrumentatorMiddleware not in layers


def test_generating_routes_are_looked_at_first() -> None:
    app = make_app()
    paths = [getattr(route, "path", None) for route in app.router.routes]
    shorten_way(app, {GENERATING})
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
    build_chunks_plainly([Part, Whole])
    assert chunk() == before == {"parts": [{"text": "a"}]}
    assert looked_at == []
