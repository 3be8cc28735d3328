"""The gate lets the engine have only what it reads soon and what its KV pool will hold."""

import asyncio
import random
from contextlib import ExitStack, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.api.gate import Gate, GateFullError, GateLimits, QueueEntry
from tests.builders import a_reading_gate
from tests.virtual_time import now_s, run_virtual


def test_a_second_prompt_waits_until_the_first_one_is_nearly_read() -> None:
    async def scene() -> None:
        gate = a_reading_gate()
        with gate.enter(1, prompt_tokens=2000) as first, gate.enter(1, prompt_tokens=10) as second:
            assert (first.granted.done(), second.granted.done()) == (True, False)
            assert not gate.has_room(1)
            assert gate.queued_requests == 1
            await asyncio.sleep(2.0)
            gate.first_token(first)
            assert second.granted.done()
            assert first.first_token_s == pytest.approx(now_s())

    run_virtual(scene())


def test_short_prompts_go_together() -> None:
    async def scene() -> None:
        gate = a_reading_gate()
        with gate.enter(1, prompt_tokens=100) as first, gate.enter(1, prompt_tokens=100) as second:
            assert first.granted.done()
            assert second.granted.done()

    run_virtual(scene())


def test_a_prompt_that_takes_longer_than_the_wait_runs_alone() -> None:
    async def scene() -> None:
        gate = a_reading_gate(max_wait_s=1.0)
        with gate.enter(1, prompt_tokens=5000) as huge:
            assert huge.granted.done()
            with pytest.raises(GateFullError) as refused:
                gate.enter(1, prompt_tokens=10).__enter__()
        assert refused.value.admission.reason == "wait_too_long"
        assert refused.value.admission.retry_after_s >= 4

    run_virtual(scene())


def test_what_is_read_already_is_not_waited_for() -> None:
    async def scene() -> list[float]:
        gate = a_reading_gate()
        with gate.enter(1, prompt_tokens=2000):
            waits = [gate.expected_wait_s()]
            await asyncio.sleep(1.5)
            return [*waits, gate.expected_wait_s()]

    first_s, later_s = run_virtual(scene())
    assert first_s - later_s == pytest.approx(1.5)


def test_an_aborted_request_leaves_nothing_to_be_read() -> None:
    async def scene() -> None:
        gate = a_reading_gate()
        with gate.enter(1, prompt_tokens=3000):
            waiting = gate.enter(1, prompt_tokens=3000)
            with waiting:
                assert gate.expected_wait_s() > 5
            assert gate.expected_wait_s() < 4
        assert gate.has_room(1)
        assert_empty(gate)

    run_virtual(scene())


def test_what_the_engine_counts_replaces_the_estimate() -> None:
    async def scene() -> None:
        gate = a_reading_gate()
        with gate.enter(1, prompt_tokens=3000) as place, gate.enter(1) as second:
            gate.prompt_counted(place, 100)
            assert place.prompt_tokens == 100
            gate.first_token(place)
            assert second.granted.done()
        assert_empty(gate)

    run_virtual(scene())


def test_sequences_of_a_request_share_their_prompt() -> None:
    async def scene() -> float:
        gate = a_reading_gate()
        with gate.enter(4, prompt_tokens=1000):
            return gate.expected_wait_s()

    assert run_virtual(scene()) == pytest.approx(1.0, rel=0.1)


def test_slow_reading_is_learnt() -> None:
    async def scene() -> float:
        gate = a_reading_gate()
        for _ in range(40):
            with gate.enter(1, prompt_tokens=500) as place:
                await asyncio.sleep(3 * 0.51)
                gate.first_token(place)
        with gate.enter(1, prompt_tokens=1000):
            return gate.expected_wait_s()

    assert run_virtual(scene()) == pytest.approx(3.0, rel=0.1)


def test_a_pool_that_would_not_hold_another_one_keeps_it_at_the_gate() -> None:
    async def scene() -> None:
        gate = a_reading_gate(kv_tokens=1000)
        with (
            gate.enter(1, prompt_tokens=300, max_new_tokens=200) as first,
            gate.enter(1, prompt_tokens=300, max_new_tokens=200) as second,
            gate.enter(1, prompt_tokens=300, max_new_tokens=200) as third,
        ):
            for place in (first, second):
                gate.first_token(place)
            assert [place.granted.done() for place in (first, second, third)] == [True, True, False]
            assert not gate.has_room(1)

    run_virtual(scene())


