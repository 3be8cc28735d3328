"""One request to the fake engine's application, and what has come of it so far."""

import asyncio
import json
from typing import Any

from starlette.types import Message

from serve_app.engine.interface import Engine
from tests.virtual_time import now_s


class Call:
    """Begins at once; `gone` is set when the client is to leave."""

    def __init__(self, engine: Engine, path: str, **body: Any) -> None:
        self.status = 0
        self.parts: list[bytes] = []
        self.first_s = 0.0
        self.gone = asyncio.Event()
        self._body: bytes | None = json.dumps(body).encode()
        scope = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b""}
        self.task = asyncio.ensure_future(engine.app(scope, self._receive, self._send))

    async def _receive(self) -> Message:
        if self._body is None:
            await self.gone.wait()
            return {"type": "http.disconnect"}
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message["body"]:
            self.first_s = self.first_s or now_s()
            self.parts.append(message["body"])

    async def answer(self) -> dict[str, Any]:
        await self.task
        return json.loads(b"".join(self.parts))

    async def events(self) -> list[dict[str, Any]]:
        await self.task
        lines = b"".join(self.parts).decode().split("\n\n")
        assert lines[-2:] == ["data: [DONE]", ""]
        return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
