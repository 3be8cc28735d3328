"""The gate among several flows: who starts, who is refused, and that one flow is a plain queue."""

import asyncio
import random
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.api.gate import Gate, GateFullError
from serve_app.api.queue_entry import QueueEntry
from serve_app.core.admission.fair_queue import FairQueue
from serve_app.core.admission.fairness import ANONYMOUS, Flow, Standing
from serve_app.core.admission.kv_pool import NO_LIMIT
from tests.api.gate_scene import at_once
from tests.builders import a_gate, a_reading_gate, idle
from tests.virtual_time import now_s, run_virtual

FLOOD, LIGHT = Flow("flood"), Flow("light")
SEEDS = st.integers(0, 10**6)


def flooded(gate: Gate, running: ExitStack, requests: int = 200) -> int:
    """How many of so many of the flood's requests are admitted."""
    admitted = 0
    for _ in range(requests):
        with suppress(GateFullError):
            running.enter_context(gate.enter(1, flow=FLOOD, max_new_tokens=100, prompt_tokens=100))
            admitted += 1
    return admitted


async def a_request(gate: Gate, flow: Flow, log: list[str], *, hold_s: float = 1.0) -> None:
    with gate.enter(1, flow=flow) as place:
        await asyncio.wait({place.granted})
        log.append(f"{flow.name}@{now_s():g}")
        await asyncio.sleep(hold_s)


def test_flows_take_turns() -> None:
    log: list[str] = []
    gate = a_gate(slots=1, max_queued_requests=9)
    flows = [FLOOD, FLOOD, FLOOD, LIGHT, LIGHT]
    run_virtual(at_once(*(a_request(gate, flow, log) for flow in flows)))
    assert log == ["flood@0", "light@1", "flood@2", "light@3", "flood@4"]
    assert idle(gate)


def test_heartbeats_say_the_position_in_the_order_of_service() -> None:
    async def scene() -> None:
        gate = a_gate(slots=1, max_queued_requests=9)
        with (
            gate.enter(1, flow=FLOOD),
            gate.enter(1, flow=FLOOD) as first,
            gate.enter(1, flow=FLOOD) as second,
            gate.enter(1, flow=LIGHT) as late,
        ):
            assert [gate.ahead_of(entry) for entry in (late, first, second)] == [0, 1, 2]
            assert gate.is_head(late)

    run_virtual(scene())


def test_a_flood_is_refused_by_its_own_queue_and_nobody_else_is() -> None:
    async def scene() -> None:
        gate = a_gate(slots=8, max_queued_requests=16, max_wait_s=10.0, service_s=2.0)
        with ExitStack() as running:
            assert flooded(gate, running) == 8 + 16
            with pytest.raises(GateFullError) as refused:
                running.enter_context(gate.enter(1, flow=FLOOD))
            assert refused.value.admission.reason == "queue_full"
            waits = [running.enter_context(gate.enter(1, flow=LIGHT)) for _ in range(8)]
            assert [gate.ahead_of(entry) for entry in waits[:3]] == [0, 2, 4]
            assert gate.queued_requests == 16 + 8
        assert idle(gate)

    run_virtual(scene())


def test_a_light_flow_is_not_refused_for_answers_of_minutes() -> None:
    async def scene() -> None:
        gate = a_gate(slots=8, max_queued_requests=16, max_wait_s=1.0, service_s=300.0)
        with ExitStack() as running:
            assert flooded(gate, running) >= 8
            for _ in range(4):
                running.enter_context(gate.enter(1, flow=LIGHT))
            with pytest.raises(GateFullError):
                running.enter_context(gate.enter(1, flow=LIGHT))

    run_virtual(scene())


def test_a_flood_of_long_prompts_refuses_only_itself() -> None:
    async def scene() -> None:
        gate = a_reading_gate(slots=64, max_wait_s=10.0, prompt_token_ms=1.0)
        with ExitStack() as running:
            for _ in range(100):
                with suppress(GateFullError):
                    running.enter_context(gate.enter(1, flow=FLOOD, prompt_tokens=2000))
            assert gate.queued_requests == 2
            with pytest.raises(GateFullError):
                running.enter_context(gate.enter(1, flow=FLOOD, prompt_tokens=2000))
            light = running.enter_context(gate.enter(1, flow=LIGHT, prompt_tokens=100))
            assert gate.is_head(light)

    run_virtual(scene())