def test_how_long_a_request_ran_is_counted_in_tokens() -> None:
    """100 tokens take 1 s alone and 3.4 s beside seven others, which is when they will end."""

    async def serve(gate: Gate, requests: int, took_s: float) -> None:
        with ExitStack() as stack:
            entries = [stack.enter_context(gate.enter(1, prompt_tokens=0)) for _ in range(requests)]
            for entry in entries:
                gate.first_token(entry)
            await asyncio.sleep(took_s)
            for entry in entries:
                gate.observe_service(entry)

    async def scene() -> tuple[float, float]:
        gate = a_reading_gate(per_sequence_ms=3.0)
        for _ in range(5):
            await serve(gate, 1, 100 * 0.013)
        assert gate.room is not None
        alone_tokens = gate.room.served.mean_s
        with ExitStack() as stack:
            for _ in range(8):
                gate.first_token(stack.enter_context(gate.enter(1, prompt_tokens=0)))
            await asyncio.sleep(2.4)
            return alone_tokens, gate.drain().start_in_s(0)

    alone_tokens, left_s = run_virtual(scene())
    assert alone_tokens == pytest.approx(100, rel=0.01)
    assert left_s == pytest.approx(1.0, rel=0.05)


def test_when_a_flood_begins_its_prompts_are_known_to_take_time() -> None:
    """Eight requests of 0.4 s of prompt and 100 steps of 10 ms each: while eight prompts are read,
    a stream gets its 100 tokens."""

    async def scene() -> float:
        gate = a_reading_gate(prompt_token_ms=1.0)
        with gate.enter(1, prompt_tokens=400), gate.enter(1, prompt_tokens=400):
            return gate.drain().service_s

    assert run_virtual(scene()) == pytest.approx(8 * 0.4 + 100 * 0.01, rel=0.05)


@pytest.mark.parametrize("prompt_tokens", [2_000, 30_000, 150_000])
def test_one_huge_prompt_says_nothing_of_those_to_come(prompt_tokens: int) -> None:
    async def full_token_s(prompts: list[int]) -> float:
        gate = a_reading_gate(prompt_token_ms=0.1, max_wait_s=600.0)
        assert gate.room is not None
        with ExitStack() as stack:
            for tokens in prompts:
                stack.enter_context(gate.enter(1, prompt_tokens=tokens))
            assert gate.running_sequences == len(prompts)
            return gate.room._full_token_s(8, 100.0)

    normal_s = run_virtual(full_token_s([100] * 6))
    odd_s = run_virtual(full_token_s([*[100] * 5, prompt_tokens]))
    assert normal_s < odd_s < 1.1 * normal_s


def test_the_engines_own_steps_count_and_not_what_its_speed_says() -> None:
    """Derived are 10 ms a step, and it takes 25: 100 tokens of one answer take 2.5 s, of which
    another one has 2 s to go after 20 steps. So it is forecast before its speed is learnt."""

    async def scene() -> tuple[float, float]:
        gate = a_reading_gate(slots=1, expected_new_tokens=100)
        meter, room = gate.demand, gate.room
        assert meter is not None
        assert room is not None

        async def steps(count: int) -> None:
            for _ in range(count):
                await asyncio.sleep(0.025)
                meter.step(took_ms=25.0, sequences=1, prompt_tokens=0)

        with gate.enter(1, prompt_tokens=0) as first:
            gate.first_token(first)
            await steps(100)
            gate.observe_service(first)
        with gate.enter(1, prompt_tokens=0) as second:
            gate.first_token(second)
            await steps(20)
            return room.served.mean_s, gate.drain().start_in_s(0)

    served_tokens, left_s = run_virtual(scene())
    assert served_tokens == pytest.approx(100)
    assert left_s == pytest.approx(80 * 0.025, rel=0.01)


def test_a_pause_makes_no_tokens() -> None:
    async def scene() -> float:
        gate = a_reading_gate(slots=1)
        assert gate.demand is not None
        assert gate.room is not None
        gate.demand.step(took_ms=10.0, sequences=1, prompt_tokens=0)
        await asyncio.sleep(100.0)
        with gate.enter(1, prompt_tokens=0) as entry:
            gate.first_token(entry)
            for _ in range(50):
                await asyncio.sleep(0.01)
                gate.demand.step(took_ms=10.0, sequences=1, prompt_tokens=0)
            gate.observe_service(entry)
        return gate.room.served.mean_s

    assert run_virtual(scene()) == pytest.approx(50)


