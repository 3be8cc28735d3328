"""Both sides of an ASGI application under test: a client that may leave, and a fake engine."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

Answering = Callable[[dict[str, Any], Send], Awaitable[None]]


class Call:
    """One request to an application, as a server in front of it would make it."""

    def __init__(
        self,
        app: ASGIApp,
        path: str = "",
        payload: object = None,
        *,
        body: bytes | None = None,
        method: str = "POST",
        headers: Iterable[tuple[bytes, bytes]] = (),
    ) -> None:
        self.messages: list[Message] = []
        self.sent_s: list[float] = []
        self._body: bytes | None = json.dumps(payload).encode() if body is None else body
        self._left = asyncio.Event()
        self._scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "root_path": "/api/chat",
            "path": f"/api/chat{path}",
            "raw_path": f"/api/chat{path}".encode(),
            "query_string": b"",
            "headers": [(b"content-type", b"application/json"), *headers],
        }
        self.done = asyncio.ensure_future(app(self._scope, self._receive, self._send))

    def leave(self) -> None:
        """Close the connection."""
        self._left.set()

    @property
    def status(self) -> int:
        return self.messages[0]["status"]

    @property
    def headers(self) -> dict[str, str]:
        return {key.decode(): value.decode() for key, value in self.messages[0]["headers"]}

    @property
    def text(self) -> str:
        return b"".join(message["body"] for message in self.messages[1:]).decode()

    @property
    def error(self) -> dict[str, Any]:
        return json.loads(self.text)["error"]

    async def _receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if not self._left.is_set():
            self.messages.append(message)
            self.sent_s.append(asyncio.get_running_loop().time())


async def call(app: ASGIApp, path: str = "", payload: object = None, **options: Any) -> Call:
    """A request that is waited for."""
    made = Call(app, path, payload, **options)
    await made.done
    return made


@dataclass
class FakeEngine:
    """Stands in for vLLM's application: keeps what it was asked, stops when the client leaves."""

    answering: Answering
    asked: list[dict[str, Any]] = field(default_factory=list)
    scopes: list[Scope] = field(default_factory=list)
    ended: int = 0
    aborted: int = 0

    @property
    def running(self) -> int:
        return len(self.asked) - self.ended - self.aborted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        payload = json.loads((await receive())["body"] or b"null")
        self.asked.append(payload)
        self.scopes.append(scope)
        work = asyncio.ensure_future(self.answering(payload, send))
        gone = asyncio.ensure_future(receive())
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.ended += work.done()
            self.aborted += not work.done()
            for task in (work, gone):
                if not task.done():
                    task.cancel()
                    with suppress(asyncio.CancelledError):
                        await task
        if not work.cancelled():
            work.result()


def answers(body: object, *, after_s: float = 0.0, status: int = 200) -> Answering:
    """A whole answer."""

    async def answer(payload: dict[str, Any], send: Send) -> None:
        await asyncio.sleep(after_s)
        text = body if isinstance(body, bytes) else json.dumps(body, separators=(",", ":")).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(text)),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": text})

    return answer


def streams(*chunks: bytes, every_s: float = 0.0, then: Exception | None = None) -> Answering:
    """Server-sent events, with an exception at the end if one is given."""

    async def answer(payload: dict[str, Any], send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for chunk in chunks:
            await asyncio.sleep(every_s)
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        if then is not None:
            raise then
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return answer


def answers_on(event: asyncio.Event, body: object) -> Answering:
    """A whole answer as soon as the test lets it."""

    async def answer(payload: dict[str, Any], send: Send) -> None:
        await event.wait()
        await answers(body)(payload, send)

    return answer


def breaks(error: Exception) -> Answering:
    async def answer(payload: dict[str, Any], send: Send) -> None:
        raise error

    return answer


def sse_data(text: str) -> Sequence[str]:
    """The data of each event; comments left out."""
    return [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
