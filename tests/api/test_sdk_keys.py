"""The openai SDK with a right key, a wrong one, and over its quota: what it raises, how often it
asks."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import openai
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.core.access.access_key import AccessKey
from serve_app.core.access.lease import Amounts, Refusal
from tests.api.asgi import FakeEngine, answers
from tests.api.fake_keys import TEAM, WRONG, FakeGrant, FakeKeys, FakeQuotas, a_fake_desk, a_key
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

    async def reserve(self, key: AccessKey, need: Amounts) -> FakeGrant:
        self.asked += 1
        if self.asked > 1 and not self.always:
            self.refusal = None
        return await super().reserve(key, need)


@dataclass
class Service:
    url: str
    statuses: list[int] = field(default_factory=list[int])

    async def ask(self, key: bytes) -> Any:
        async with openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key=key.decode()) as client:
            return await client.chat.completions.with_raw_response.create(
                model="chat", messages=[{"role": "user", "content": "Hi"}], max_tokens=5
            )


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


async def test_with_its_key_it_is_answered_and_reads_what_is_left() -> None:
    async with a_service(FakeQuotas()) as service:
        answer = await service.ask(TEAM)
    assert answer.parse().choices[0].message.content == "Hello."
    assert answer.headers["x-ratelimit-remaining-requests"] == "9"


async def test_a_wrong_key_is_an_authentication_error_and_asked_once() -> None:
    async with a_service(FakeQuotas()) as service:
        with pytest.raises(openai.AuthenticationError) as raised:
            await service.ask(WRONG)
    assert raised.value.code == "invalid_api_key"
    assert service.statuses == [401]


async def test_over_a_limit_of_a_minute_it_waits_and_is_served() -> None:
    quotas = Once(Refusal("tokens_per_minute", 1000, 0.4))
    async with a_service(quotas) as service:
        answer = await service.ask(TEAM)
    assert answer.parse().choices
    assert service.statuses == [429, 200]


@pytest.mark.parametrize(
    "refusal", [Refusal("tokens_per_day", 500, 9000.0), Refusal("tokens_per_minute", 1, None)]
)
async def test_what_would_be_refused_again_it_asks_once(refusal: Refusal) -> None:
    async with a_service(Once(refusal, always=True)) as service:
        with pytest.raises(openai.RateLimitError) as raised:
            await service.ask(TEAM)
    assert raised.value.code in ("insufficient_quota", "rate_limit_exceeded")
    assert service.statuses == [429]
