"""The gate while limits change and while other replicas are asked."""

import asyncio

from serve_app.api.gate import GateLimits
from tests.api.gate_scene import a_request
from tests.builders import a_gate, idle
from tests.virtual_time import run_virtual


def test_lowered_limits_let_what_runs_go_on_and_start_nothing_new() -> None:
    async def scene() -> None:
        log: list[str] = []
        gate = a_gate(slots=3, max_queued_requests=9)
        requests = [
            asyncio.ensure_future(a_request(gate, name, log, hold_s=hold_s))
            for name, hold_s in [("a", 1), ("b", 2), ("c", 3), ("d", 1), ("e", 1)]
        ]
        await asyncio.sleep(0.5)
        gate.configure(GateLimits(1, 9, 10.0))
        assert gate.running_sequences == 3
        await asyncio.wait(requests)
        assert log == ["a@0", "b@0", "c@0", "d@3", "e@4"]
        assert idle(gate)

    run_virtual(scene())


def test_raised_limits_start_what_fits_at_once() -> None:
    async def scene() -> None:
        log: list[str] = []
        gate = a_gate(slots=1)
        requests = [asyncio.ensure_future(a_request(gate, name, log)) for name in "abc"]
        await asyncio.sleep(0.5)
        gate.configure(GateLimits(3, 4, 10.0))
        await asyncio.wait(requests)
        assert log == ["a@0", "b@0.5", "c@0.5"]

    run_virtual(scene())


def test_a_request_that_is_larger_than_lowered_limits_runs_alone_instead_of_never() -> None:
    async def scene() -> None:
        log: list[str] = []
        gate = a_gate(slots=4)
        requests = [
            asyncio.ensure_future(a_request(gate, "first", log)),
            asyncio.ensure_future(a_request(gate, "large", log, sequences=4)),
            asyncio.ensure_future(a_request(gate, "last", log)),
        ]
        await asyncio.sleep(0.5)
        gate.configure(GateLimits(2, 4, 10.0))
        await asyncio.wait(requests)
        assert log == ["first@0", "large@1", "last@2"]

    run_virtual(scene())


def test_whoever_steps_aside_is_passed_over_and_gets_the_old_position_back() -> None:
    async def scene() -> None:
        gate = a_gate(slots=1)
        with (
            gate.enter(1),
            gate.enter(1) as head,
            gate.enter(1) as second,
            gate.enter(1) as third,
        ):
            with gate.step_aside(head), gate.step_aside(second):
                assert gate.ahead_of(third) == 0
                gate.configure(GateLimits(2, 4, 10.0))
                assert third.granted.done()
                assert not head.granted.done()
            assert [gate.ahead_of(head), gate.ahead_of(second)] == [0, 1]

    run_virtual(scene())


def test_a_slot_that_came_free_meanwhile_is_taken_on_stepping_back() -> None:
    async def scene() -> None:
        gate = a_gate(slots=1)
        with gate.enter(1), gate.enter(1) as place:
            with gate.step_aside(place):
                gate.configure(GateLimits(2, 4, 10.0))
                assert not place.granted.done()
            assert place.granted.done()

    run_virtual(scene())
