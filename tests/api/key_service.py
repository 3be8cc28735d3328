"""A service with one key, served on a port, for SDKs; its quotas refuse as a test says."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.core.access.access_key import AccessKey
from serve_app.core.access.lease import Amounts
from tests.api.asgi import FakeEngine, answers
from tests.api.fake_keys import TEAM, FakeGrant, FakeKeys, FakeQuotas, a_fake_desk, a_key
from tests.api.loopback import served
from tests.builders import an_edge

ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 0,
    "model": "chat",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "Hello."},
        }
    ],
}


@dataclass
class Once(FakeQuotas):
    """Refuses the first request, or all where `always`."""

    always: bool = False
    asked: int = 0

    async def reserve(self, key: AccessKey, need: Amounts, followed: str = "") -> FakeGrant:
        self.asked += 1
        if self.asked > 1 and not self.always:
            self.refusal = None
        return await super().reserve(key, need)


@dataclass
class Service:
    url: str
    statuses: list[int] = field(default_factory=list[int])


@asynccontextmanager
async def a_service(quotas: FakeQuotas) -> AsyncIterator[Service]:
    edge = an_edge(FakeEngine(answers(ANSWER)))
    keys = FakeKeys({TEAM: a_key(requests_per_minute=10, tokens_per_minute=1000)})
    edge.access = a_fake_desk(keys, quotas)
    service = Service("")
    async with served(_counted(edge, service.statuses)) as url:
        service.url = url
        yield service


def _counted(app: ASGIApp, statuses: list[int]) -> ASGIApp:
    async def counted(scope: Scope, receive: Receive, send: Send) -> None:
        async def note(message: Any) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])
            await send(message)

        await app(scope, receive, note)

    return counted
