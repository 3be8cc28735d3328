"""How long a replica is kept, and how much of a rush is believed to stay: both learnt, bounded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.scaling.scaling_memory import (
    LULLS_KEPT,
    RETURN_COSTS_STARTS,
    ScalingMemory,
    held_replicas,
    hold_s,
    remember_arrivals,
    remember_need,
    remember_target,
)

START_S = 40.0


def hold(lulls_s: list[float]) -> float:
    memory = ScalingMemory(lulls_s=tuple(lulls_s))
    return hold_s(memory, start_s=START_S, least_s=60.0, most_s=600.0)


def needs(counts: dict[float, int], memory: ScalingMemory | None = None) -> ScalingMemory:
    memory = memory or ScalingMemory()
    for now_s, needed in counts.items():
        memory = remember_need(
            memory, now_s, needed, target=needed, shortest_s=60.0, longest_s=1200.0
        )
    return memory


def rush_every(period_s: float, *, lasts_s: float, minutes: int) -> ScalingMemory:
    memory = ScalingMemory()
    for second in range(60 * minutes):
        excess_rps = 10.0 if second % period_s < lasts_s else 0.0
        memory = remember_arrivals(
            memory,
            float(second),
            level_rps=2.0,
            excess_rps=excess_rps,
            start_s=START_S,
            within_s=200.0,
        )
    return memory


def test_a_first_hold_costs_as_much_as_a_return() -> None:
    assert hold([]) == pytest.approx(RETURN_COSTS_STARTS * START_S)


def test_lulls_that_ended_soon_are_bridged() -> None:
    assert hold([180.0] * 8) >= 198.0 - 1e-9
    assert hold([220.0] * 12) > 220.0


def test_lulls_that_are_too_long_to_bridge_are_not_paid_for() -> None:
    assert hold([900.0] * 8) == 60.0


@given(st.lists(st.floats(1, 5000), max_size=LULLS_KEPT))
def test_the_hold_is_bounded(lulls_s: list[float]) -> None:
    assert 60.0 <= hold(lulls_s) <= 600.0


@given(st.lists(st.floats(61, 590), min_size=1, max_size=LULLS_KEPT))
def test_no_other_hold_would_have_cost_much_less(lulls_s: list[float]) -> None:
    """For these lulls alone; beside them a few are expected."""

    def cost_s(kept_s: float) -> float:
        return_s = RETURN_COSTS_STARTS * START_S
        return sum(lull if lull <= kept_s else kept_s + return_s for lull in lulls_s)

    best = min(cost_s(kept_s) for kept_s in [60.0, *lulls_s, 600.0])
    expected_s = 4 * 2 * RETURN_COSTS_STARTS * START_S
    assert cost_s(hold(lulls_s)) <= best + expected_s


def test_a_lull_is_from_when_a_replica_was_needed_until_it_is_again() -> None:
    changes = {0: 3, 10: 1, 210: 2, 220: 1, 225: 2, 3000: 3}
    counts, needed = {}, 0
    for second in range(3001):
        needed = changes.get(second, needed)
        counts[float(second)] = needed
    memory = needs(counts)
    assert memory.lulls_s == (201.0,), "not of 5 s, and the third came back after an hour"
    assert memory.needed_s == (3000.0, 3000.0, 3000.0)


def test_as_many_are_kept_as_were_needed_within_the_hold() -> None:
    memory = needs({0.0: 4, 100.0: 2})
    assert [held_replicas(memory.needed_s, now_s, 150.0) for now_s in (120.0, 160.0, 300.0)] == [
        4,
        2,
        0,
    ]


def test_what_there_is_at_the_beginning_was_needed() -> None:
    memory = remember_need(ScalingMemory(), 50.0, 1, target=3, shortest_s=60.0, longest_s=1200.0)
    assert memory.needed_s == (50.0, 50.0, 50.0)


def test_a_rush_that_comes_back_is_believed_and_one_that_does_not_is_not() -> None:
    recurring = rush_every(100.0, lasts_s=10.0, minutes=30)
    once_an_hour = rush_every(3600.0, lasts_s=10.0, minutes=30)
    assert recurring.persistence > 0.9
    assert once_an_hour.persistence < ScalingMemory().persistence
    never = rush_every(700.0, lasts_s=10.0, minutes=120)
    assert never.persistence < 0.1


@given(st.lists(st.tuples(st.floats(0, 50), st.floats(0, 500)), max_size=200))
def test_persistence_is_a_share_whatever_comes(arrivals: list[tuple[float, float]]) -> None:
    memory = ScalingMemory()
    for second, (level_rps, excess_rps) in enumerate(arrivals):
        memory = remember_arrivals(
            memory,
            3.0 * second,
            level_rps=level_rps,
            excess_rps=excess_rps,
            start_s=START_S,
            within_s=100.0,
        )
    assert 0.0 <= memory.persistence <= 1.0
    assert len(memory.rushes) <= 2 + (START_S + 100.0) / 2


def test_replicas_that_the_tier_cannot_have_teach_nothing() -> None:
    """A burst that would need forty where four is the most: their lulls are nobody's."""
    memory = ScalingMemory()
    for now_s, needed in ((0.0, 40), (100.0, 1), (300.0, 40)):
        memory = remember_need(memory, now_s, needed, target=4, shortest_s=60.0, longest_s=1200.0)
    assert memory.needed_s == (300.0,) * 4
    assert len(memory.lulls_s) <= 5


