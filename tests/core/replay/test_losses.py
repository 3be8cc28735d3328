"""How often a request is continued."""

import pytest

from serve_app.core.replay.losses import QUICK_S, Losses


@pytest.mark.parametrize("max_times", [0, 1, 3])
def test_a_request_survives_so_many_replicas_and_no_more(max_times: int) -> None:
    losses = Losses(max_times)
    said = [losses.add(QUICK_S) for _ in range(max_times + 1)]
    assert said == [None] * max_times + ["too_often"]


def test_two_replicas_that_die_soon_at_once_are_as_many_as_one_after_the_other() -> None:
    assert Losses(max_times=10).add(0.0, replicas=2) == "quick_deaths"
    assert Losses(max_times=2).add(QUICK_S, replicas=2) is None


def test_the_second_replica_that_dies_soon_is_the_last() -> None:
    losses = Losses(max_times=10)
    said = [losses.add(lived_s) for lived_s in (QUICK_S / 2, 2 * QUICK_S, 0.0)]
    assert said == [None, None, "quick_deaths"]
