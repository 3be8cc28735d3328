"""The gate: order of arrival, weights, leaving, lowered limits, and counters that balance."""

import asyncio
import random
from contextlib import ExitStack, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.api.gate import Gate, GateFullError, GateLimits
from tests.api.gate_scene import a_request, at_once
from tests.builders import a_gate, idle
from tests.virtual_time import now_s, run_virtual

# Of a whole request.
SHORT = 0.02


def test_requests_start_in_order_of_arrival() -> None:
    log: list[str] = []
    gate = a_gate(slots=1, max_queued_requests=9)
    run_virtual(at_once(*(a_request(gate, name, log) for name in "abcd")))
    assert log == ["a@0", "b@1", "c@2", "d@3"]
    assert idle(gate)


def test_as_many_run_as_there_are_slots() -> None:
    log: list[str] = []
    gate = a_gate(slots=2, max_queued_requests=9)
    run_virtual(at_once(*(a_request(gate, name, log) for name in "abcd")))
    assert log == ["a@0", "b@0", "c@1", "d@1"]


def test_a_large_request_is_not_overtaken_by_small_ones() -> None:
    log: list[str] = []
    gate = a_gate(slots=3, max_queued_requests=9)
    run_virtual(
        at_once(
            a_request(gate, "first", log),
            a_request(gate, "large", log, sequences=3),
            a_request(gate, "small", log),
        )
    )
    assert log == ["first@0", "large@1", "small@2"]


def test_each_sequence_holds_a_slot() -> None:
    async def scene() -> tuple[int, int, bool, bool]:
        gate = a_gate(slots=5)
        with gate.enter(3), gate.enter(1):
            return (
                gate.running_sequences,
                gate.running_requests,
                gate.has_room(1),
                gate.has_room(2),
            )

    assert run_virtual(scene()) == (4, 2, True, False)


def test_the_queue_knows_who_is_ahead() -> None:
    async def scene() -> None:
        gate = a_gate(slots=1)
        with gate.enter(1), gate.enter(1) as first, gate.enter(1) as second:
            assert [gate.ahead_of(first), gate.ahead_of(second)] == [0, 1]
            assert gate.queued_requests == 2
            assert not first.granted.done()

    run_virtual(scene())


def test_a_wait_is_measured_on_the_gates_clock() -> None:
    async def scene() -> float:
        gate = a_gate(slots=1)
        with gate.enter(1), gate.enter(1) as place:
            leaving = asyncio.ensure_future(asyncio.sleep(2.5))
            await leaving
            gate.configure(GateLimits(2, 4, 10.0))
            assert place.granted.done()
            return place.wait_s

    assert run_virtual(scene()) == 2.5


def test_whoever_leaves_the_queue_frees_the_position() -> None:
    async def scene() -> None:
        log: list[str] = []
        gate = a_gate(slots=1, max_queued_requests=2)
        requests = [asyncio.ensure_future(a_request(gate, name, log)) for name in "abc"]
        await asyncio.sleep(0.5)
        assert gate.queued_requests == 2
        requests[1].cancel()
        await asyncio.sleep(0)
        assert gate.queued_requests == 1
        requests.append(asyncio.ensure_future(a_request(gate, "d", log)))
        await asyncio.wait(requests)
        assert log == ["a@0", "c@1", "d@2"]
        assert idle(gate)

    run_virtual(scene())


def test_whoever_leaves_while_running_lets_the_next_one_start_at_once() -> None:
    async def scene() -> None:
        log: list[str] = []
        gate = a_gate(slots=1)
        requests = [asyncio.ensure_future(a_request(gate, name, log)) for name in "ab"]
        await asyncio.sleep(0.25)
        requests[0].cancel()
        await asyncio.wait(requests)
        assert log == ["a@0", "b@0.25"]

    run_virtual(scene())


def test_a_refusal_says_how_many_are_ahead_and_when_to_come_back() -> None:
    async def scene() -> None:
        gate = a_gate(slots=1, max_queued_requests=2, service_s=10.0)
        with gate.enter(1), gate.enter(1), gate.enter(1), pytest.raises(GateFullError) as refused:
            gate.enter(1).__enter__()
        admission = refused.value.admission
        assert (admission.ahead, admission.reason) == (2, "queue_full")
        assert admission.retry_after_s >= 20
        assert idle(gate)

    run_virtual(scene())


