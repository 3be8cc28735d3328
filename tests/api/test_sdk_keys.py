"""The openai SDK with a right key, a wrong one, and over its quota: what it raises, how often it
asks."""

from typing import Any

import openai
import pytest

from serve_app.core.access.lease import Refusal
from tests.api.fake_keys import TEAM, WRONG, FakeQuotas
from tests.api.key_service import Once, Service, a_service


async def ask(service: Service, key: bytes) -> Any:
    async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key=key.decode()) as client:
        return await client.chat.completions.with_raw_response.create(
            model="chat", messages=[{"role": "user", "content": "Hi"}], max_tokens=5
        )


async def test_with_its_key_it_is_answered_and_reads_what_is_left() -> None:
    async with a_service(FakeQuotas()) as service:
        answer = await ask(service, TEAM)
    assert answer.parse().choices[0].message.content == "Hello."
    assert answer.headers["x-ratelimit-remaining-requests"] == "9"


async def test_a_wrong_key_is_an_authentication_error_and_asked_once() -> None:
    async with a_service(FakeQuotas()) as service:
        with pytest.raises(openai.AuthenticationError) as raised:
            await ask(service, WRONG)
    assert raised.value.code == "invalid_api_key"
    assert service.statuses == [401]


async def test_over_a_limit_of_a_minute_it_waits_and_is_served() -> None:
    quotas = Once(Refusal("tokens_per_minute", 1000, 0.4))
    async with a_service(quotas) as service:
        answer = await ask(service, TEAM)
    assert answer.parse().choices
    assert service.statuses == [429, 200]


@pytest.mark.parametrize(
    "refusal", [Refusal("tokens_per_day", 500, 9000.0), Refusal("tokens_per_minute", 1, None)]
)
async def test_what_would_be_refused_again_it_asks_once(refusal: Refusal) -> None:
    async with a_service(Once(refusal, always=True)) as service:
        with pytest.raises(openai.RateLimitError) as raised:
            await ask(service, TEAM)
    assert raised.value.code in ("insufficient_quota", "rate_limit_exceeded")
    assert service.statuses == [429]
