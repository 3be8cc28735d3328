"""What a replica learns of its tier's demand is of the tier's own requests, whatever it lends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.api.demand import DemandMeter
from serve_app.core.scaling.step_time import StepModel
from serve_app.core.scaling.workload import EXPECTED_COUNTS_AS, LENGTHS_KEPT, LearntLengths
from tests.builders import a_reading_gate
from tests.virtual_time import virtual

MODEL = StepModel(14.5, 0.13, 0.125)
lengths = st.lists(st.tuples(st.integers(1, 4000), st.integers(1, 4000)), max_size=40)


def a_meter() -> DemandMeter:
    return DemandMeter(MODEL, LearntLengths(512, 400), lambda: 0.0, slots=125)


@given(st.integers(1, 8000), st.integers(1, 600))
def test_what_arrives_says_how_long_prompts_are_before_any_ends(
    prompt_tokens: int, requests: int
) -> None:
    meter = a_meter()
    assert meter.arriving_prompt_tokens() == 512
    for _ in range(requests):
        meter.arrived(sequences=1, max_new_tokens=100, prompt_tokens=prompt_tokens)
    known = min(1.0, requests / (EXPECTED_COUNTS_AS + requests))
    expected = 512 + known * (prompt_tokens - 512)
    towards = sorted([expected, prompt_tokens])
    if requests > 4:
        assert towards[0] * 0.99 <= meter.arriving_prompt_tokens() <= towards[1] * 1.01
    if requests >= LENGTHS_KEPT:
        assert meter.arriving_prompt_tokens() == pytest.approx(prompt_tokens)


def test_one_odd_arrival_says_little_of_the_others() -> None:
    meter = a_meter()
    meter.arrived(sequences=1, max_new_tokens=100, prompt_tokens=90_000)
    assert meter.arriving_prompt_tokens() < 1.1 * 512


@given(lengths, lengths, st.floats(0.1, 1.0))
def test_what_is_lent_is_no_demand_of_the_lender(
    own: list[tuple[int, int]], lent: list[tuple[int, int]], own_part: float
) -> None:
    alone, lends = a_meter(), a_meter()
    for prompt_tokens, new_tokens in own:
        for meter in (alone, lends):
            meter.finished(prompt_tokens=prompt_tokens, new_tokens=new_tokens)
            meter.answered(prompt_tokens=prompt_tokens, new_tokens=new_tokens)
    for prompt_tokens, new_tokens in lent:
        lends.finished(prompt_tokens=prompt_tokens, new_tokens=new_tokens)
    for meter in (alone, lends):
        meter.arrived(sequences=1, max_new_tokens=1000)
    tokens = float(sum(new_tokens for _, new_tokens in own))
    figures = lends.figures(tokens / own_part, own_part=own_part)
    assert figures == pytest.approx(alone.figures(tokens))


@virtual
async def test_the_gate_counts_the_answers_of_its_own_tier() -> None:
    gate = a_reading_gate(slots=8)
    assert gate.demand is not None
    before = gate.demand.own
    with gate.enter(1, prompt_tokens=10, borrowed=True) as lent:
        assert gate.own_part == 0
        gate.observe_service(lent)
    assert gate.demand.own == before
    assert gate.own_part == 1, "nothing runs"
    with gate.enter(2, prompt_tokens=10) as own, gate.enter(1, prompt_tokens=10, borrowed=True):
        assert gate.own_part == pytest.approx(2 / 3)
        gate.observe_service(own)
    assert len(gate.demand.own.answers) == gate.demand.ended == 2
