"""How long reasoning may be while others wait: learnt from lengths some of which were cut."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.reasoning.crowding import LEAST_ENDS, ReasoningLengths, limit_tokens

COUNTS = st.integers(0, 500)
MEANS = st.floats(1.0, 5000.0)


def limit(mean: float | None = 100.0, running: int = 16, waiting: int = 8, least: float = 0.0):
    return limit_tokens(mean, running=running, waiting=waiting, least_share=least)


@pytest.mark.parametrize("most", [math.inf, 150.0, 60.0])
def test_the_mean_is_learnt_also_where_most_reasoning_is_ended_early(most: float) -> None:
    rng, lengths = random.Random(0), ReasoningLengths()
    for _ in range(4000):
        tokens = rng.expovariate(1 / 100)
        lengths.observe(math.ceil(min(tokens, most)), natural=tokens <= most)
    assert lengths.mean_tokens == pytest.approx(100, rel=0.2)


def test_a_mean_follows_a_model_that_thinks_for_longer() -> None:
    lengths = ReasoningLengths()
    for tokens in [100] * 1000 + [300] * 600:
        lengths.observe(tokens, natural=True)
    assert lengths.mean_tokens == pytest.approx(300, rel=0.1)


def test_of_few_ends_or_none_of_the_models_own_nothing_is_concluded() -> None:
    lengths = ReasoningLengths()
    for _ in range(int(LEAST_ENDS) - 1):
        lengths.observe(10, natural=True)
    assert lengths.mean_tokens is None
    for _ in range(3):
        lengths.observe(10, natural=True)
    assert lengths.mean_tokens == pytest.approx(10, rel=0.1)
    cut = ReasoningLengths()
    for _ in range(100):
        cut.observe(10, natural=False)
    assert cut.mean_tokens is None
    cut.observe(0, natural=True)  # without reasoning
    assert cut.mean_tokens is None


def test_nobody_is_shortened_without_a_queue_or_knowledge_or_leave() -> None:
    assert limit(waiting=0) is None
    assert limit(mean=None) is None
    assert limit(least=1.0) is None


def test_as_many_are_served_as_wait_and_run() -> None:
    """Where lengths are exponential: the mean of what the limit leaves is that part of it."""
    rng = random.Random(1)
    most = limit(running=16, waiting=8)
    assert most is not None
    lengths = [min(rng.expovariate(1 / 100), most) for _ in range(100_000)]
    assert sum(lengths) / len(lengths) == pytest.approx(100 * 16 / 24, rel=0.02)


@given(MEANS, COUNTS, COUNTS, COUNTS, st.floats(0.0, 0.99))
def test_more_that_wait_never_lengthen_reasoning_and_a_part_stays(
    mean: float, running: int, waiting: int, more: int, least: float
) -> None:
    one = limit(mean, running, waiting, least)
    other = limit(mean, running, waiting + more, least)
    if one is None:
        assert waiting == 0
        return
    assert other is not None
    assert mean * least <= other <= one