def test_short_ones_that_are_due_leave_an_empty_replica_to_short_ones() -> None:
    """A flood of short requests was refused, and is due over minutes: its slots are needed for
    moments each, not for as long as a whole request has one."""

    async def scene() -> None:
        gate = a_gate(slots=4, max_queued_requests=4, service_s=20.0, max_wait_s=5.0)
        flood_of_short_ones(gate, 500)
        assert idle(gate)
        with ExitStack() as stack:
            for _ in range(4):
                stack.enter_context(gate.enter(1, work=SHORT))
            assert gate.running_sequences == 4

    run_virtual(scene())


@pytest.mark.parametrize("others_refused", [100, 500])
def test_whole_ones_leave_short_ones_that_are_due_their_turns(others_refused: int) -> None:
    """They come to the empty replica first, and hold their slots for as long as fifty short ones:
    some of them may, and all short ones are admitted when they come back."""
    outcomes: list[str] = []

    async def come_back(gate: Gate, key: int, refused: GateFullError) -> None:
        # A client that has waited for whole seconds comes some time after.
        await asyncio.sleep(refused.admission.retry_after_s + random.Random(key).random())
        try:
            with gate.enter(1, key=key, work=SHORT) as entry:
                await entry.granted
                outcomes.append("admitted")
                await asyncio.sleep(20.0 * SHORT)
        except GateFullError:
            outcomes.append("refused")

    async def a_whole_one(gate: Gate) -> None:
        with gate.enter(1, work=1.0) as entry:
            await entry.granted
            outcomes.append("whole")
            await asyncio.sleep(20.0)

    async def scene() -> None:
        gate = a_gate(slots=4, max_queued_requests=4, service_s=20.0, max_wait_s=5.0)
        refused = flood_of_short_ones(gate, others_refused)
        whole = [asyncio.ensure_future(a_whole_one(gate)) for _ in range(4)]
        await asyncio.gather(*(come_back(gate, key, full) for key, full in enumerate(refused)))
        await asyncio.gather(*whole, return_exceptions=True)

    run_virtual(scene())
    assert outcomes.count("admitted") == others_refused
    assert 1 <= outcomes.count("whole") < 4


def flood_of_short_ones(gate: Gate, refused: int) -> list[GateFullError]:
    """Eight run and wait, so many are refused, and then the eight are over."""
    with ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(gate.enter(1, work=SHORT))
        return [refusal(gate, key, SHORT) for key in range(refused)]


def refusal(gate: Gate, key: int, work: float) -> GateFullError:
    with pytest.raises(GateFullError) as refused:
        gate.enter(1, key=key, work=work).__enter__()
    return refused.value


def test_those_that_are_due_are_counted_by_their_own_length() -> None:
    """Short ones wait and are due behind whole ones that run: by when a slot is free for them they
    follow each other quickly."""

    async def retry_after_s(*, waiting_work: float) -> float:
        gate = a_gate(slots=2, max_queued_requests=4, service_s=20.0)
        with ExitStack() as stack:
            for work in (1.0, 1.0, *[waiting_work] * 4):
                stack.enter_context(gate.enter(1, work=work))
            refused = [refusal(gate, key, waiting_work) for key in range(100)]
        return refused[-1].admission.retry_after_s

    assert run_virtual(retry_after_s(waiting_work=1.0)) > 900
    assert 20 <= run_virtual(retry_after_s(waiting_work=SHORT)) < 60


def test_a_withdrawn_refusal_no_longer_has_a_reservation() -> None:
    async def scene() -> None:
        gate = a_gate(slots=1, max_queued_requests=0)
        with gate.enter(1):
            with pytest.raises(GateFullError) as first:
                gate.enter(1, key=7).__enter__()
            assert gate.histories.of().reservations.outstanding(now_s()) == 1
            gate.withdraw(first.value)
            gate.withdraw(first.value)
            assert gate.histories.of().reservations.outstanding(now_s()) == 0

    run_virtual(scene())


def test_a_run_teaches_the_gate_how_long_a_whole_request_takes() -> None:
    async def scene() -> None:
        gate = a_gate(service_s=5.0)
        assert not gate.service.measured
        with gate.enter(1, work=0.25) as place:
            await asyncio.sleep(2.0)
            gate.observe_service(place)
        assert (gate.service.mean_s, gate.service.measured) == (pytest.approx(8.0), True)

    run_virtual(scene())


def test_a_request_that_never_ran_teaches_nothing() -> None:
    async def scene() -> None:
        gate = a_gate(slots=1, service_s=5.0)
        with gate.enter(1), gate.enter(1) as waiting:
            gate.observe_service(waiting)
        assert not gate.service.measured

    run_virtual(scene())


