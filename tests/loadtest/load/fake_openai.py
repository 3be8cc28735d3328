"""A fake OpenAI server with tiers: no model, only what a test says that it answers."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer


@dataclass(frozen=True)
class Reply:
    """A stream of thought and answer tokens, or an error with its code."""

    answer: int = 4
    thought: int = 0
    pause_s: float = 0.0
    heartbeats: int = 0
    cut: bool = False
    usage: bool = True
    status: int = 200
    code: str | None = None
    retry_after: str | None = None


class FakeOpenAI:
    """`reply` decides by the request's body and its number."""

    def __init__(
        self,
        reply: Callable[[dict[str, Any], int], Reply] = lambda body, number: Reply(),
        *,
        has_tiers: bool = True,
    ) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.url = ""
        self._reply = reply
        app = web.Application()
        for prefix in ("/api/{tier}/v1", "/v1"):
            app.router.add_get(f"{prefix}/models", self._models)
            app.router.add_post(f"{prefix}/chat/completions", self._complete)
        if has_tiers:
            app.router.add_get("/api/tiers", self._tiers)
        self._server = TestServer(app)

    async def __aenter__(self) -> "FakeOpenAI":
        await self._server.start_server()
        self.url = str(self._server.make_url("")).rstrip("/")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.close()

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "fake"}]})

    async def _tiers(self, _: web.Request) -> web.Response:
        tier = {"max_new_tokens": 8, "queue_depth": 3, "running": 2, "slots": 4}
        tier |= {"replicas_running": 1, "replicas_wanted": 2}
        return web.json_response({"tiers": [{"tier": "chat", **tier}]})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.paths.append(request.path)
        reply = self._reply(body, len(self.bodies))
        if reply.status != 200:
            error = {"error": {"message": "the fake refuses", "code": reply.code}}
            headers = {} if reply.retry_after is None else {"retry-after": reply.retry_after}
            return web.json_response(error, status=reply.status, headers=headers)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for _ in range(reply.heartbeats):
            await response.write(b": waiting, 1 ahead\n\n")
        for data in events(reply):
            await response.write(data)
            await asyncio.sleep(reply.pause_s)
        if reply.cut and request.transport is not None:
            request.transport.close()
        return response


def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return event({"object": "chat.completion.chunk", "choices": [choice]})


def event(document: object) -> bytes:
    return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"


def events(reply: Reply) -> list[bytes]:
    made = [chunk({"role": "assistant", "content": ""})]
    made += [chunk({"reasoning": "hm "}) for _ in range(reply.thought)]
    made += [chunk({"content": "word "}) for _ in range(reply.answer)]
    if reply.cut:
        return made
    made.append(chunk({}, "length"))
    if reply.usage:
        usage = {"prompt_tokens": 9, "completion_tokens": reply.thought + reply.answer}
        made.append(event({"choices": [], "usage": usage}))
    return [*made, b"data: [DONE]\n\n"]
