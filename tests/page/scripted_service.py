"""The page's service without an engine: answers as the prompt says, at a known speed.

It has the web application's own page, and answers in the form that `/v1` and `/api/tiers` have.
"""

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from serve_app.api.page import Page
from serve_app.api.status import list_models

TIERS = json.loads((Path(__file__).parent / "tiers.json").read_text())
BREAKS_AFTER_S = 0.3
FOLLOW_EVERY_S = 1.0
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
    refusal: str = "The chat tier is full: 9 requests are ahead."
    refusal_code: str = "queue_full"
    retry_after_s: int = 2
    ahead: tuple[int, ...] = ()
    ahead_s: float = 0.3
    break_after: int | None = None
    # Comments come behind so many events of the answer, as while it is kept open for a replica that
    # goes on with it; and how many did.
    comments_after: int | None = None
    replayed: int = 0
    key: str | None = None
    # One that may ask, but not see the status.
    users_key: str | None = None
    usage: list[dict[str, Any]] | None = None
    # The tiers that whoever asks may use.
    offered: tuple[str, ...] = ("chat", "reasoning")
    # The models' name in the status; None: as in tiers.json.
    model: str | None = None
    # Of each event; four characters are about a token.
    piece_chars: int = 4
    # Nobody can say how the tiers are.
    status_down: bool = False
    # The bodies that came.
    asked: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


@dataclass(slots=True)
class ScriptedService:
    """An application for the page alone."""

    script: Script = field(default_factory=Script)
    page: Page = field(default_factory=Page.read)
    # Streams of the status that are open.
    follows_open: int = 0

    def app(self) -> Starlette:
        """The routes that the page calls."""

        async def index(request: Request) -> Response:
            return self.page.document(request)

        return Starlette(
            routes=[
                Route("/", index),
                Route("/assets/{name}", self.page.asset),
                Route("/favicon.ico", _icon),
                Route("/v1/models", self._models),
                Route("/api/tiers/events", self._tier_events),
                Route("/api/history", self._history),
                Route("/api/usage", self._usage),
                Route("/openapi.json", _openapi),
                Route("/v1/chat/completions", self._answer, methods=["POST"]),
            ]
        )

    def _refused(self, request: Request, *, admin: bool = False) -> Response | None:
        script, given = self.script, request.headers.get("authorization")
        if script.key is None or given == f"Bearer {script.key}":
            return None
        if script.users_key is not None and given == f"Bearer {script.users_key}":
            return _error(403, "This key is no admin's.", "no_admin") if admin else None
        return _error(401, "A key is needed.", "invalid_api_key")

    async def _models(self, request: Request) -> Response:
        offered = [tier for tier in TIERS["tiers"] if tier["tier"] in self.script.offered]
        models = list_models(offered, created_s=0)
        return self._refused(request) or JSONResponse({"object": "list", "data": models})

    async def _tier_events(self, request: Request) -> Response:
        if refused := self._refused(request, admin=True):
            return refused
        if self.script.status_down:
            return _error(503, "No replica answers.", "tiers_not_ready")
        return StreamingResponse(self._follow(), headers=EVENTS)

    async def _follow(self) -> AsyncIterator[bytes]:
        self.follows_open += 1
        try:
            while not self.script.status_down:
                newest = _an_hour(time.time())[-1:]
                yield _event({**TIERS, "tiers": self._tiers(), "samples": newest})
                await asyncio.sleep(FOLLOW_EVERY_S)
        finally:
            self.follows_open -= 1

    def _tiers(self) -> list[dict[str, Any]]:
        model = self.script.model
        return [tier if model is None else {**tier, "model": model} for tier in TIERS["tiers"]]

    async def _history(self, request: Request) -> Response:
        since_s = float(request.query_params.get("since", "0"))
        samples = [each for each in _an_hour(time.time()) if each["at_s"] > since_s]
        return self._refused(request, admin=True) or JSONResponse({"samples": samples})

    async def _usage(self, request: Request) -> Response:
        if self.script.usage is None:
            # As where keys are off.
            return _error(401, "Usage is that of a key: send yours.", "invalid_api_key")
        # A user sees what his own key has used.
        return self._refused(request) or JSONResponse({"data": self.script.usage})

    async def _answer(self, request: Request) -> Response:
        body = await request.json()
        script = self.script
        if refused := self._refused(request):
            return refused
        if script.refusals:
            script.refusals -= 1
            headers = {"retry-after": str(script.retry_after_s)}
            return _error(429, script.refusal, script.refusal_code, headers)
        script.asked.append(body)
        return StreamingResponse(self._events(script, body), headers=EVENTS)

    async def _events(self, script: Script, body: dict[str, Any]) -> AsyncIterator[bytes]:
        for ahead in script.ahead:
            yield b": waiting, %d ahead\n\n" % ahead
            await asyncio.sleep(script.ahead_s)
        deltas = [{"reasoning": piece} for piece in _pieces(script.reasoning, script.piece_chars)]
        deltas += [{"content": piece} for piece in _pieces(script.text, script.piece_chars)]
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        for number, delta in enumerate(deltas):
            if number == script.break_after:
                # As when a replica dies: no last chunk, no end; what came just before counts.
                await asyncio.sleep(BREAKS_AFTER_S)
                raise ConnectionResetError
            if number == script.comments_after:
                yield b": replaying\n\n: any other, with 3 ahead\n\n:\n\n"
            yield _event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
            if script.events_per_s:
                await asyncio.sleep(max(0.0, began_s + number / script.events_per_s - loop.time()))
        reasoned = len(_pieces(script.reasoning, script.piece_chars))
        thought = {"index": 0, "end": script.end if reasoned else "off", "tokens": reasoned}
        last = {"index": 0, "delta": {}, "finish_reason": script.finish}
        metadata: dict[str, Any] = {"thoughts": [thought]}
        if script.replayed:
            metadata["replayed"] = script.replayed
        yield _event({"choices": [last], "tierserve": metadata})
        details = {"reasoning_tokens": reasoned}
        usage = {"prompt_tokens": 9, "completion_tokens": len(deltas) + 1}
        yield _event({"choices": [], "usage": {**usage, "completion_tokens_details": details}})
        yield b"data: [DONE]\n\n"


def _an_hour(now_s: float) -> list[dict[str, Any]]:
    """Samples as the web application keeps them, of a load that comes and goes."""
    last_s = now_s - now_s % 5
    return [
        {"at_s": at_s, "tiers": {tier: _a_sample(at_s, tier) for tier in ("chat", "reasoning")}}
        for at_s in (last_s - 5 * age for age in reversed(range(720)))
    ]


def _a_sample(at_s: float, tier: str) -> dict[str, Any]:
    load = max(0.0, math.sin(at_s / 400 + (tier == "chat")) + 0.3 * math.sin(at_s / 37))
    return {
        "replicas": 1,
        "running": int(24 * load),
        "slots": 32,
        "queue_depth": int(max(0.0, load - 0.8) * 20),
        "output_tokens_per_s": round(1400 * load, 1),
        "ttft_p50_s": round(0.05 + 0.2 * load, 3) if load else None,
        "ttft_p95_s": round(0.1 + 0.9 * load, 3) if load else None,
        "queue_wait_p50_s": round(0.02 * load, 3) if load else None,
        "queue_wait_p95_s": round(0.5 * load, 3) if load else None,
        "refused": int(max(0.0, load - 1.1) * 30),
        "answered": int(60 * load),
    }


def _pieces(text: str, chars: int) -> list[str]:
    return [text[at : at + chars] for at in range(0, len(text), chars)]


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
