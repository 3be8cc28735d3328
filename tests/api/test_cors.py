"""Web pages as clients: preflights at every route, readable answers; nothing unless it is set."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import httpx
import pytest
from pydantic import ValidationError
from starlette.types import ASGIApp

from serve_app.api.asgi import with_cors
from serve_app.api.gateway import Gateway
from serve_app.api.web_app import make_web_app
from serve_app.config.tier import TierArgs, WebArgs
from serve_app.core.tiers import Tier
from tests.api.asgi import FakeEngine, answers, streams
from tests.api.loopback import served
from tests.api.two_tiers import mounted
from tests.api.web_client import BOTH, FakeTiers
from tests.builders import an_edge

PAGE = "https://chat.example.com"
# What the openai SDK sends from a browser, and Anthropic's.
SDK_HEADERS = (
    "authorization,content-type,x-stainless-arch,x-stainless-lang,x-stainless-os,"
    "x-stainless-package-version,x-stainless-retry-count,x-stainless-runtime,"
    "x-stainless-runtime-version,x-stainless-timeout,x-api-key,anthropic-version,"
    "anthropic-dangerous-direct-browser-access"
)
DONE = {"choices": []}
Application = Callable[..., ASGIApp]


@asynccontextmanager
async def client_of(app: ASGIApp, base_url: str = "http://web") -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url=base_url) as client:
        yield client


def web(origins: Sequence[str] = (PAGE,)) -> ASGIApp:
    async def base_url() -> str:
        return ""

    return with_cors(make_web_app(BOTH, FakeTiers(), Gateway(base_url, BOTH, 1024)), origins)


def tier(origins: Sequence[str] = (PAGE,)) -> ASGIApp:
    edge = an_edge(FakeEngine(streams(b"data: 1\n\n", b"data: [DONE]\n\n")))
    return with_cors(mounted(edge, "/api/chat"), origins)


async def preflight(client: httpx.AsyncClient, path: str, method: str = "POST") -> httpx.Response:
    return await client.options(
        path,
        headers={
            "origin": PAGE,
            "access-control-request-method": method,
            "access-control-request-headers": SDK_HEADERS,
        },
    )


@pytest.mark.parametrize(
    ("app", "path"),
    [
        *(
            (web, path)
            for path in ("/v1/chat/completions", "/v1/models", "/api/tiers", "/nothing", "/")
        ),
        *(
            (tier, path)
            for path in ("/api/chat", "/api/chat/v1/messages", "/api/chat/tokenize", "/api/chat/x")
        ),
    ],
)
async def test_a_preflight_is_answered_at_every_route(app: Application, path: str) -> None:
    async with client_of(app()) as client:
        answer = await preflight(client, path)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert answer.headers["access-control-allow-headers"] == SDK_HEADERS
    assert "POST" in answer.headers["access-control-allow-methods"]


@pytest.mark.parametrize("app", [web, tier])
async def test_a_page_of_another_origin_gets_no_headers(app: Application) -> None:
    async with client_of(app(origins=("https://other.example",))) as client:
        refused = await preflight(client, "/v1/models")
        read = await client.get("/nothing", headers={"origin": PAGE})
    assert refused.status_code == 400
    for answer in (refused, read):
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("app", [web, tier])
async def test_browsers_get_no_headers_by_default(app: Application) -> None:
    async with client_of(app(origins=())) as client:
        answer = await preflight(client, "/api/chat/v1/models", method="GET")
        read = await client.get("/api/chat/v1/models", headers={"origin": PAGE})
    assert answer.status_code in (404, 405)
    assert not [name for name in (*answer.headers, *read.headers) if "access-control" in name]


async def test_vllm_never_sees_the_pages_origin_and_adds_no_headers_of_its_own() -> None:
    engine = FakeEngine(answers(DONE))
    async with client_of(mounted(an_edge(engine), "/api/chat")) as client:
        for method, path in (("GET", "/v1/models"), ("POST", ""), ("POST", "/tokenize")):
            await client.request(
                method, f"/api/chat{path}", json={"prompt": "hi"}, headers={"origin": PAGE}
            )
    assert len(engine.scopes) == 3
    for scope in engine.scopes:
        assert b"origin" not in {name for name, _ in scope["headers"]}


@pytest.mark.parametrize("origins", [(PAGE,), ("*",)])
async def test_a_page_reads_a_stream_and_the_headers_that_are_for_it(
    origins: Sequence[str],
) -> None:
    async with served(tier(origins)) as url:

        async def base_url() -> str:
            return url

        gateway = Gateway(base_url, BOTH, 1024)
        app = with_cors(make_web_app(BOTH, FakeTiers(), gateway), origins)
        async with client_of(app) as client, httpx.AsyncClient(base_url=url) as direct:
            for asked, path in ((client, "/v1/chat/completions"), (direct, "/api/chat")):
                body = {"prompt": "hi", "stream": True}
                answer = await asked.post(path, json=body, headers={"origin": PAGE})
                assert answer.text == "data: 1\n\ndata: [DONE]\n\n"
                allowed = answer.headers.get_list("access-control-allow-origin")
                assert allowed == (["*"] if "*" in origins else [PAGE])
                exposed = answer.headers["access-control-expose-headers"].split(", ")
                assert {"x-request-id", "x-tierserve-warning", "retry-after"} <= {*exposed}
        await gateway.close()


async def test_a_page_reads_errors_too() -> None:
    async with client_of(web()) as client:
        answer = await client.get("/nothing", headers={"origin": PAGE})
    assert answer.status_code == 404
    assert answer.headers["access-control-allow-origin"] == PAGE


# --- the setting


@pytest.mark.parametrize(
    "origin",
    [
        "chat.example.com",
        "https://chat.example.com/",
        "https://a.b/path",
        "https://*.b",
        "null",
        "",
    ],
)
def test_what_is_no_origin_is_refused_by_name(origin: str) -> None:
    with pytest.raises(ValidationError, match="is no origin: write scheme and host"):
        WebArgs(cors_origins=(origin,))


def test_origins_are_as_browsers_write_them() -> None:
    given = ("*", "HTTP://LocalHost:3000", "chrome-extension://abc")
    for args in (WebArgs(cors_origins=given), TierArgs(tier=Tier.CHAT, cors_origins=given)):
        assert args.cors_origins == ("*", "http://localhost:3000", "chrome-extension://abc")


def test_one_variable_sets_it_for_web_and_tiers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIERSERVE_CORS_ORIGINS", f'["{PAGE}"]')
    assert WebArgs().cors_origins == TierArgs(tier=Tier.CHAT).cors_origins == (PAGE,)
