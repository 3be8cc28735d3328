"""The searches against functions whose answer is known."""

import itertools
import random
from collections.abc import Mapping

import pytest

from loadtest.simulation.set_search import SetSearch
from loadtest.simulation.sustained_load import maximum_load

PRICES = {"T4": 0.526, "RTX4090": 0.34}
POWER = {"T4": 1.0, "RTX4090": 3.0}


@pytest.mark.parametrize("limit", [0.07, 1.0, 1.3, 5.0, 47.0])
@pytest.mark.parametrize("guess", [1.0, 1.3, 6.0])
def test_the_maximum_load_is_found_to_its_precision(limit: float, guess: float) -> None:
    found = maximum_load(lambda load: load, lambda load: load <= limit, guess=guess, precision=0.01)
    assert limit / 1.011 <= found.load <= limit
    assert found.sustained == found.load
    assert found.failed is not None
    assert limit < found.failed <= found.load * 1.01
    assert found.tried <= 20


def test_nothing_is_sustained_where_not_even_a_trickle_is() -> None:
    found = maximum_load(lambda load: load, lambda _: False, guess=3.0)
    assert (found.load, found.sustained) == (0.0, None)
    assert found.tried <= 12


def test_a_load_that_is_always_sustained_ends_the_search() -> None:
    found = maximum_load(lambda load: load, lambda _: True, guess=3.0)
    assert found.load > 100
    assert found.failed is None


def power(counts: Mapping[str, int]) -> float:
    return sum(POWER[name] * number for name, number in counts.items())


@pytest.mark.parametrize("seed", range(30))
def test_the_cheapest_set_is_the_one_that_trying_them_all_finds(seed: int) -> None:
    rng = random.Random(seed)
    prices = {name: rng.uniform(0.1, 1.0) for name in PRICES}
    load, lost = rng.uniform(0.5, 25), rng.uniform(1.0, 1.5)
    fixed = rng.choice([0.0, 0.5])

    def sustains(counts: Mapping[str, int]) -> bool:
        # A set needs more than the bound says, the more so the fewer its GPUs are.
        return power(counts) >= load * lost + fixed

    def cost(numbers: tuple[int, ...]) -> float:
        return sum(price * n for price, n in zip(prices.values(), numbers, strict=True))

    every = [
        numbers
        for numbers in itertools.product(range(45), repeat=2)
        if sum(numbers) >= 2 and sustains(dict(zip(prices, numbers, strict=True)))
    ]
    search = SetSearch(
        prices,
        lambda counts: power(counts) / load,
        lambda counts: "sustained" if sustains(counts) else None,
        at_least=2,
        most_tries=200,
    )
    found = search.cheapest()
    assert found.proven
    assert found.sets[0].price == pytest.approx(min(map(cost, every)))
    assert found.tried <= 60


def test_what_the_bound_rules_out_is_never_simulated() -> None:
    simulated: list[Mapping[str, int]] = []

    def run(counts: Mapping[str, int]) -> str | None:
        simulated.append(counts)
        return "sustained" if power(counts) >= 11 else None

    found = SetSearch(PRICES, lambda counts: power(counts) / 10, run).cheapest()
    assert found.sets[0].counts == {"T4": 0, "RTX4090": 4}
    assert all(power(counts) >= 10 for counts in simulated)
    assert len(simulated) == len({tuple(counts.values()) for counts in simulated}) == found.tried


def test_runners_up_are_other_sets_and_not_the_first_with_more() -> None:
    run = {True: "sustained", False: None}
    search = SetSearch(PRICES, lambda c: power(c) / 10, lambda c: run[power(c) >= 11])
    first, *others = search.cheapest().sets
    assert others
    for other in others:
        assert other.price >= first.price
        assert any(other.counts[name] < first.counts[name] for name in PRICES)


def test_too_few_tries_are_reported() -> None:
    search = SetSearch(
        PRICES, lambda c: power(c) / 100, lambda c: c if power(c) >= 120 else None, most_tries=3
    )
    found = search.cheapest()
    assert not found.proven
    assert found.tried <= 3


def test_a_load_that_no_set_holds_finds_none() -> None:
    found = SetSearch(PRICES, lambda c: power(c), lambda _: None).cheapest()
    assert found.sets == ()
    assert not found.proven