def test_the_engine_has_less_to_read_once_there_are_several_flows() -> None:
    async def scene(others: bool) -> int:
        gate = a_reading_gate(slots=64, max_wait_s=10.0, prompt_token_ms=0.01, step_ms=1.0)
        if others:
            with gate.enter(1, flow=LIGHT):
                pass
        with ExitStack() as running:
            for _ in range(100):
                with suppress(GateFullError):
                    running.enter_context(gate.enter(1, flow=FLOOD, prompt_tokens=1000))
            return gate.running_requests

    assert run_virtual(scene(others=True)) == 3
    assert run_virtual(scene(others=False)) > 30


def test_a_light_flow_runs_above_the_limit_of_slots_and_a_flood_does_not() -> None:
    async def scene() -> None:
        gate = a_gate(slots=8, max_queued_requests=16, service_s=2.0)
        gate.configure(replace(gate.limits, express_slots=2))
        with ExitStack() as running:
            flooded(gate, running)
            assert gate.running_sequences == 8
            assert gate.has_room(1, LIGHT)
            assert not gate.has_room(1, FLOOD)
            light = [running.enter_context(gate.enter(1, flow=LIGHT)) for _ in range(3)]
            assert [entry.granted.done() for entry in light] == [True, True, False]
            assert not gate.has_room(1, LIGHT)
            # The flood makes up for it: the next slot that comes free is not its own.
            flood = next(entry for entry in gate._running if entry.flow is FLOOD)
            gate.release(flood)
            assert gate.running_sequences == 10
            assert light[2].granted.done()
        assert idle(gate)

    run_virtual(scene())


def test_a_request_for_all_slots_is_overtaken_a_few_times_and_not_for_ever() -> None:
    async def scene() -> None:
        gate = a_gate(slots=4, max_queued_requests=64, service_s=10.0)
        gate.configure(replace(gate.limits, express_slots=2))
        with (
            gate.enter(4, flow=FLOOD) as first,
            gate.enter(4, flow=FLOOD) as second,
            ExitStack() as running,
        ):
            gate.release(first)
            assert second.granted.done()
            third = running.enter_context(gate.enter(4, flow=FLOOD))
            light = [running.enter_context(gate.enter(1, flow=LIGHT)) for _ in range(20)]
            begun = 0
            while not third.granted.done():
                await asyncio.sleep(1.0)
                for entry in [second, *(entry for entry in light if entry.granted.done())]:
                    gate.release(entry)
                begun = sum(entry.granted.done() for entry in light)
            assert 2 <= begun <= 12

    run_virtual(scene())


def test_reservations_of_the_refused_are_kept_by_flow() -> None:
    async def scene() -> None:
        gate = a_gate(slots=1, max_queued_requests=0)
        with gate.enter(1, flow=FLOOD):
            with pytest.raises(GateFullError) as refused:
                gate.enter(1, key=7, flow=FLOOD).__enter__()
            assert gate.histories.of(FLOOD).reservations.outstanding(now_s()) == 1
            assert gate.histories.of(LIGHT).reservations.outstanding(now_s()) == 0
            gate.withdraw(refused.value)
            assert gate.histories.of(FLOOD).reservations.outstanding(now_s()) == 0

    run_virtual(scene())


@dataclass(slots=True)
class PlainQueue:
    """First in, first out: what the gate's queue is for one flow."""

    waiting: deque[QueueEntry] = field(default_factory=deque[QueueEntry])
    running: int = 0
    known_flows: int = 1

    def __len__(self) -> int:
        return len(self.waiting)

    def __iter__(self) -> Iterator[QueueEntry]:
        return iter(self.waiting)

    @property
    def prompt_tokens(self) -> float:
        return sum(entry.prompt_tokens for entry in self.waiting)

    def first(self) -> QueueEntry | None:
        return self.waiting[0] if self.waiting else None

    def push(self, entry: QueueEntry) -> None:
        self.waiting.append(entry)

    def start(self, entry: QueueEntry) -> None:
        assert self.waiting.popleft() is entry

    def end(self, entry: QueueEntry, took_s: float) -> None:
        assert took_s >= 0

    def remove(self, entry: QueueEntry) -> None:
        self.waiting.remove(entry)

    def put_back(self, entry: QueueEntry) -> None:
        self.waiting = deque(sorted((*self.waiting, entry), key=lambda one: one.arrival))

    def ahead_of(self, entry: QueueEntry) -> int:
        return self.waiting.index(entry)

    def standing(self, _: Flow) -> Standing:
        tokens = self.prompt_tokens
        return Standing(len(self.waiting), tokens_ahead=tokens, own_tokens=tokens)

    def first_below_share(self, *_: Any, **__: Any) -> None:
        """Nobody starts before his turn."""

    def is_below_share(self, *_: Any) -> bool:
        return False


