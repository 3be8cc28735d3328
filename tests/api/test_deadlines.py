"""The end of all running requests at once."""

import asyncio

import pytest

from serve_app.api.engine_run import Deadlines
from serve_app.errors import RequestError
from tests.virtual_time import now_s, virtual


@virtual
async def test_all_that_runs_ends_at_once_with_an_error_that_says_to_come_back() -> None:
    deadlines = Deadlines()
    told: list[RequestError] = []

    async def request() -> None:
        try:
            async with deadlines.until_ended():
                await asyncio.sleep(100)
        except RequestError as error:
            told.append(error)

    running = [asyncio.ensure_future(request()) for _ in range(3)]
    await asyncio.sleep(1)
    assert deadlines.end() == 3
    await asyncio.gather(*running)
    assert now_s() == 1
    assert [(error.status, error.code) for error in told] == [(503, "replica_stopping")] * 3
    assert all(error.retry_after_s for error in told)
    assert deadlines.end() == 0


@virtual
async def test_a_request_that_ended_before_is_none_of_those_that_are_ended() -> None:
    deadlines = Deadlines()
    async with deadlines.until_ended():
        await asyncio.sleep(1)
    with pytest.raises(ValueError, match="its own"):
        async with deadlines.until_ended():
            raise ValueError("its own")
    assert deadlines.end() == 0


@virtual
async def test_a_requests_own_timeout_stays_what_it_is() -> None:
    with pytest.raises(TimeoutError):
        async with Deadlines().until_ended(), asyncio.timeout(1):
            await asyncio.sleep(2)


@virtual
async def test_a_request_that_comes_after_the_end_runs() -> None:
    deadlines = Deadlines()
    deadlines.end()
    async with deadlines.until_ended():
        await asyncio.sleep(5)
    assert now_s() == 5