def test_before_any_answer_has_ended_nobody_waits_for_those_that_run_on() -> None:
    """Expected are 100 tokens, 1 s; after 20 s of eight of them, the next end is far."""

    async def scene() -> None:
        gate = a_reading_gate()
        with ExitStack() as stack:
            for _ in range(8):
                gate.first_token(
                    stack.enter_context(gate.enter(1, prompt_tokens=0, max_new_tokens=4000))
                )
            with gate.enter(1, prompt_tokens=0, max_new_tokens=4000) as waits:
                assert not waits.granted.done()
            await asyncio.sleep(20.0)
            with pytest.raises(GateFullError) as refused:
                gate.enter(1, prompt_tokens=0, max_new_tokens=4000).__enter__()
            assert refused.value.admission.reason == "wait_too_long"
            # None can run for longer than 40 s.
            assert 10 <= refused.value.admission.retry_after_s <= 40

    run_virtual(scene())


def test_a_prompt_that_the_pool_has_no_room_for_does_not_run_at_once() -> None:
    """A typical one would fit; what is known of this one counts."""

    async def scene() -> None:
        gate = a_reading_gate(kv_tokens=1000, expected_new_tokens=100)
        with gate.enter(1, prompt_tokens=100, max_new_tokens=100) as first:
            gate.first_token(first)
            assert gate.has_room(1)
            with gate.enter(1, prompt_tokens=800, max_new_tokens=100) as long:
                assert not long.granted.done()

    run_virtual(scene())


def test_a_request_that_released_its_slots_teaches_no_more_than_it_ran() -> None:
    async def scene() -> Gate:
        gate = a_reading_gate()
        with gate.enter(1, prompt_tokens=0) as entry:
            gate.first_token(entry)
            await asyncio.sleep(1.0)
            gate.release(entry)
            await asyncio.sleep(5.0)
            gate.observe_service(entry)
        return gate

    room = run_virtual(scene()).room
    assert room is not None
    assert room.served.mean_s == pytest.approx(100, rel=0.01)


def test_nothing_is_lent_behind_prompts_or_beside_slow_streams() -> None:
    async def scene() -> list[str]:
        gate = a_reading_gate()
        reasons = [gate.may_lend(1, 100).reason, gate.may_lend(1, 3000).reason]
        slow = a_reading_gate(step_ms=150.0)
        reasons.append(slow.may_lend(1, 100).reason)
        with gate.enter(1, prompt_tokens=900):
            reasons.append(gate.may_lend(1, 10).reason)
        return reasons

    idle, long, slow, busy = run_virtual(scene())
    assert idle == "slots are idle"
    assert "would begin in 3." in long
    assert "a token" in slow
    assert "enough to do" in busy


@given(st.integers(0, 10**6))
def test_whatever_happens_the_books_balance(seed: int) -> None:
    """Requests come, are read, counted, step aside, fail and leave while limits change."""
    dice = random.Random(seed)
    served = 0

    async def one(gate: Gate) -> None:
        nonlocal served
        await asyncio.sleep(dice.uniform(0, 20))
        sequences, limit = dice.randint(1, 3), dice.randint(1, 500)
        tokens = dice.choice([None, dice.uniform(1, 4000)])
        with (
            suppress(GateFullError),
            gate.enter(sequences, max_new_tokens=limit, prompt_tokens=tokens) as place,
        ):
            while not place.granted.done():
                await asyncio.wait({place.granted}, timeout=dice.uniform(0.1, 2))
                if not place.granted.done() and gate.ahead_of(place) == 0:
                    with gate.step_aside(place):
                        await asyncio.sleep(0.05)
            await read(gate, place)
            served += 1

    async def read(gate: Gate, place: QueueEntry) -> None:
        if dice.random() < 0.7:
            gate.prompt_counted(place, dice.randint(1, 4000))
        await asyncio.sleep(dice.uniform(0, 2))
        for _ in range(dice.randint(0, 2)):
            gate.first_token(place)
        await asyncio.sleep(dice.uniform(0, 3))

    async def scene() -> Gate:
        gate = a_reading_gate(slots=4, kv_tokens=8000, max_wait_s=60.0)
        requests = [asyncio.create_task(one(gate)) for _ in range(40)]
        for _ in range(20):
            await asyncio.sleep(1.0)
            gate.configure(GateLimits(dice.randint(1, 6), 40, 60.0, kv_tokens=8000))
            dice.choice(requests).cancel()
        await asyncio.gather(*requests, return_exceptions=True)
        return gate

    assert_empty(run_virtual(scene()))
    assert served > 0


def assert_empty(gate: Gate) -> None:
    room = gate.room
    assert room is not None
    assert (gate.running_sequences, gate.queued_requests, room.sequences) == (0, 0, 0)
    ahead = room.ahead(0.0, 0.0)
    assert ahead.engine_s == pytest.approx(0.0, abs=1e-6)
    assert ahead.open
    assert gate.expected_wait_s() == 0.0
