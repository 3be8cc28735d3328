"""Which answer policy wins."""

import random

import pytest

from loadtest.evaluation.policy_choice import Measured, choose, difference, frontier

MANY = 400


def measured(accuracy: float, tokens: float, *, seed: int = 0, noise: float = 0.0) -> Measured:
    """Right in that fraction of the problems, the easy ones first."""
    rng = random.Random(seed)
    right = [float(at < accuracy * MANY) for at in range(MANY)]
    return Measured(right, [tokens * (1 + noise * (rng.random() - 0.5)) for _ in right])


def chosen(*, most_tokens_ratio: float = 1.0, **policies: Measured) -> tuple[str, str]:
    default, *others = policies
    differences = {
        name: difference(policies[default], policies[name], comparisons=len(others))
        for name in others
    }
    choice = choose(default, policies, differences, most_tokens_ratio=most_tokens_ratio)
    return choice.name, choice.reason


def test_more_right_answers_for_no_more_tokens_win() -> None:
    name, reason = chosen(truncate=measured(0.6, 100), pair=measured(0.8, 90))
    assert name == "pair"
    assert reason.startswith("+20.0 points of accuracy")
    assert "0.90 times the tokens of truncate" in reason


def test_fewer_tokens_for_the_same_accuracy_win() -> None:
    assert chosen(truncate=measured(0.6, 100), early_exit=measured(0.6, 70))[0] == "early_exit"


def test_what_may_lose_more_than_the_margin_does_not_win_by_its_tokens() -> None:
    name, reason = chosen(truncate=measured(0.6, 100), direct=measured(0.58, 20))
    assert name == "truncate"
    assert "may lose 1.0 points" in reason


def test_what_costs_more_wins_only_where_it_may() -> None:
    truncate, vote = measured(0.6, 100), measured(0.9, 300)
    assert chosen(truncate=truncate, vote=vote)[0] == "truncate"
    assert chosen(truncate=truncate, vote=vote, most_tokens_ratio=3.5)[0] == "vote"


def test_a_gain_that_may_be_none_is_none() -> None:
    """One problem more of 400, and the same tokens but for noise."""
    other = measured(0.6 + 1 / MANY, 100, seed=1, noise=0.5)
    name, _ = chosen(most_tokens_ratio=1.1, truncate=measured(0.6, 100, noise=0.5), lean=other)
    assert name == "truncate"


def test_of_those_as_good_as_the_best_the_cheapest_wins() -> None:
    name, _ = chosen(
        truncate=measured(0.5, 100), pair=measured(0.8, 95), early_exit=measured(0.795, 60)
    )
    assert name == "early_exit"


def test_few_problems_without_a_difference_prove_nothing() -> None:
    few = Measured([1.0] * 48, [100.0] * 48)
    cheaper = Measured([1.0] * 48, [20.0] * 48)
    found = difference(few, cheaper)
    assert found.accuracy.value == 0.0
    # As the rule of three has it: 3 of 48.
    assert -0.07 < found.accuracy.low < -0.05
    assert chosen(truncate=few, direct=cheaper)[0] == "truncate"


def test_the_default_alone_stays() -> None:
    assert chosen(truncate=measured(0.6, 100)) == ("truncate", "truncate was measured alone")


def test_more_comparisons_are_wider() -> None:
    rng = random.Random(3)
    a, b = ([float(rng.random() < p) for _ in range(MANY)] for p in (0.5, 0.6))
    one = difference(Measured(a, [9.0] * MANY), Measured(b, [9.0] * MANY))
    five = difference(Measured(a, [9.0] * MANY), Measured(b, [9.0] * MANY), comparisons=5)
    assert five.accuracy.low < one.accuracy.low < one.accuracy.value < one.accuracy.high
    assert one.accuracy.high < five.accuracy.high
    assert (one.tokens.low, one.tokens.high) == pytest.approx((1.0, 1.0))


def test_the_frontier_is_what_no_other_one_beats() -> None:
    policies = {
        "a": measured(0.5, 100),
        "b": measured(0.6, 50),
        "c": measured(0.7, 200),
        "d": measured(0.6, 200),
        "e": measured(0.2, 50),
    }
    assert frontier(policies) == ["b", "c"]
