"""The searches in hindsight against functions whose best is known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.simulation.clairvoyant import CheapestPlan
from loadtest.simulation.constant import BestConstant
from loadtest.simulation.settings_search import best_setting, rank
from serve_app.core.tiers import Tier


@dataclass(frozen=True)
class Judged:
    goodput: float
    gpu_hours: float


def test_the_cheapest_that_is_good_enough_is_best_and_else_the_one_with_most_goodput() -> None:
    found = [Judged(0.9, 1.0), Judged(0.95, 3.0), Judged(0.97, 2.0), Judged(0.97, 2.5)]
    assert min(found, key=lambda f: rank(f, 0.94)) == Judged(0.97, 2.0)
    assert min(found, key=lambda f: rank(f, 0.99)) == Judged(0.97, 2.0)
    assert min(found, key=lambda f: rank(f, 0.0)) == Judged(0.9, 1.0)


@settings(max_examples=60, deadline=None)
@given(at=st.tuples(st.integers(0, 11), st.integers(0, 4)), slope=st.floats(0.1, 3.0))
def test_the_neighbours_lead_to_the_best_setting_of_a_valley(
    at: tuple[int, int], slope: float
) -> None:
    axes = {"a": [float(n) for n in range(12)], "b": [float(n) for n in range(5)]}
    coarse = {"a": axes["a"][::4], "b": axes["b"][::3]}
    played: list[Mapping[str, float]] = []

    def play(setting: Mapping[str, float], best: Judged | None) -> Judged | None:
        played.append(setting)
        cost = 1 + abs(setting["a"] - at[0]) + slope * abs(setting["b"] - at[1])
        return Judged(1.0, cost) if best is None or cost <= best.gpu_hours else None

    best = best_setting(axes, coarse, play, 0.9)
    assert (best.setting["a"], best.setting["b"]) == at
    assert best.found.gpu_hours == 1.0
    assert best.tried == len(played) == len({tuple(s.values()) for s in played}) < 40


@pytest.mark.filterwarnings(
    # Ray 2.60 itself gives pydantic this keyword when its config is imported.
    "ignore:Using extra keyword arguments on `Field`:DeprecationWarning"
)
def test_every_opponents_coarse_grid_is_part_of_its_axes() -> None:
    from loadtest.simulation.opponents import OPPONENTS

    for opponent in OPPONENTS.values():
        assert opponent.coarse.keys() == opponent.axes.keys()
        for name, values in opponent.coarse.items():
            assert set(values) <= set(opponent.axes[name])
        assert len(list(product(*opponent.coarse.values()))) <= 12


@settings(max_examples=60, deadline=None)
@given(needs=st.tuples(st.integers(1, 9), st.integers(1, 9)), most=st.integers(2, 24))
def test_the_best_constant_count_is_the_one_that_trying_them_all_finds(
    needs: tuple[int, int], most: int
) -> None:
    def play(counts: Mapping[Tier, int]) -> Judged:
        have = list(counts.values())
        good = sum(min(1.0, n / need) for n, need in zip(have, needs, strict=True)) / 2
        return Judged(good, float(sum(have)))

    work = dict(zip(Tier, map(float, needs), strict=True))
    counts, found = BestConstant(work, 1, most, 1.0, play).search()
    every = [
        play(dict(zip(Tier, pair, strict=True)))
        for pair in product(range(1, most), repeat=2)
        if sum(pair) <= most
    ]
    best = min(every, key=lambda f: rank(f, min(1.0, max(f.goodput for f in every))))
    assert sum(counts.values()) <= most
    if sum(needs) <= most:
        assert (found.goodput, found.gpu_hours) == (1.0, sum(needs))
        assert found.gpu_hours == best.gpu_hours


@settings(max_examples=40, deadline=None)
@given(
    levels=st.lists(st.integers(1, 8), min_size=4, max_size=4),
    tries=st.integers(12, 120),
)
def test_a_plan_is_good_enough_never_dearer_than_the_constant_and_ends(
    levels: list[int], tries: int
) -> None:
    work = np.repeat([level - 0.5 for level in levels], 8)
    needed = np.ceil(work)
    played: list[Mapping[Tier, Sequence[int]]] = []

    def play(counts: Mapping[Tier, Sequence[int]], best: Judged | None) -> Judged | None:
        played.append(counts)
        have = np.array(counts[Tier.CHAT])
        found = Judged(float(np.mean(have >= needed)), float(have.sum()))
        return found if best is None or rank(found, 1.0) <= rank(best, 1.0) else None

    constant = {Tier.CHAT: max(levels)}
    search = CheapestPlan({Tier.CHAT: work}, 1, 10, 1.0, tries, play)
    counts, found = search.search(constant)
    assert found.goodput == 1.0
    assert found.gpu_hours == sum(counts[Tier.CHAT]) <= max(levels) * len(work)
    assert found.gpu_hours >= needed.sum()
    assert len(played) == search.tried <= tries + 8
    if tries > 100:
        assert found.gpu_hours <= 1.2 * needed.sum()
