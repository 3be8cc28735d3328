"""Retry-After is honest: in virtual time, whoever retries after the stated time is admitted."""

import asyncio
import random
from dataclasses import dataclass, field

import pytest

from serve_app.api.gate import Gate, GateFullError
from tests.builders import a_gate
from tests.virtual_time import now_s, run_virtual

REQUESTS = 200
SLOTS = 8
MEAN_S = 2.0
MAX_WAIT_S = 10.0
# What drains within the longest wait, as `derive_limits` has it.
QUEUED = int(MAX_WAIT_S * SLOTS / MEAN_S)


@dataclass
class Outcome:
    told_s: list[list[int]] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)
    end_s: float = 0.0

    @property
    def refused(self) -> list[list[int]]:
        return [told for told in self.told_s if told]

    @property
    def honest_share(self) -> float:
        return sum(len(told) == 1 for told in self.refused) / len(self.refused)


def overload(
    seed: int,
    *,
    same_body: bool = False,
    steady: bool = False,
    gate: Gate | None = None,
    comes_back: float = 1.0,
) -> Outcome:
    """200 requests at three times what the slots can do; the refused come back when told."""
    dice = random.Random(seed)
    outcome = Outcome()
    gate = gate or a_gate(
        slots=SLOTS, max_queued_requests=QUEUED, max_wait_s=MAX_WAIT_S, service_s=MEAN_S
    )

    async def client(name: int, arrival_s: float) -> None:
        await asyncio.sleep(arrival_s)
        told: list[int] = []
        outcome.told_s.append(told)
        while True:
            came_s = now_s()
            try:
                with gate.enter(1, key=0 if same_body else name) as place:
                    await asyncio.wait({place.granted})
                    outcome.waits_s.append(now_s() - came_s)
                    hold_s = MEAN_S if steady else dice.expovariate(1 / MEAN_S)
                    await asyncio.sleep(hold_s)
                    gate.observe_service(place)
                return
            except GateFullError as refused:
                told.append(refused.admission.retry_after_s)
                if dice.random() >= comes_back:
                    return
                await asyncio.sleep(refused.admission.retry_after_s + dice.uniform(0, 0.02))

    async def scene() -> None:
        arrival_s, clients = 0.0, []
        for name in range(REQUESTS):
            clients.append(client(name, arrival_s))
            arrival_s += dice.expovariate(3 * SLOTS / MEAN_S)
        await asyncio.gather(*clients)
        outcome.end_s = now_s()
        assert (gate.running_requests, gate.queued_requests) == (0, 0)

    run_virtual(scene())
    return outcome


@pytest.mark.parametrize("same_body", [False, True], ids=["distinct bodies", "identical bodies"])
def test_nine_of_ten_who_retry_after_the_stated_time_are_admitted(same_body: bool) -> None:
    outcomes = [overload(seed, same_body=same_body) for seed in range(5)]
    shares = [outcome.honest_share for outcome in outcomes]
    assert min(len(outcome.refused) for outcome in outcomes) >= 50
    assert sum(shares) / len(shares) >= 0.9
    assert min(shares) >= 0.8


def test_with_equal_requests_everyone_who_comes_back_is_admitted() -> None:
    assert overload(1, steady=True).honest_share == 1.0


def test_honesty_leaves_the_slots_busy() -> None:
    outcome = overload(2, steady=True)
    assert outcome.end_s <= 1.1 * REQUESTS * MEAN_S / SLOTS + MEAN_S


def test_nobody_waits_much_longer_than_the_longest_wait() -> None:
    assert max(wait_s for seed in range(5) for wait_s in overload(seed).waits_s) <= 1.5 * MAX_WAIT_S


def test_the_stated_times_hold_when_the_derived_service_time_was_wrong() -> None:
    for derived_s in (MEAN_S / 5, MEAN_S * 5):
        gate = a_gate(
            slots=SLOTS, max_queued_requests=QUEUED, max_wait_s=MAX_WAIT_S, service_s=derived_s
        )
        assert overload(3, gate=gate).honest_share >= 0.9


def test_where_nobody_retries_the_stated_times_do_not_grow_for_ever() -> None:
    outcome = overload(4, comes_back=0.0)
    longest_s = max(told[0] for told in outcome.refused)
    assert longest_s <= len(outcome.refused) * MEAN_S / SLOTS