def test_short_requests_that_wait_make_the_queue_quick() -> None:
    async def scene() -> list[float]:
        gate = a_gate(slots=1, service_s=8.0)
        with gate.enter(1, work=0.25), gate.enter(1, work=0.25):
            short_s = gate.expected_wait_s()
        with gate.enter(1), gate.enter(1):
            return [short_s, gate.expected_wait_s()]

    assert run_virtual(scene()) == [pytest.approx(4.0), pytest.approx(16.0)]


def test_the_expected_wait_is_nothing_with_capacity_and_grows_with_the_queue() -> None:
    async def scene() -> list[float]:
        gate = a_gate(slots=1, service_s=4.0)
        waits = [gate.expected_wait_s()]
        with gate.enter(1):
            await asyncio.sleep(1.0)
            waits.append(gate.expected_wait_s())
            with gate.enter(1):
                waits.append(gate.expected_wait_s())
        return waits

    assert run_virtual(scene()) == [0.0, 3.0, 7.0]


@given(st.integers(0, 10**6))
def test_whatever_happens_counters_balance_and_nobody_is_lost(seed: int) -> None:
    """Requests of all sizes come, wait, step aside, run, fail and leave while limits change."""
    dice = random.Random(seed)
    ends = {"served": 0, "failed": 0, "left": 0, "refused": 0}

    async def one(gate: Gate) -> None:
        await asyncio.sleep(dice.uniform(0, 20))
        try:
            with gate.enter(dice.randint(1, 3), key=dice.randint(0, 5)) as place:
                while not place.granted.done():
                    await asyncio.wait({place.granted}, timeout=dice.uniform(0.1, 2))
                    if not place.granted.done() and gate.ahead_of(place) == 0:
                        with gate.step_aside(place):
                            await asyncio.sleep(0.05)
                await asyncio.sleep(dice.uniform(0, 3))
                if dice.random() < 0.2:
                    raise ValueError
        except GateFullError:
            ends["refused"] += 1
        except ValueError:
            ends["failed"] += 1
        except asyncio.CancelledError:
            ends["left"] += 1
            raise
        else:
            ends["served"] += 1

    async def disturb(gate: Gate, requests: list[asyncio.Task[None]]) -> None:
        for _ in range(20):
            await asyncio.sleep(1.0)
            gate.configure(GateLimits(dice.randint(1, 6), dice.randint(0, 8), 30.0))
            dice.choice(requests).cancel()

    async def scene() -> Gate:
        gate = a_gate(slots=4)
        requests = [asyncio.create_task(one(gate)) for _ in range(40)]
        await disturb(gate, requests)
        for request in requests:
            with suppress(asyncio.CancelledError):
                await request
        return gate

    assert idle(run_virtual(scene()))
    # Who is cancelled before the first step ends without a word.
    assert 40 - 20 <= sum(ends.values()) <= 40
    assert ends["served"] > 0


def test_a_slot_is_kept_for_one_that_was_refused_and_is_due() -> None:
    """Two answers of 100 s, the second one 95 s after the first. Who was refused meanwhile comes
    back when the first one has ended, and finds its slot free; a new one, and one that another
    replica would forward, do not."""

    async def scene() -> None:
        gate = a_gate(slots=2, max_queued_requests=0, max_wait_s=10.0, service_s=100.0)
        with ExitStack() as stack:
            first = stack.enter_context(gate.enter(1, key=1))
            await asyncio.sleep(95.0)
            stack.enter_context(gate.enter(1, key=2))
            with pytest.raises(GateFullError) as refused:
                gate.enter(1, key=3).__enter__()
            await asyncio.sleep(5.0)
            gate.release(first)
            assert not gate.has_room(1)
            with pytest.raises(GateFullError):
                gate.enter(1, key=4).__enter__()
            await asyncio.sleep(refused.value.admission.retry_after_s - 5.0)
            assert stack.enter_context(gate.enter(1, key=3)).granted.done()

    run_virtual(scene())


@pytest.mark.parametrize("lent", [True, False], ids=["lent", "forwarded"])
def test_what_comes_from_elsewhere_is_not_refused_after_it_was_let_in(lent: bool) -> None:
    """Its replica has looked before (`has_room`, `may_lend`), and does not count as a client that
    was refused and is to retry."""

    async def scene() -> None:
        gate = a_gate(slots=2, max_queued_requests=0, max_wait_s=10.0, service_s=100.0)
        with ExitStack() as stack:
            first = stack.enter_context(gate.enter(1, key=1))
            await asyncio.sleep(95.0)
            stack.enter_context(gate.enter(1, key=2))
            with pytest.raises(GateFullError):
                gate.enter(1, key=3).__enter__()
            gate.release(first)
            come = gate.enter(1, key=4, borrowed=lent, forwarded=not lent)
            assert stack.enter_context(come).granted.done()

    run_virtual(scene())
