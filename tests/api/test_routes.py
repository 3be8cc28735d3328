"""The table of routes: complete, true to its page, and the only way in."""

from pathlib import Path

import pytest
from starlette.routing import Route as StarletteRoute

from serve_app.api.gateway import Gateway
from serve_app.api.routes import (
    GENERATING,
    TIER_ROUTES,
    WEB_ROUTES,
    Body,
    Work,
    routes_page,
    tier_route,
)
from serve_app.api.web_app import Door, make_web_app
from tests.api.asgi import FakeEngine, answers, call
from tests.api.web_client import BOTH, FakeTiers
from tests.builders import an_edge
from tests.virtual_time import run_virtual

PAGE = Path(__file__).parents[2] / "docs" / "routes.md"


def test_the_page_is_written_from_the_table() -> None:
    assert PAGE.read_text() == routes_page()


def test_every_generating_route_is_in_the_table_behind_the_gate() -> None:
    for path in ("", "/", *GENERATING):
        route = tier_route("POST", path)
        assert route is not None
        assert (route.work, route.body) == (Work.ENGINE, Body.PROMPT)


def test_every_route_that_reads_a_body_has_a_limit_for_it() -> None:
    for route in (*TIER_ROUTES, *WEB_ROUTES):
        assert (route.body is Body.NONE) == (route.work in (Work.LOOP, Work.REPLICAS))


def test_the_web_application_has_the_routes_of_the_table_and_no_others() -> None:
    async def own_proxy() -> str:
        return "http://127.0.0.1:1"

    gateway = Gateway(own_proxy, BOTH, 1024)
    app = make_web_app(BOTH, FakeTiers(), gateway)
    assert isinstance(app, Door)
    served = {
        (method, route.path.replace(":path", ""))
        for route in app.app.routes
        if isinstance(route, StarletteRoute)
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert {(route.method, route.path) for route in WEB_ROUTES} == served


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/metrics"),
        ("GET", "/tokenizer_info"),
        ("POST", "/v1/load_lora_adapter"),
        ("POST", "/sleep"),
        ("POST", "/pause"),
        ("POST", "/reset_prefix_cache"),
        ("POST", "/collective_rpc"),
        ("POST", "/inference/v1/generate"),
        ("POST", "/v1/chat/completions/render"),
        ("POST", "/v1/chat/completions/batch"),
        ("POST", "/start_profile"),
        ("POST", "/scale_elastic_ep"),
        ("GET", "/openapi.json"),
        ("GET", "/docs"),
        ("GET", "/v1/responses/resp_1"),
        ("POST", "/v1/responses/resp_1/cancel"),
        ("GET", "/v1/models/"),
        ("PUT", "/tokenize"),
        ("POST", "/v1/models"),
    ],
)
def test_what_is_not_in_the_table_never_reaches_vllm(method: str, path: str) -> None:
    engine = FakeEngine(answers({"ok": True}))
    made = run_virtual(call(an_edge(engine), path, {}, method=method))
    assert made.status in (404, 405)
    assert made.error["code"] in ("not_found", "method_not_allowed", "response_not_found")
    assert engine.asked == []
