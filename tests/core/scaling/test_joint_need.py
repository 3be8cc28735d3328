"""What two tiers need together is never more than each needs alone, and one of them needs that."""

from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.scaling.joint_need import fewest_together
from serve_app.core.scaling.tier_need import TierNeed, lent_by
from serve_app.core.tiers import Tier
from tests.core.scaling.t4_needs import BY_SLOTS, BY_TPOT, need

needs = st.builds(
    need, st.floats(0.0, 40.0), st.integers(1, 8), st.sampled_from([BY_SLOTS, BY_TPOT])
)
shares = st.floats(0.0, 1.0)


def counts(chat: TierNeed, reasoning: TierNeed, lend_share: float) -> tuple[int, int]:
    found = fewest_together({Tier.CHAT: chat, Tier.REASONING: reasoning}, lend_share=lend_share)
    return found[Tier.CHAT], found[Tier.REASONING]


def test_one_carries_what_the_other_is_just_short_of() -> None:
    idle, busy = need(1.0), need(4.5)
    assert (idle.fewest(), busy.fewest()) == (1, 2)
    assert counts(idle, busy, 0.5) == counts(busy, idle, 0.5) == (1, 1)
    assert counts(idle, busy, 0.0) == (1, 2), "nothing is lent"


@given(needs, needs, shares)
def test_together_they_need_no_more_than_alone_and_one_of_them_that(
    chat: TierNeed, reasoning: TierNeed, lend_share: float
) -> None:
    alone = (chat.fewest(), reasoning.fewest())
    found = counts(chat, reasoning, lend_share)
    assert all(1 <= count <= most for count, most in zip(found, alone, strict=True))
    assert found[0] == alone[0] or found[1] == alone[1]


@given(needs, needs, shares)
def test_whoever_has_fewer_than_it_needs_can_borrow_the_rest(
    chat: TierNeed, reasoning: TierNeed, lend_share: float
) -> None:
    found = counts(chat, reasoning, lend_share)
    for (borrower, has), (lender, lends) in (
        ((chat, found[0]), (reasoning, found[1])),
        ((reasoning, found[1]), (chat, found[0])),
    ):
        lent = borrower.borrowed(lent_by(lender, lends, lend_share=lend_share))
        assert borrower.fewest(lent) <= has


@given(needs, shares)
def test_one_tier_alone_borrows_nothing(chat: TierNeed, lend_share: float) -> None:
    found = fewest_together({Tier.CHAT: chat}, lend_share=lend_share)
    assert found == {Tier.CHAT: chat.fewest()}
