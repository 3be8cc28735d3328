"""What is taken out of vLLM's application leaves its routes as they answer; how its end is told."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from fastapi import FastAPI
from prometheus_fastapi_instrumentator import Instrumentator
from prometheus_fastapi_instrumentator.middleware import PrometheusInstrumentatorMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.testclient import TestClient

from serve_app.engine.vllm_engine import VllmEngine, _shorten_way

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
    _shorten_way(app, {GENERATING})
    assert [middleware.cls for middleware in app.user_middleware] == [CORSMiddleware]
    client = TestClient(app)
    assert client.get("/health").json() == "well"
    assert client.post(GENERATING).json() == "text"


def test_they_go_from_an_application_that_has_answered_already() -> None:
    app = make_app()
    client = TestClient(app)
    assert client.get("/health").status_code == 200
    _shorten_way(app, {GENERATING})
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
    _shorten_way(app, {GENERATING})
    paths.remove(GENERATING)
    assert [getattr(route, "path", None) for route in app.router.routes] == [GENERATING, *paths]


async def test_a_dead_engine_is_told_without_vllms_own_error() -> None:
    """Who reads the error in another process has to import what it is of."""
    fields = dict.fromkeys(VllmEngine.__dataclass_fields__, cast("Any", None))
    engine = VllmEngine(**{**fields, "_client": SimpleNamespace(errored=False)})
    await engine.check()
    engine = VllmEngine(**{**fields, "_client": SimpleNamespace(errored=True)})
    with pytest.raises(RuntimeError, match="dead") as raised:
        await engine.check()
    assert type(raised.value) is RuntimeError
