"""Others get a turn while an engine is far ahead of its client."""

import asyncio
from typing import Any, cast

from serve_app.engine.vllm.patches.output_yield import yielding_between_outputs


class BusyCore:
    """A client of an engine that is far ahead: all outputs are there already."""

    def __init__(self, outputs: int) -> None:
        self.outputs_queue: asyncio.Queue[int] = asyncio.Queue()
        for number in range(outputs):
            self.outputs_queue.put_nowait(number)

    async def get_output_async(self) -> int:
        return await self.outputs_queue.get()


async def test_others_get_a_turn_between_the_steps_of_an_engine_that_is_ahead() -> None:
    core, turns = BusyCore(outputs=100), 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    waiting = asyncio.ensure_future(others())
    get_output = cast("Any", yielding_between_outputs)(core)
    assert [await get_output() for _ in range(100)] == list(range(100))
    waiting.cancel()
    assert turns >= 100


async def test_an_output_that_comes_later_is_waited_for_as_before() -> None:
    core = BusyCore(outputs=0)
    coming = asyncio.ensure_future(cast("Any", yielding_between_outputs)(core)())
    await asyncio.sleep(0)
    core.outputs_queue.put_nowait(7)
    assert await coming == 7
