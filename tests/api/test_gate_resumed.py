"""The gate for what other replicas have begun: before all that wait, and never refused."""

import asyncio
import math
import random
from contextlib import ExitStack, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.api.gate import Gate
from serve_app.api.queue_entry import GateFullError, QueueEntry
from serve_app.core.admission.fairness import Flow
from serve_app.core.admission.prefill import STEP_TOKENS
from tests.builders import a_gate, a_reading_gate, idle
from tests.virtual_time import run_virtual, virtual

A, B = Flow("a"), Flow("b")


@virtual
async def test_it_starts_before_other_flows_and_before_what_came_earlier_in_its_own() -> None:
    gate = a_gate(slots=1, max_queued_requests=9)
    with ExitStack() as stack:
        running = stack.enter_context(gate.enter(1, flow=A))
        waiting = [stack.enter_context(gate.enter(1, flow=flow)) for flow in (A, B)]
        resumed = [stack.enter_context(gate.enter(1, flow=A, resumed=True)) for _ in range(2)]
        assert [gate.ahead_of(entry) for entry in [*resumed, *waiting]][:2] == [0, 1]
        assert min(gate.ahead_of(entry) for entry in waiting) == 2
        assert gate.is_head(resumed[0])
        assert not any(gate.is_head(entry) for entry in [*waiting, resumed[1]])
        assert gate.queued_requests == 4
        gate.release(running)
        assert resumed[0].granted.done()
        assert not any(entry.granted.done() for entry in [*waiting, resumed[1]])
    assert idle(gate)


@virtual
async def test_nothing_else_has_room_while_one_waits() -> None:
    gate = a_gate(slots=3)
    with gate.enter(2), gate.enter(2, resumed=True) as resumed:
        assert not resumed.granted.done()
        assert not gate.has_room(1)
        with gate.enter(1) as small:
            assert not small.granted.done()
    assert gate.has_room(3)
    assert idle(gate)


@virtual
async def test_a_full_queue_does_not_refuse_it_and_a_new_request_counts_it_ahead() -> None:
    gate = a_gate(slots=1, max_queued_requests=1)
    with gate.enter(1), gate.enter(1), gate.enter(1, resumed=True) as resumed:
        assert not resumed.granted.done()
        with pytest.raises(GateFullError) as refused, gate.enter(1):
            pass
        assert refused.value.admission.ahead == 2
    assert idle(gate)


@virtual
async def test_it_is_no_demand_and_its_prompt_counts_for_the_wait_of_others() -> None:
    gate = a_reading_gate(slots=1, prompt_token_ms=1.0)
    assert gate.demand is not None
    with gate.enter(1, prompt_tokens=10):
        alone_s = _forecast_s(gate)
        before = gate.demand.figures(0)
        with gate.enter(1, prompt_tokens=2000, resumed=True):
            assert gate.demand.figures(0) == before
            assert _forecast_s(gate) > alone_s
    assert idle(gate)


@virtual
async def test_what_comes_of_one_lost_replica_is_read_at_once_and_others_wait_behind_it() -> None:
    gate = a_reading_gate(slots=9, prompt_token_ms=1.0)
    with ExitStack() as stack:
        stack.enter_context(gate.enter(1, prompt_tokens=10))
        # Two seconds of reading each: more than the engine is given of new requests.
        resumed = [
            stack.enter_context(gate.enter(1, prompt_tokens=2000, resumed=True)) for _ in range(3)
        ]
        new = stack.enter_context(gate.enter(1, prompt_tokens=10))
        assert all(entry.granted.done() for entry in resumed)
        assert not new.granted.done()
        assert new.forecast_s is not None
        assert new.forecast_s > 5
    assert idle(gate)


@virtual
async def test_what_a_drain_hands_over_is_taken_a_few_at_a_time() -> None:
    """Of what is handed over the engine reads a step's tokens at once, or as many as of new
    requests. Those do not count: they may be many."""
    gate = a_reading_gate(slots=19, prompt_token_ms=1.0)
    assert gate.room is not None
    with ExitStack() as stack:
        stack.enter_context(gate.enter(1, prompt_tokens=2000))
        begun: list[QueueEntry] = []
        while gate.room.reads_handed_over_soon():
            entry = stack.enter_context(gate.enter(1, prompt_tokens=300, resumed=True))
            assert entry.granted.done()
            begun.append(entry)
        assert len(begun) == math.ceil(STEP_TOKENS / 300)
        gate.first_token(begun[0])
        assert gate.room.reads_handed_over_soon()
    assert idle(gate)


@virtual
async def test_a_fast_engine_takes_more_of_what_a_drain_hands_over() -> None:
    gate = a_reading_gate(slots=99, prompt_token_ms=0.05)
    assert gate.room is not None
    with ExitStack() as stack:
        begun = 0
        while gate.room.reads_handed_over_soon():
            stack.enter_context(gate.enter(1, prompt_tokens=300, resumed=True))
            begun += 1
        assert begun > 2 * STEP_TOKENS / 300
    assert idle(gate)


def _forecast_s(gate: Gate) -> float:
    with gate.enter(1, prompt_tokens=10) as entry:
        assert entry.forecast_s is not None
        return entry.forecast_s


@given(st.integers(0, 2**32), st.integers(1, 4))
def test_whatever_comes_and_goes_the_counters_balance_and_nobody_waits_for_ever(
    seed: int, slots: int
) -> None:
    rng = random.Random(seed)

    async def one(gate: Gate) -> QueueEntry | None:
        await asyncio.sleep(rng.random() * 5)
        with suppress(GateFullError):
            entering = gate.enter(
                rng.randint(1, slots), flow=rng.choice([A, B]), resumed=rng.random() < 0.4
            )
            with entering as entry:
                await asyncio.wait({entry.granted}, timeout=rng.choice([0.5, 1000]))
                if not entry.granted.done():
                    return None
                await asyncio.sleep(rng.random())
                return entry
        return None

    async def scene() -> None:
        gate = a_gate(slots=slots, max_queued_requests=5)
        await asyncio.gather(*(one(gate) for _ in range(20)))
        assert idle(gate)

    run_virtual(scene())
