"""The page of `/`: files that were built beforehand, the same for everyone.

`deploy/build_page.py` builds them from serve_app/page. They are few and small, so they are read
once and kept.
"""

import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from serve_app.errors import RequestError

DIST = Path(__file__).parents[1] / "page" / "dist"
# Nothing inline, nothing evaluated, nothing of another origin; no page may frame this one.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "font-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
SAFETY_HEADERS: Mapping[str, str] = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
# Their names change with their content.
FOR_GOOD = "public, max-age=31536000, immutable"
# In this order of preference, by the suffix of the compressed file.
ENCODINGS = (("br", ".br"), ("gzip", ".gz"))
NOT_BUILT = """<!doctype html><html lang="en"><meta charset="utf-8"><title>tierserve</title>
<h1>tierserve</h1><p>The service runs; its page was not built. <code>make setup</code> builds it
where npm's registry can be reached.</p><p>Without it: <a href="/api/tiers">/api/tiers</a>,
<a href="/v1/models">/v1/models</a>, <a href="/openapi.json">/openapi.json</a>.</p></html>
"""


@dataclass(frozen=True, slots=True)
class PageFile:
    """`bodies` by content encoding; the empty one is not compressed."""

    media_type: str
    bodies: Mapping[str, bytes]

    def response(self, request: Request, headers: Mapping[str, str]) -> Response:
        """In the first encoding that the client takes."""
        accepted = _quoted_names(request.headers.get("accept-encoding", ""))
        encoding = next(
            (name for name, _ in ENCODINGS if name in self.bodies and name in accepted), ""
        )
        sent = {**SAFETY_HEADERS, **headers}
        if encoding:
            sent["content-encoding"] = encoding
        return Response(self.bodies[encoding], media_type=self.media_type, headers=sent)


@dataclass(frozen=True, slots=True)
class Page:
    """`index` is None where the page was not built."""

    index: PageFile | None
    assets: Mapping[str, PageFile]

    @classmethod
    def read(cls, dist: Path = DIST) -> "Page":
        """The files below `dist`; none of them is read again."""
        index = dist / "index.html"
        if not index.is_file():
            return cls(None, {})
        suffixes = tuple(suffix for _, suffix in ENCODINGS)
        assets = (path for path in (dist / "assets").iterdir() if path.suffix not in suffixes)
        return cls(_read(index), {path.name: _read(path) for path in assets})

    def document(self, request: Request) -> Response:
        """The page itself, asked for anew at each visit, since it names the assets."""
        headers = {"cache-control": "no-cache", "vary": "accept, accept-encoding"}
        if self.index is None:
            sent = {**SAFETY_HEADERS, **headers}
            return Response(NOT_BUILT, media_type="text/html", headers=sent)
        return self.index.response(request, headers)

    async def asset(self, request: Request) -> Response:
        """A script, a style or a font of the page."""
        name = request.path_params["name"]
        file = self.assets.get(name)
        if file is None:
            raise RequestError(404, f"The page has no `{name[:200]}`.", code="not_found")
        return file.response(request, {"cache-control": FOR_GOOD, "vary": "accept-encoding"})


def wants_page(request: Request) -> bool:
    """Whether a browser asks: it names HTML, which programs that take anything do not."""
    return "text/html" in _quoted_names(request.headers.get("accept", ""))


def _quoted_names(field: str) -> set[str]:
    """The names of an Accept header whose quality is not zero."""
    names: set[str] = set()
    for entry in field.lower().split(","):
        name, *parameters = (part.strip() for part in entry.split(";"))
        if not any(_is_zero(parameter) for parameter in parameters):
            names.add(name)
    return names


def _is_zero(parameter: str) -> bool:
    key, _, value = parameter.partition("=")
    return key.strip() == "q" and value.strip(" 0.") == ""


def _read(path: Path) -> PageFile:
    media_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    bodies = {"": path.read_bytes()}
    for encoding, suffix in ENCODINGS:
        compressed = path.with_name(path.name + suffix)
        if compressed.is_file():
            bodies[encoding] = compressed.read_bytes()
    return PageFile(media_type, bodies)
