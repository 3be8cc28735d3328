"""The page's service without an engine: answers as the prompt says, at a known speed.

It has the web application's own page, and answers in the form that `/v1` and `/api/tiers` have.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from serve_app.api.page import Page

TIERS = json.loads((Path(__file__).parent / "tiers.json").read_text())
EVENTS = {"content-type": "text/event-stream", "cache-control": "no-cache"}


@dataclass(slots=True)
class Script:
    """What the next answers are. `events_per_s` 0: all at once; `refusals`: 429 as often, each with
    `retry_after_s`; `ahead`: a heartbeat for each; `break_after`: the connection ends behind so
    many events of the answer; `key`: who has another one gets 401."""

    reasoning: str = ""
    text: str = "It is 4."
    end: str = "complete"
    finish: str = "stop"
    events_per_s: float = 0.0
    refusals: int = 0
    retry_after_s: int = 2
    ahead: tuple[int, ...] = ()
    ahead_s: float = 0.3
    break_after: int | None = None
    key: str | None = None
    # The bodies that came.
    asked: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


@dataclass(slots=True)
class ScriptedService:
    """An application for the page alone."""

    script: Script = field(default_factory=Script)
    page: Page = field(default_factory=Page.read)

    def app(self) -> Starlette:
        """The routes that the page calls."""

        async def index(request: Request) -> Response:
            return self.page.document(request)

        return Starlette(
            routes=[
                Route("/", index),
                Route("/assets/{name}", self.page.asset),
                Route("/favicon.ico", _icon),
                Route("/api/tiers", self._tiers),
                Route("/openapi.json", _openapi),
                Route("/v1/chat/completions", self._answer, methods=["POST"]),
            ]
        )

    def _refused(self, request: Request) -> Response | None:
        key = self.script.key
        if key is None or request.headers.get("authorization") == f"Bearer {key}":
            return None
        return _error(401, "A key is needed.", "invalid_api_key")

    async def _tiers(self, request: Request) -> Response:
        return self._refused(request) or JSONResponse(TIERS)

    async def _answer(self, request: Request) -> Response:
        body = await request.json()
        script = self.script
        if refused := self._refused(request):
            return refused
        if script.refusals:
            script.refusals -= 1
            headers = {"retry-after": str(script.retry_after_s)}
            return _error(429, "The tier is full.", "tier_full", headers)
        script.asked.append(body)
        return StreamingResponse(self._events(script, body), headers=EVENTS)

    async def _events(self, script: Script, body: dict[str, Any]) -> AsyncIterator[bytes]:
        for ahead in script.ahead:
            yield b": waiting, %d ahead\n\n" % ahead
            await asyncio.sleep(script.ahead_s)
        deltas = [{"reasoning": piece} for piece in _pieces(script.reasoning)]
        deltas += [{"content": piece} for piece in _pieces(script.text)]
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        for number, delta in enumerate(deltas):
            if number == script.break_after:
                # As when a replica dies: no last chunk, no end.
                raise ConnectionResetError
            yield _event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
            if script.events_per_s:
                await asyncio.sleep(max(0.0, began_s + number / script.events_per_s - loop.time()))
        reasoned = len(_pieces(script.reasoning))
        thought = {"index": 0, "end": script.end if reasoned else "off", "tokens": reasoned}
        last = {"index": 0, "delta": {}, "finish_reason": script.finish}
        yield _event({"choices": [last], "tierserve": {"thoughts": [thought]}})
        details = {"reasoning_tokens": reasoned}
        usage = {"prompt_tokens": 9, "completion_tokens": len(deltas) + 1}
        yield _event({"choices": [], "usage": {**usage, "completion_tokens_details": details}})
        yield b"data: [DONE]\n\n"


def _pieces(text: str) -> list[str]:
    """Four characters are about a token."""
    return [text[at : at + 4] for at in range(0, len(text), 4)]


def _event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def _error(
    status: int, message: str, code: str, headers: dict[str, str] | None = None
) -> JSONResponse:
    error = {"message": message, "type": "rate_limit_error", "param": None, "code": code}
    return JSONResponse({"error": error}, status_code=status, headers=headers)


async def _icon(request: Request) -> Response:
    return Response(status_code=204)


async def _openapi(request: Request) -> Response:
    return JSONResponse({"paths": {}, "components": {"schemas": {}}})
