"""Many who ask the same at once are one question."""

import asyncio
from contextlib import suppress

from serve_app.api.shared_answer import SharedAnswers
from tests.virtual_time import now_s, virtual


@virtual
async def test_all_who_ask_meanwhile_and_just_after_get_one_answer() -> None:
    shared, asked = SharedAnswers(max_age_s=0.5, clock_s=now_s), []

    async def ask() -> int:
        asked.append(now_s())
        await asyncio.sleep(1)
        return len(asked)

    assert await asyncio.gather(*(shared.get("x", ask) for _ in range(1000))) == [1] * 1000
    assert await shared.get("x", ask) == 2
    assert await shared.get("y", ask) == 3
    assert asked == [0, 1, 2]


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
