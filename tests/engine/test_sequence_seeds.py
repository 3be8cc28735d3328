"""A seed to which an index is added stays one of 64 bits."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.engine.sequence_seeds import INDICES, MOST_SEED, keep_room_for_indices
from tests.engine.fake_generation import FakeParams, ends, generated


@given(st.integers(-MOST_SEED - 1, MOST_SEED), st.integers(0, INDICES))
def test_it_fits_and_is_the_same_each_time(seed: int, index: int) -> None:
    params: Any = FakeParams(seed=seed)
    keep_room_for_indices(params)
    assert params.seed is not None
    assert -MOST_SEED - 1 <= params.seed + index <= MOST_SEED
    if seed + INDICES <= MOST_SEED:
        assert params.seed == seed
    lowered = params.seed
    keep_room_for_indices(params)
    assert params.seed == lowered


def test_no_seed_stays_none() -> None:
    params: Any = FakeParams()
    keep_room_for_indices(params)
    assert params.seed is None


@pytest.mark.parametrize("n", [1, 3])
async def test_the_engine_is_never_asked_with_a_larger_one(n: int) -> None:
    outcome = await generated([ends(5, 2, 6)] * n, n=n, seed=MOST_SEED)
    seeds = [asked.params.seed for asked in outcome.asked]
    assert all(seed is not None and seed + n <= MOST_SEED for seed in seeds)