@settings(max_examples=30)
@given(SEEDS)
def test_with_one_flow_every_decision_is_that_of_a_plain_queue(seed: int) -> None:
    """Whatever comes, leaves, steps aside, and however limits change."""
    plain = run_virtual(_played(seed, cast("FairQueue[QueueEntry]", PlainQueue()), [ANONYMOUS]))
    assert run_virtual(_played(seed, FairQueue(), [ANONYMOUS])) == plain


@settings(max_examples=30)
@given(SEEDS)
def test_with_many_flows_nobody_is_lost_and_no_slot_idle_while_one_waits(seed: int) -> None:
    flows = [FLOOD, LIGHT, Flow("heavy", 3.0), ANONYMOUS]
    log = run_virtual(_played(seed, FairQueue(), flows, express_slots=2, kv_tokens=0))
    assert (
        sum(line.startswith("ended") for line in log)
        + sum(line.startswith("refused") for line in log)
        == 50
    )


async def _played(
    seed: int,
    queue: FairQueue[QueueEntry],
    flows: list[Flow],
    *,
    express_slots: int = 0,
    kv_tokens: int = 4000,
) -> list[str]:
    """What became of 50 requests, in order of time."""
    dice = random.Random(seed)
    gate = a_reading_gate(slots=4, max_queued_requests=8, max_wait_s=15.0, kv_tokens=kv_tokens)
    gate._queue = queue
    gate.configure(replace(gate.limits, express_slots=express_slots))
    log: list[str] = []
    aside: set[int] = set()

    def check() -> None:
        head = gate._queue.first()
        # What a KV pool has room for changes with the time, and is looked at when something ends;
        # who steps aside is back within a moment.
        if head is None or kv_tokens or aside:
            return
        assert gate.room is not None
        fits = gate.running_sequences + head.sequences <= gate.limits.slots
        assert not (
            fits
            and gate.room.takes(head.sequences, head.prompt_tokens, head.max_new_tokens or NO_LIMIT)
        )

    async def one(number: int, own: random.Random, flow: Flow) -> None:
        await asyncio.sleep(own.uniform(0, 30))
        try:
            entering = gate.enter(
                own.randint(1, 3),
                key=number % 7,
                retried=own.random() < 0.2,
                work=own.uniform(0.1, 1),
                max_new_tokens=own.randint(1, 300),
                prompt_tokens=own.randint(1, 1500),
                flow=flow,
            )
            with entering as place:
                while not place.granted.done():
                    check()
                    await asyncio.wait({place.granted}, timeout=own.uniform(0.1, 2))
                    if own.random() < 0.05:
                        break
                    if not place.granted.done() and gate.is_head(place):
                        assert gate.ahead_of(place) == 0
                        with gate.step_aside(place):
                            aside.add(number)
                            await asyncio.sleep(0.05)
                            aside.discard(number)
                log.append(f"began {number} at {now_s():.9f} {place.forecast_s}")
                await asyncio.sleep(own.uniform(0, 1))
                gate.first_token(place)
                await asyncio.sleep(own.uniform(0, 3))
                gate.observe_service(place)
            log.append(f"ended {number} at {now_s():.9f}")
        except GateFullError as full:
            log.append(f"refused {number} {full.admission}")

    async def disturb() -> None:
        for _ in range(10):
            await asyncio.sleep(3.0)
            slots, places = dice.randint(1, 6), dice.randint(0, 8)
            gate.configure(replace(gate.limits, slots=slots, max_queued_requests=places))

    requests = [
        one(number, random.Random(dice.random()), dice.choice(flows)) for number in range(50)
    ]
    await asyncio.gather(disturb(), *requests)
    assert idle(gate)
    assert not list(gate._queue)
    return log
