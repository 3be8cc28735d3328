"""Requests with deadlines at the gate: who is refused, who passes whom, and who is never late for
another."""

import asyncio
from contextlib import ExitStack

import pytest

from serve_app.api.gate import Gate, GateFullError
from serve_app.api.queue_entry import QueueEntry
from serve_app.core.admission.by_deadline import DEADLINE, ShortestAnswer
from serve_app.core.reasoning.deadline import END_S, Pace
from tests.builders import a_gate, idle
from tests.virtual_time import now_s, virtual


def within(left_s: float, *, tokens: int = 1, token_s: float = 0.1) -> ShortestAnswer:
    """A request that needs so many tokens at that pace, idle or not."""
    pace = Pace(token_s, token_s)
    return ShortestAnswer(left_s + END_S, tokens, pace, pace, pace)


def a_known_gate(*, slots: int = 1, service_s: float = 1.0) -> Gate:
    """Whose forecasts were right."""
    gate = a_gate(slots=slots, max_queued_requests=50, service_s=service_s)
    for _ in range(30):
        gate.histories.of().forecasts.observe(now_s=now_s(), forecast_s=1.0, took_s=1.0)
    return gate


def entered(stack: ExitStack, gate: Gate, shortest: ShortestAnswer | None = None) -> QueueEntry:
    return stack.enter_context(gate.enter(1, shortest=shortest))


@virtual
async def test_one_that_would_start_too_late_is_refused_with_the_time_when_it_would_not() -> None:
    gate = a_known_gate(service_s=10.0)
    with ExitStack() as stack:
        entered(stack, gate)
        entered(stack, gate)
        with pytest.raises(GateFullError) as refused:
            entered(stack, gate, within(5.0))
        admission = refused.value.admission
        # The one that waits may be passed; the slot is free in 10 s, 5.1 s too late.
        assert (admission.reason, admission.ahead, admission.retry_after_s) == (DEADLINE, 0, 6)
        assert gate.queued_requests == 1
    assert idle(gate)


@virtual
async def test_one_that_finds_a_free_slot_runs_at_once() -> None:
    gate = a_known_gate()
    with ExitStack() as stack:
        assert entered(stack, gate, within(0.5)).granted.done()


@virtual
async def test_the_earliest_latest_start_goes_first() -> None:
    gate = a_known_gate()
    with ExitStack() as stack:
        running = stack.enter_context(ExitStack())
        entered(running, gate)
        plain = entered(stack, gate)
        late, early = entered(stack, gate, within(60.0)), entered(stack, gate, within(20.0))
        assert [gate.ahead_of(each) for each in (early, late, plain)] == [0, 1, 2]
        running.close()
        assert early.granted.done()


@virtual
async def test_nobody_is_passed_who_would_be_late_for_it() -> None:
    gate = a_known_gate(service_s=10.0)
    with ExitStack() as stack:
        entered(stack, gate)
        first = entered(stack, gate, within(12.0))
        # It would do at the head, and at the head only; but the first one then starts too late.
        with pytest.raises(GateFullError):
            entered(stack, gate, within(11.0))
        # This one has time enough behind it.
        behind = entered(stack, gate, within(25.0))
        assert [gate.ahead_of(first), gate.ahead_of(behind)] == [0, 1]


@virtual
async def test_one_without_a_deadline_waits_no_longer_than_the_tier_lets_wait() -> None:
    """It counts as one that has to start within `max_wait_s`."""
    gate = a_known_gate(service_s=1.0)
    gate.limits.max_wait_s = 4.0
    with ExitStack() as stack:
        entered(stack, gate)
        plain = entered(stack, gate)
        urgent: list[QueueEntry] = []
        for _ in range(10):
            try:
                urgent.append(entered(stack, gate, within(3.5)))
            except GateFullError:
                break
        assert 1 <= len(urgent) <= 4
        assert gate.ahead_of(plain) <= 4
        passed_s = now_s() + gate.drain().start_in_s(gate.ahead_of(plain))
        assert passed_s <= plain.latest_start_s


@virtual
async def test_what_steps_aside_has_its_position_again() -> None:
    gate = a_known_gate()
    with ExitStack() as stack:
        entered(stack, gate)
        plain = entered(stack, gate)
        urgent = entered(stack, gate, within(20.0))
        with gate.step_aside(urgent):
            assert gate.is_head(plain)
            await asyncio.sleep(0)
        assert [gate.ahead_of(urgent), gate.ahead_of(plain)] == [0, 1]
