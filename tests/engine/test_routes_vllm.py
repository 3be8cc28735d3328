"""Each route that vLLM's application has is in the table of routes, or refused on purpose."""

from typing import Any

import pytest

from serve_app.api.routes import tier_route
from tests.api.asgi import FakeEngine, answers, call
from tests.builders import an_edge
from tests.virtual_time import run_virtual

# Importing vLLM takes longer than all quick tests of this folder, and warns of what is its own.
pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(300)]

# Why not: they change or stop the engine, generate outside of the gate and the tier's rules, or
# tell of the server what is no client's business.
REFUSED = {
    "/docs": "pages of vLLM's own",
    "/docs/oauth2-redirect": "pages of vLLM's own",
    "/generative_scoring": "generates outside of the gate",
    "/inference/v1/abort_requests": "ends other clients' requests",
    "/inference/v1/generate": "generates outside of the gate",
    "/invocations": "generates outside of the gate",
    "/is_scaling_elastic_ep": "changes the engine",
    "/kv_event_sources": "tells of the server",
    "/load": "tells of the server",
    "/metrics": "the replicas' metrics are on the web application's page",
    "/openapi.json": "the web application has our own",
    "/ping": "as /health",
    "/redoc": "pages of vLLM's own",
    "/scale_elastic_ep": "changes the engine",
    "/v1/chat/completions/batch": "generates outside of the gate",
    "/v1/chat/completions/derender": "the tokenizer's thread without bounds",
    "/v1/chat/completions/render": "the tokenizer's thread without bounds",
    "/v1/completions/derender": "the tokenizer's thread without bounds",
    "/v1/completions/render": "the tokenizer's thread without bounds",
    "/v1/messages/render": "the tokenizer's thread without bounds",
    "/v1/responses/{response_id}": "responses are not kept",
    "/v1/responses/{response_id}/cancel": "responses are not kept",
    "/v1/responses/render": "the tokenizer's thread without bounds",
    "/v1/systemone": "generates outside of the gate",
}


@pytest.fixture(scope="module")
def vllms_routes() -> set[tuple[str, str]]:
    from vllm.entrypoints.launchers.app import build_app
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = make_arg_parser(FlexibleArgumentParser())
    arguments: Any = parser.parse_args(["--model", "none"])
    app = build_app(arguments, ("generate",), None)
    return {
        (method, getattr(route, "path", ""))
        for route in app.routes
        for method in (getattr(route, "methods", None) or {"GET"}) - {"HEAD"}
    }


def test_every_route_of_vllm_is_in_the_table_or_refused_on_purpose(
    vllms_routes: set[tuple[str, str]],
) -> None:
    unknown = [
        (method, path)
        for method, path in vllms_routes
        if path not in REFUSED and tier_route(method, path) is None
    ]
    assert unknown == []
    assert {path for _, path in vllms_routes} >= REFUSED.keys()


def test_what_is_refused_on_purpose_does_not_reach_vllm(
    vllms_routes: set[tuple[str, str]],
) -> None:
    engine = FakeEngine(answers({}))
    for method, path in vllms_routes:
        if path in REFUSED:
            assert run_virtual(call(an_edge(engine), path, {}, method=method)).status == 404
    assert engine.asked == []
