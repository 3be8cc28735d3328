"""A fake server with one tier: streams, whole answers, JSON, tool calls, refused bodies."""

import asyncio
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.loadtest.load.fake_openai import Reply, events

ITEM = '{"name": "x", "count": 1}'
CALL = {"type": "function", "function": {"name": "find", "arguments": ITEM}}
PAUSE_S = 0.002


class FakeServer:
    """`leaks`: a slot is never given back. `places` says when it refuses."""

    def __init__(self, *, leaks: bool = False, places: int = 12, json_text: str = ITEM) -> None:
        self.running = 0
        self.most = 0
        self.bodies: list[dict[str, Any]] = []
        self.url = ""
        self._leaks, self._places, self._json_text = leaks, places, json_text
        app = web.Application()
        app.router.add_get("/api/chat/v1/models", self._models)
        app.router.add_post("/api/chat/v1/chat/completions", self._complete)
        app.router.add_get("/api/tiers", self._tiers)
        app.router.add_get("/metrics", self._metrics)
        self._server = TestServer(app)

    async def __aenter__(self) -> "FakeServer":
        await self._server.start_server()
        self.url = str(self._server.make_url("")).rstrip("/")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.close()

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "chat"}]})

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(text="# TYPE a gauge\na 1\nb 2\n")

    async def _tiers(self, _: web.Request) -> web.Response:
        replica = {"pid": 1, "ready": True, "slots": 4, "max_queued_requests": 2}
        counts = {"running": self.running, "queued": 0, "queue_depth": 0, "lent": 0, "borrowed": 0}
        tier = {"tier": "chat", "max_new_tokens": 64, **counts, "replicas": [replica]}
        return web.json_response({"tiers": [tier]})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        if is_wrong(body):
            return web.json_response({"error": {"code": "wrong"}}, status=400)
        if self.running >= self._places:
            error = {"error": {"code": "queue_full"}}
            return web.json_response(error, status=429, headers={"retry-after": "1"})
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            return await self._stream(request) if body["stream"] else self._whole(body)
        finally:
            self.running -= 1
            if self._leaks:
                self._leaks = False
                self.running += 1

    def _whole(self, body: dict[str, Any]) -> web.Response:
        message: dict[str, Any] = {"content": self._json_text}
        if "tools" in body:
            message = {"content": None, "tool_calls": [CALL]}
        choice = {"message": message, "finish_reason": "stop"}
        return web.json_response({"choices": [choice], "usage": {"completion_tokens": 3}})

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for data in events(Reply(answer=12)):
            await response.write(data)
            await asyncio.sleep(PAUSE_S)
        return response


def is_wrong(body: dict[str, Any]) -> bool:
    schema = body.get("response_format", {}).get("json_schema", {}).get("schema", {})
    sampling_is_wrong = body.get("n") == 0 or body.get("temperature", 0) < 0
    no_object = not isinstance(body["max_tokens"], int) or not isinstance(schema, dict)
    return sampling_is_wrong or no_object or not body["messages"]
