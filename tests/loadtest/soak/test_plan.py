"""How the time is divided, and whose turn it is."""

import pytest

from loadtest.soak.plan import FAULTS, HOUR_S, next_turn, plan_for


def played(hours: float, *, each_takes_s: float) -> list[str]:
    """The faults of a soak in which each is over after so many seconds."""
    plan, now_s, names = plan_for(hours), 0.0, []
    now_s += plan.calibration_s + plan.warm_up_s
    while now_s < plan.duration_s:
        turn = next_turn(plan, FAULTS, len(names), now_s + plan.baseline_s)
        now_s += plan.baseline_s
        if turn is not None:
            names.append(turn.fault.name)
            now_s += each_takes_s + plan.settle_s
    assert now_s - plan.duration_s <= plan.baseline_s + max(fault.within_s for fault in FAULTS)
    return names


def test_ten_minutes_have_each_fault_once() -> None:
    assert played(1 / 6, each_takes_s=15) == [fault.name for fault in FAULTS]


def test_three_days_have_every_fault_equally_often() -> None:
    names = played(72, each_takes_s=40)
    rounds = len(names) // len(FAULTS)
    assert rounds >= 20
    assert names == [fault.name for fault in FAULTS] * rounds


def test_two_minutes_begin_no_fault_that_might_not_be_over() -> None:
    assert played(1 / 30, each_takes_s=20) == ["disconnects"]


def test_a_fault_comes_only_if_it_can_be_over_and_a_baseline_can_follow() -> None:
    plan, engine = plan_for(1.0), [fault for fault in FAULTS if fault.name == "engine"]
    least_s = engine[0].within_s + plan.settle_s + plan.baseline_s
    assert next_turn(plan, engine, 0, HOUR_S - least_s) is not None
    assert next_turn(plan, engine, 0, HOUR_S - least_s + 1) is None
    assert next_turn(plan, [], 0, 0.0) is None


@pytest.mark.parametrize(("hours", "baseline_s"), [(1 / 6, 25), (1, 150), (72, 1200)])
def test_baselines_grow_with_the_time(hours: float, baseline_s: float) -> None:
    assert plan_for(hours).baseline_s == pytest.approx(baseline_s)
