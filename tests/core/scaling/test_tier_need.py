"""What a tier needs with another one's help, and what it keeps to help."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.scaling.tier_need import LentLoad, TierNeed, kept_to_lend
from tests.core.scaling.t4_needs import BY_SLOTS, BY_TPOT, T4, need

needs = st.builds(
    need, st.floats(0.0, 40.0), st.integers(1, 8), st.sampled_from([BY_SLOTS, BY_TPOT])
)


def test_where_the_slots_limit_a_tier_its_steady_load_may_be_lent() -> None:
    busy = need(4.5)
    assert busy.fewest() == 2
    assert busy.fewest(lent=1.0) == 1


def test_where_the_tpot_limits_it_its_own_replicas_carry_what_is_steady() -> None:
    busy = need(4.5, shape=BY_TPOT)
    assert busy.fewest() == 2
    assert busy.fewest(lent=1.0) == 2, "they would be slow before a slot is borrowed"
    assert replace(busy, level_rps=3.0).fewest(lent=1.0) == 1, "a rush on a lower level"


@given(needs, st.floats(0.0, 8.0), st.floats(0.0, 8.0))
def test_more_that_is_lent_never_needs_more(tier: TierNeed, lent: float, more: float) -> None:
    assert tier.fewest(lent + more) <= tier.fewest(lent) <= tier.fewest()


@given(needs, st.floats(0.0, 20.0))
def test_more_load_never_needs_less(tier: TierNeed, more_rps: float) -> None:
    busier = replace(tier, rate_rps=tier.rate_rps + more_rps, level_rps=tier.level_rps + more_rps)
    assert busier.fewest() >= tier.fewest()


def test_a_faster_lender_lends_more_of_ours() -> None:
    slow, fast = (LentLoad(1.0, T4.token_s(125) / speed) for speed in (1, 3))
    assert need(1.0).borrowed(fast) == pytest.approx(3 * need(1.0).borrowed(slow))


def test_a_replica_is_kept_for_whoever_would_have_to_start_it() -> None:
    """Two are idle: given back, one of them would start again for the other tier."""
    lender = need(1.0, target=3)
    near, short = need(5.5, target=1), need(6.5, target=1)
    assert near.fewest() == short.fewest() == 2
    assert kept_to_lend(lender, short, least=1, lend_share=0.5) == 3
    assert kept_to_lend(lender, near, least=1, lend_share=0.5) == 2, "it needs less"
    assert kept_to_lend(lender, need(2.0), least=1, lend_share=0.5) == 1, "nobody needs it"
    assert kept_to_lend(lender, need(6.5, target=2), least=1, lend_share=0.5) == 1, "it has two"
    assert kept_to_lend(lender, short, least=1, lend_share=0.0) == 1, "nothing is lent"
    assert kept_to_lend(lender, None, least=1, lend_share=0.5) == 1


def test_a_fleet_is_not_kept_for_one_start() -> None:
    lender, short = need(1.0, target=12), need(6.5, target=1)
    kept = kept_to_lend(lender, short, least=1, lend_share=0.1)
    assert kept == 1, "it would have to keep ten to lend one"


@given(needs, needs, st.integers(0, 8), st.floats(0.0, 1.0))
def test_lending_orders_nothing_and_gives_back_nothing_that_is_needed(
    lender: TierNeed, borrower: TierNeed, least: int, share: float
) -> None:
    kept = kept_to_lend(lender, borrower, least=least, lend_share=share)
    assert least <= kept <= max(least, lender.target)
    if borrower.fewest() <= borrower.target:
        assert kept == least
