"""Many who ask the same at once are one question."""

import asyncio
from contextlib import suppress

from serve_app.api.shared_answers import SharedAnswers
from tests.virtual_time import now_s, virtual


@virtual
async def test_all_who_come_before_it_is_asked_get_one_answer_and_later_ones_the_next() -> None:
    shared, asked = SharedAnswers(every_s=0.5, clock_s=now_s), []

    async def ask() -> int:
        asked.append(now_s())
        await asyncio.sleep(0.1)
        return len(asked)

    first = [asyncio.ensure_future(shared.get("x", ask)) for _ in range(1000)]
    await asyncio.sleep(0.05)
    later = [asyncio.ensure_future(shared.get("x", ask)) for _ in range(1000)]
    assert await asyncio.gather(*first) == [1] * 1000
    assert await asyncio.gather(*later) == [2] * 1000
    assert await shared.get("y", ask) == 3
    assert asked == [0, 0.5, 0.6]


@virtual
async def test_no_answer_is_older_than_the_question() -> None:
    """A client that reads a counter after its own request finds it counted."""
    shared, counted = SharedAnswers(clock_s=now_s), 0

    async def ask() -> int:
        return counted

    for number in range(5):
        counted = number
        assert await shared.get("x", ask) == number


@virtual
async def test_one_that_leaves_does_not_end_it_for_the_others() -> None:
    shared = SharedAnswers(clock_s=now_s)

    async def ask() -> str:
        await asyncio.sleep(1)
        return "there"

    first = asyncio.ensure_future(shared.get("x", ask))
    second = asyncio.ensure_future(shared.get("x", ask))
    await asyncio.sleep(0.5)
    first.cancel()
    with suppress(asyncio.CancelledError):
        await first
    assert await second == "there"


@virtual
async def test_a_question_that_failed_is_asked_again() -> None:
    shared, asked = SharedAnswers(clock_s=now_s), []

    async def ask() -> str:
        asked.append(now_s())
        if len(asked) == 1:
            raise ConnectionError
        return "there"

    with suppress(ConnectionError):
        await shared.get("x", ask)
    assert await shared.get("x", ask) == "there"
