"""Results of a request's engine calls are handled one at a time, those of its past first."""

import asyncio

import pytest

from serve_app.core.replay.order import LONGEST_WAIT_S, ReplayOrder, ReplayOrderError
from tests.virtual_time import now_s, virtual


@virtual
async def test_the_past_is_handled_in_its_order_before_all_that_is_new() -> None:
    order = ReplayOrder(2)
    handled: list[int | None] = []

    async def handle(position: int | None) -> None:
        await order.turn(position)
        with order:
            handled.append(position)

    await asyncio.gather(handle(None), handle(1), handle(None), handle(0))
    assert handled == [0, 1, None, None]


@virtual
async def test_no_two_results_are_handled_at_a_time() -> None:
    order = ReplayOrder(0)
    handling = 0

    async def handle() -> None:
        nonlocal handling
        await order.turn()
        with order:
            handling += 1
            assert handling == 1
            await asyncio.sleep(1)
            handling -= 1

    await asyncio.gather(*(handle() for _ in range(5)))
    assert now_s() == 5


@virtual
async def test_one_who_gives_up_does_not_keep_the_others_waiting() -> None:
    order = ReplayOrder(0)
    with order, pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await order.turn()
    await order.turn()
    assert now_s() == 1


@virtual
async def test_a_step_that_nobody_asks_for_is_an_error() -> None:
    order = ReplayOrder(1)
    with pytest.raises(ReplayOrderError, match="step 0 of 1"):
        await order.turn()
    assert now_s() == LONGEST_WAIT_S
