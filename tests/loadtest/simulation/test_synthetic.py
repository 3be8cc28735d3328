"""Made-up traffic is what its kind says, and the same each time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.simulation.synthetic import KINDS, Lengths, SyntheticLoad, opposite_phase, synthetic
from loadtest.simulation.trace import CONTEXT_TOKENS, Trace
from serve_app.core.tiers import DEFAULT_MAX_NEW_TOKENS, Tier

TRACES = {name: make() for name, (make, _) in KINDS.items()}


def counts(
    trace: Trace, width_s: float, tier: Tier | None = None
) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    """Arrivals in each interval of this width, the last one left out."""
    at_s = np.array([r.arrival_s for r in trace.requests if tier in (None, r.tier)])
    return np.bincount((at_s / width_s).astype(int))[:-1]


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_is_in_order_within_the_limits_and_soon_simulated(name: str) -> None:
    trace = TRACES[name]
    times = [request.arrival_s for request in trace.requests]
    assert times == sorted(times)
    assert len(times) < 120_000
    for request in trace.requests[::50]:
        assert 1 <= request.new_tokens <= request.limit == DEFAULT_MAX_NEW_TOKENS[request.tier]
        assert 1 <= request.prompt_tokens <= CONTEXT_TOKENS - request.limit


def test_a_kind_is_the_same_each_time_and_another_with_another_seed() -> None:
    make, _ = KINDS["opposite-phase"]
    assert make() == TRACES["opposite-phase"]
    assert opposite_phase(7) != TRACES["opposite-phase"]


def test_prompt_heavy_is_all_prompt_and_comes_in_bursts_of_ten_seconds() -> None:
    trace = TRACES["prompt-heavy"]
    assert np.median([r.prompt_tokens for r in trace.requests]) == pytest.approx(2000, rel=0.02)
    assert np.median([r.new_tokens for r in trace.requests]) == pytest.approx(15, abs=1)
    by_second = counts(trace, 1.0)
    high = np.convolve(by_second, np.ones(5), "valid") / 5 > 24
    lengths = np.diff(np.flatnonzero(np.diff(np.concatenate([[0], high, [0]]).astype(int))))[::2]
    assert np.median(by_second) == pytest.approx(8, abs=1.5)
    assert 15 <= len(lengths) <= 50
    assert np.median(lengths) == pytest.approx(10, abs=3)


def test_a_step_is_eightfold_and_back() -> None:
    by_minute = counts(TRACES["step-8x"], 60.0)
    low, high = np.median(by_minute[2:8]), np.median(by_minute[12:18])
    assert high / low == pytest.approx(8, rel=0.15)
    assert np.median(by_minute[20:25]) == pytest.approx(low, rel=0.2)


def test_one_tier_is_high_while_the_other_is_low() -> None:
    trace = TRACES["opposite-phase"]
    chat, reasoning = counts(trace, 60.0, Tier.CHAT), counts(trace, 60.0, Tier.REASONING)
    together = min(len(chat), len(reasoning))
    assert np.corrcoef(chat[:together], reasoning[:together])[0, 1] < -0.9


def test_a_fleet_and_a_threshold_are_steady_and_a_day_is_not() -> None:
    swing = {name: counts(TRACES[name], 300.0) for name in ("fleet-48", "threshold-10h", "day")}
    ratios = {name: by.max() / by.min() for name, by in swing.items()}
    assert ratios["fleet-48"] < 1.3
    assert ratios["threshold-10h"] < 1.5
    assert ratios["day"] > 2.5


@settings(max_examples=20, deadline=None)
@given(
    peak_rps=st.floats(1.0, 20.0),
    part=st.floats(0.05, 1.0),
    median=st.integers(1, 3000),
    spread=st.floats(0.0, 1.0),
)
def test_a_load_has_its_rate_and_its_lengths(
    peak_rps: float, part: float, median: int, spread: float
) -> None:
    lengths = Lengths(median, spread)
    load = SyntheticLoad(
        Tier.CHAT, lambda at_s: np.full_like(at_s, part * peak_rps), peak_rps, lengths, lengths
    )
    trace = synthetic((load,), 600.0)
    expected = 600 * part * peak_rps
    assert abs(len(trace.requests) - expected) < 6 * expected**0.5
    assert all(1 <= r.new_tokens <= 1024 and 1 <= r.prompt_tokens <= 3072 for r in trace.requests)
    if not spread:
        assert {r.new_tokens for r in trace.requests} == {min(median, 1024)}