def test_what_was_kept_in_vain_shortens_the_hold() -> None:
    """Four replicas in turn were needed and never again: a load that goes down to stay."""
    steps = {0: 5, 10: 4, 500: 3, 1000: 2, 1500: 1}
    counts, needed = {}, 0
    for second in range(0, 3001, 10):
        needed = steps.get(second, needed)
        counts[float(second)] = needed
    assert needs({at_s: n for at_s, n in counts.items() if at_s <= 1200}).vain_s == ()
    memory = needs(counts)
    assert memory.vain_s == (1200.0,) * 4
    assert memory.lulls_s == ()
    assert hold_s(memory, start_s=START_S, least_s=60.0, most_s=600.0) == 60.0


def orders(targets: list[tuple[float, int]]) -> ScalingMemory:
    memory = ScalingMemory()
    for now_s, target in targets:
        memory = remember_target(memory, now_s, target, start_s=START_S)
    return memory


def test_what_has_been_ordered_was_needed() -> None:
    memory = orders([(0.0, 1), (100.0, 3)])
    assert held_replicas(memory.surely_s, 150.0, 60.0) == 2, "the first was there before"
    assert memory.surely_s[1:] == (100.0, 100.0)


def test_a_replica_that_is_ordered_again_soon_was_given_back_too_early() -> None:
    soon = orders([(0.0, 2), (100.0, 1), (180.0, 2)])
    assert soon.orders.regretted == {1}
    late = orders([(0.0, 2), (100.0, 1), (300.0, 2)])
    assert late.orders.regretted == frozenset()
    more = orders([(0.0, 2), (100.0, 1), (180.0, 2), (200.0, 4)])
    assert more.orders.regretted == {1}, "the others are new"
    again = orders([(0.0, 2), (100.0, 1), (180.0, 2), (900.0, 1), (2000.0, 2)])
    assert again.orders.regretted == frozenset(), "forgotten when it is given back"


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 9)), max_size=40))
def test_of_orders_no_more_is_remembered_than_there_were_replicas(
    steps: list[tuple[int, int]],
) -> None:
    now_s, targets = 0.0, [(0.0, 3)]
    for passed_s, target in steps:
        now_s += passed_s
        targets.append((now_s, target))
    memory, most = orders(targets), max(target for _, target in targets)
    assert memory.orders.target == targets[-1][1]
    assert all(0 <= at < targets[-1][1] for at in memory.orders.regretted)
    assert len(memory.surely_s) <= most
    assert len(memory.orders.given_back_s) <= most
