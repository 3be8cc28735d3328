"""The page of `/`: who gets it, how it is kept and compressed, and what it may load."""

import gzip
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serve_app.api.page import POLICY, Page, wants_page
from tests.api.web_client import a_client

CHROME = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"
INDEX = b"<!doctype html><script type=module src=/assets/index-1.js></script>"
SCRIPT = b"console.log(1);" * 50


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    """A page as Vite leaves it, whose script is compressed beside it."""
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_bytes(INDEX)
    (tmp_path / "assets" / "index-1.js").write_bytes(SCRIPT)
    (tmp_path / "assets" / "index-1.js.gz").write_bytes(gzip.compress(SCRIPT))
    return tmp_path


def a_site(page: Page) -> httpx.AsyncClient:
    """The page alone, as the web application serves it."""

    async def index(request: Request) -> Response:
        return page.document(request)

    async def no_file(request: Request, error: Exception) -> Response:
        return Response(status_code=404)

    routes = [Route("/", index), Route("/assets/{name}", page.asset)]
    app = Starlette(routes=routes, exception_handlers={HTTPException: no_file})
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://web")


@pytest.mark.parametrize(
    ("accept", "page"),
    [
        (CHROME, True),
        ("text/html", True),
        ("TEXT/HTML;q=0.4", True),
        ("*/*", False),
        ("", False),
        ("application/json", False),
        ("application/json, text/html;q=0", False),
        ("text/html;q=0.0", False),
    ],
)
def test_who_names_html_gets_the_page(accept: str, page: bool) -> None:
    headers = [(b"accept", accept.encode())] if accept else []
    assert wants_page(Request({"type": "http", "headers": headers})) is page


async def test_programs_get_the_json_of_before_and_caches_keep_the_two_apart() -> None:
    async with a_client() as client:
        for headers in ({}, {"accept": "application/json"}):
            answer = await client.get("/", headers=headers)
            assert answer.json()["service"] == "tierserve"
            assert answer.headers["vary"] == "accept"
        page = await client.get("/", headers={"accept": CHROME})
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "accept" in page.headers["vary"]


async def test_the_document_is_asked_for_anew_and_its_assets_are_kept_for_good(dist: Path) -> None:
    async with a_site(Page.read(dist)) as client:
        document = await client.get("/")
        asset = await client.get("/assets/index-1.js")
    assert (document.content, document.headers["cache-control"]) == (INDEX, "no-cache")
    assert (asset.content, asset.headers["content-type"]) == (
        SCRIPT,
        "text/javascript; charset=utf-8",
    )
    assert asset.headers["cache-control"] == "public, max-age=31536000, immutable"


@pytest.mark.parametrize("accepted", ["identity", "br", "gzip;q=0", "zstd"])
async def test_a_file_is_compressed_only_as_its_client_takes_it(dist: Path, accepted: str) -> None:
    async with a_site(Page.read(dist)) as client:
        plain = await client.get("/assets/index-1.js", headers={"accept-encoding": accepted})
        packed = await client.get("/assets/index-1.js", headers={"accept-encoding": "gzip, br"})
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert plain.content == packed.content == SCRIPT


async def test_nothing_may_be_inline_foreign_or_framed(dist: Path) -> None:
    async with a_site(Page.read(dist)) as client:
        answers = [await client.get(path) for path in ("/", "/assets/index-1.js")]
    for answer in answers:
        assert answer.headers["content-security-policy"] == POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
    assert "unsafe" not in POLICY
    assert "http" not in POLICY
    for rule in ("default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'"):
        assert rule in POLICY


async def test_head_has_the_headers_and_no_body(dist: Path) -> None:
    async with a_site(Page.read(dist)) as client:
        for path in ("/", "/assets/index-1.js"):
            answer = await client.head(path)
            assert (answer.status_code, answer.content) == (200, b"")
            assert int(answer.headers["content-length"]) > 0


async def test_a_page_that_was_not_built_says_so_in_a_browser(tmp_path: Path) -> None:
    async with a_site(Page.read(tmp_path)) as client:
        answer = await client.get("/", headers={"accept": CHROME})
    assert answer.status_code == 200
    assert "make setup" in answer.text
    assert "<script" not in answer.text


@pytest.mark.parametrize("name", ["none.js", "..%2findex.html", "%2e%2e", "index-1.js.gz"])
async def test_only_the_files_of_the_page_are_served(name: str) -> None:
    async with a_client() as client:
        answer = await client.get(f"/assets/{name}")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"
