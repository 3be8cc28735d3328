"""When slots are lent, and which engines may stand in for each other."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.admission.slot_lending import (
    SLO_SHARE,
    AnswerForm,
    Lending,
    may_lend,
    stands_in_for,
)

FORM = AnswerForm("r1", 4096, "hermes")


def lending(
    *,
    slots: int = 8,
    running: int = 0,
    borrowed: int = 0,
    queued: int = 0,
    sequences: int = 1,
    lend_share: float = 0.5,
    ttft_s: float = 0.0,
    tpot_s: float = 0.0,
) -> Lending:
    return may_lend(
        slots=slots,
        running=running,
        borrowed=borrowed,
        queued=queued,
        sequences=sequences,
        lend_share=lend_share,
        ttft_s=ttft_s,
        tpot_s=tpot_s,
        slo_ttft_s=2.0,
        slo_tpot_s=0.1,
    )


def test_an_idle_replica_lends_up_to_its_share() -> None:
    assert lending(running=3, borrowed=3).allowed
    assert not lending(running=4, borrowed=4).allowed
    assert lending(sequences=4).allowed
    assert not lending(sequences=5).allowed


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        (lending(lend_share=0.0), "lends no slots"),
        (lending(queued=1), "of its own wait"),
        (lending(running=8), "busy"),
        (lending(running=7, sequences=2), "busy"),
        (lending(running=5, borrowed=4), "4 of 8 slots are lent"),
        (lending(slots=1), "0 of 1 slots are lent"),
        (lending(ttft_s=2.5), "would begin in 2.5 s"),
        (lending(tpot_s=0.15), "150 ms a token"),
    ],
)
def test_a_refusal_says_why(refusal: Lending, reason: str) -> None:
    assert not refusal.allowed
    assert reason in refusal.reason


@given(st.floats(0, 10), st.floats(0, 1))
def test_what_is_lent_keeps_the_lenders_own_within_its_slo(ttft_s: float, tpot_s: float) -> None:
    allowed = lending(ttft_s=ttft_s, tpot_s=tpot_s).allowed
    assert allowed == (ttft_s <= SLO_SHARE * 2.0 and tpot_s <= SLO_SHARE * 0.1)


def test_own_work_above_the_share_still_leaves_idle_slots_to_lend() -> None:
    assert lending(running=6, borrowed=0, sequences=2).allowed


@given(
    slots=st.integers(1, 64),
    own=st.integers(0, 64),
    share=st.floats(0, 1),
    sizes=st.lists(st.integers(1, 4), max_size=40),
)
def test_whatever_is_asked_for_the_other_slots_stay_its_own(
    slots: int, own: int, share: float, sizes: list[int]
) -> None:
    borrowed = 0
    for size in sizes:
        asked = lending(
            slots=slots,
            running=own + borrowed,
            borrowed=borrowed,
            sequences=size,
            lend_share=share,
        )
        borrowed += size * asked.allowed
    assert borrowed <= share * slots
    assert borrowed == 0 or own + borrowed <= slots


def test_an_engine_stands_in_for_one_with_the_same_answers_and_no_longer_context() -> None:
    assert stands_in_for(FORM, FORM)
    assert stands_in_for(replace(FORM, context_tokens=8192), FORM)
    assert not stands_in_for(replace(FORM, context_tokens=2048), FORM)
    assert not stands_in_for(replace(FORM, model="smollm2"), FORM)
    assert not stands_in_for(replace(FORM, parsers="hermes, deepseek_r1"), FORM)
