"""The end-to-end tests' clock leaves pauses of the machine out, and nothing else."""

import pytest

from tests.e2e.machine_clock import LONGEST_TICK_S, MachineClock


def read_at(*times_s: float) -> list[float]:
    """What the clock says when it is made at the first time and read at the others."""
    moments = iter(times_s)
    clock = MachineClock(lambda: next(moments))
    return [clock.read_s() for _ in times_s[1:]]


def test_time_in_which_the_machine_runs_counts_whole() -> None:
    assert read_at(100.0, 100.02, 100.4, 100.9) == [100.02, 100.4, 100.9]


def test_a_pause_counts_as_one_late_tick() -> None:
    before_s, after_s = read_at(100.0, 100.1, 120.0)
    assert after_s - before_s == pytest.approx(LONGEST_TICK_S)
