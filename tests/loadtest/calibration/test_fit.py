"""The fit finds the figures that made the samples, and none is negative."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.calibration.fit import (
    CONTEXT,
    PROMPT,
    UserError,
    curve_ms,
    fit_all,
    fit_curve,
    fit_first_tokens,
    fit_line,
    least_squares_from_0,
)
from loadtest.calibration.samples import BusyTime, FirstToken, Step
from tests.loadtest.calibration import built

STEPS = [
    Step(batch, batch * context, built.step_ms(batch, batch * context))
    for batch in (1, 2, 4, 8, 20)
    for context in (40, 540, 1040)
]
FIRST_TOKENS = [FirstToken(n, built.first_token_ms(n)) for n in (40, 150, 500, 1000, 2000)]


def test_exact_samples_give_their_figures_back() -> None:
    curve = fit_curve(STEPS)
    line = fit_line(STEPS, curve)
    assert line["base_ms"] == pytest.approx(built.BASE_MS)
    assert line["per_sequence_ms"] == pytest.approx(built.SEQUENCE_MS)
    assert curve[CONTEXT] == pytest.approx(built.CONTEXT_MS)
    assert curve_ms(curve) == pytest.approx({n: built.step_ms(n, 0) for n in (1, 2, 4, 8, 20)})
    assert line.r2 == pytest.approx(1.0)
    first = fit_first_tokens(FIRST_TOKENS, curve)
    assert first["overhead_ms"] == pytest.approx(built.OVERHEAD_MS)
    assert first["per_prompt_token_ms"] == pytest.approx(built.PROMPT_MS)
    assert first["per_prompt_mpair_ms"] == pytest.approx(built.PAIRS_MS)
    assert max(map(abs, first.off_by)) < 1e-6


def test_noise_moves_the_figures_little_and_is_reported() -> None:
    rng = np.random.default_rng(1)
    noisy = [
        Step(s.sequences, s.context_tokens, s.step_ms * rng.normal(1.0, 0.03)) for s in STEPS * 3
    ]
    line = fit_line(noisy, fit_curve(noisy))
    assert line["base_ms"] == pytest.approx(built.BASE_MS, rel=0.05)
    assert line["per_sequence_ms"] == pytest.approx(built.SEQUENCE_MS, rel=0.1)
    assert 0.9 < line.r2 < 1.0
    assert "45 samples, R2 0.9" in line.words()


@pytest.mark.parametrize("noise", [0.02, 0.1])
def test_the_truth_lies_within_the_uncertainty(noise: float) -> None:
    """Two standard errors: 95 % of the time, so that of 40 fits few miss."""
    missed = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        noisy = [replace(s, step_ms=s.step_ms * rng.normal(1.0, noise)) for s in STEPS]
        line = fit_line(noisy, fit_curve(noisy))
        for name, true in (("base_ms", built.BASE_MS), ("per_sequence_ms", built.SEQUENCE_MS)):
            uncertainty = line.uncertainty(name)
            assert uncertainty >= line.typical_off > 0
            missed += not true / (1 + uncertainty) <= line[name] <= true * (1 + uncertainty)
    assert missed <= 10


def test_a_figure_that_few_samples_tell_is_uncertain() -> None:
    exact = fit_first_tokens(FIRST_TOKENS[:3], fit_curve(STEPS))
    assert exact.uncertainty("overhead_ms") == float("inf"), "as many figures as samples"
    assert fit_curve(STEPS).uncertainty(PROMPT) == 0.0, "it came out as 0"


def test_a_wave_that_was_disturbed_pulls_little() -> None:
    steps = [*STEPS, Step(20, 800, 9 * built.step_ms(20, 800))]
    found = curve_ms(fit_curve(steps))
    assert found[1] == pytest.approx(built.step_ms(1, 0), rel=0.1)
    assert found[20] == pytest.approx(built.step_ms(20, 0), rel=0.4)


def test_a_machine_that_is_slow_half_of_the_time_has_the_mean_speed() -> None:
    """Relative to what was measured, the slow steps would weigh a third of the quick ones."""
    halves = [
        Step(s.sequences, s.context_tokens, s.step_ms * pace)
        for s in STEPS
        for pace in (0.75, 1.25)
    ]
    found = curve_ms(fit_curve(halves))
    assert found[1] == pytest.approx(built.step_ms(1, 0), rel=0.01)
    assert found[20] == pytest.approx(built.step_ms(20, 0), rel=0.01)


def test_what_steps_under_load_take_beyond_waves_is_their_prompts() -> None:
    """Of 100 steps half have a prompt of 20 tokens, and each prompt takes 30 ms of its own."""
    begun, tokens = 50, 1000
    took_ms = 100 * built.step_ms(8, 800) + 30.0 * begun + built.PROMPT_MS * tokens
    took_ms += built.PAIRS_MS * 0.2
    busy = [BusyTime(100, took_ms, 8.0, 800.0, begun, tokens, 200_000.0)]
    fits = fit_all(STEPS, busy, FIRST_TOKENS)
    assert fits.curve[PROMPT] == pytest.approx(30.0, rel=1e-3)
    assert curve_ms(fits.curve)[8] == pytest.approx(built.step_ms(8, 0))
    # A part of what had seemed the request's own way.
    assert fits.first_tokens["overhead_ms"] == pytest.approx(0.0)


def test_first_tokens_need_a_step_of_one_sequence() -> None:
    with pytest.raises(UserError, match="one sequence"):
        fit_all(STEPS[3:], [], FIRST_TOKENS)


BENT = ((1, 30.0), (2, 42.0), (4, 44.0), (8, 48.0), (16, 58.0), (32, 121.0))


def test_the_curve_goes_through_what_no_straight_line_does() -> None:
    bent = [Step(batch, 0.0, ms) for batch, ms in BENT]
    assert curve_ms(fit_curve(bent)) == pytest.approx(dict(BENT), rel=1e-6)


def test_a_larger_batch_that_seems_to_be_quicker_takes_as_long() -> None:
    found = list(curve_ms(fit_curve([Step(1, 0.0, 40.0), Step(2, 0.0, 30.0)])).values())
    assert found[0] == found[1]
    assert 30.0 < found[0] < 40.0


def test_a_context_that_seems_to_save_time_costs_nothing() -> None:
    faster = [Step(s.sequences, s.context_tokens, 50 - s.context_tokens / 1e3) for s in STEPS]
    assert fit_curve(faster)[CONTEXT] == 0.0


@given(st.lists(st.lists(st.floats(-9, 9), min_size=4, max_size=4), min_size=5, max_size=12))
def test_no_point_nearby_is_closer(rows: list[list[float]]) -> None:
    """The optimum of a convex problem: no small step within the bound improves it."""
    numbers = np.array(rows)
    table, wanted = numbers[:, :3], numbers[:, 3]
    found = least_squares_from_0(table, wanted)
    off = float(((table @ found - wanted) ** 2).sum())
    assert (found >= 0).all()
    for column in range(3):
        for move in (-1e-3, 1e-3):
            other = found.copy()
            other[column] = max(0.0, other[column] + move)
            assert off <= float(((table @ other - wanted) ** 2).sum()) + 1e-6


def test_one_batch_size_is_too_little() -> None:
    with pytest.raises(UserError, match="one batch size"):
        fit_curve(STEPS[:3])


def test_one_length_of_prompts_is_too_little() -> None:
    with pytest.raises(UserError, match="one length"):
        fit_first_tokens(FIRST_TOKENS[:1] * 3, fit_curve(STEPS))
