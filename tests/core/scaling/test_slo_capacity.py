"""How many requests a second keep a tier's SLO."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.scaling.slo_capacity import (
    Capacity,
    RequestShape,
    Slo,
    miss_share,
    replica_capacity,
)
from serve_app.core.scaling.step_time import StepModel

T4 = StepModel(base_ms=14.5, per_sequence_ms=0.13, per_prompt_token_ms=0.125)
SLO = Slo(ttft_s=2.0, tpot_s=0.1)
CHAT = RequestShape(prompt_tokens=500, new_tokens=200)


def capacity(shape: RequestShape = CHAT, slo: Slo = SLO, slots: float = 125) -> Capacity:
    return replica_capacity(T4, slots=slots, shape=shape, slo=slo)


def keeps_slo(rate_rps: float, whole: Capacity, *, shape: RequestShape, slo: Slo) -> bool:
    return miss_share(rate_rps, whole, shape=shape, slo=slo) <= 1 - slo.goodput


def highest_rps(whole: Capacity, shape: RequestShape = CHAT, slo: Slo = SLO) -> float:
    rates = [whole.sustained_rps * part / 200 for part in range(201)]
    return max(rate for rate in rates if keeps_slo(rate, whole, shape=shape, slo=slo))


def test_at_the_rate_by_tpot_a_step_takes_what_the_slo_allows() -> None:
    """With Little's law: `rate * new_tokens * tpot` sequences are in the step."""
    found = capacity(slots=10_000)
    sequences = found.tpot_rps * CHAT.new_tokens * SLO.tpot_s
    prompt_tokens = found.tpot_rps * SLO.tpot_s * CHAT.prompt_tokens
    assert T4.step_ms(sequences, prompt_tokens) == pytest.approx(1e3 * SLO.tpot_s)


def test_at_the_rate_by_slots_all_are_busy() -> None:
    found = capacity()
    work_s = T4.request_s(slots=125, prompt_tokens=500, new_tokens=200)
    assert found.slots_rps == pytest.approx(1 / work_s)
    assert found.prefill_rps == pytest.approx(1 / (500 * 0.125e-3))


def test_the_margin_falls_with_the_number_of_replicas() -> None:
    parts = [highest_rps(capacity().times(n)) / n for n in (1, 4, 16, 64)]
    assert parts == sorted(parts)
    assert parts[0] < 0.9 * parts[-1]
    assert parts[-1] < capacity().sustained_rps


def test_prompts_alone_leave_room_for_chance() -> None:
    """2,000 tokens of prompt and 15 of answer: a quarter of a second of a T4 each. In the
    simulation 16 of them serve 99.7 % of 40 a second within the SLO, and 12 serve 85 %."""
    shape = RequestShape(prompt_tokens=2000, new_tokens=15)
    found = capacity(shape)
    assert highest_rps(found.times(16), shape) == pytest.approx(40, rel=0.05)
    assert highest_rps(found.times(12), shape) < 32


@given(
    prompt_tokens=st.floats(1, 4000),
    new_tokens=st.floats(1, 2048),
    variation=st.floats(0, 20),
    rate=st.floats(0, 100),
    more=st.floats(1, 10),
    replicas=st.integers(1, 64),
)
def test_less_load_and_more_replicas_never_break_it(
    prompt_tokens: float,
    new_tokens: float,
    variation: float,
    rate: float,
    more: float,
    replicas: int,
) -> None:
    shape = RequestShape(prompt_tokens, new_tokens, variation)
    one = capacity(shape)
    if keeps_slo(rate, one.times(replicas), shape=shape, slo=SLO):
        assert keeps_slo(rate / more, one.times(replicas), shape=shape, slo=SLO)
        assert keeps_slo(rate, one.times(replicas + 1), shape=shape, slo=SLO)


def test_a_gpu_that_cannot_keep_the_tpot_still_has_a_capacity() -> None:
    slow = replica_capacity(
        StepModel(200, 1, 1), slots=8, shape=CHAT, slo=Slo(ttft_s=2.0, tpot_s=0.1)
    )
    assert 0 < slow.sustained_rps < 1


@given(
    rate=st.floats(0.01, 200),
    more=st.floats(1, 3),
    replicas=st.integers(1, 40),
    prompt_tokens=st.floats(1, 4000),
    new_tokens=st.floats(1, 4000),
    variation=st.floats(0, 4),
)
def test_what_misses_the_slo_is_a_share_that_more_load_never_lowers(
    rate: float,
    more: float,
    replicas: int,
    prompt_tokens: float,
    new_tokens: float,
    variation: float,
) -> None:
    shape = RequestShape(prompt_tokens, new_tokens, variation)
    whole = capacity(shape).times(replicas)
    missed = miss_share(rate, whole, shape=shape, slo=SLO)
    assert 0 <= missed <= 1
    assert miss_share(rate * more, whole, shape=shape, slo=SLO) >= missed - 1e-9


def test_nothing_that_never_comes_is_missed() -> None:
    assert miss_share(0.0, capacity(), shape=CHAT, slo=SLO) == 0
