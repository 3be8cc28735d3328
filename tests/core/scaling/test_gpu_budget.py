"""Cards shared by two tiers: minima, who gets the next one, who gives back."""

from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.scaling.gpu_budget import (
    GpuShare,
    NeededGpus,
    TierWish,
    observe_needed,
    share_gpus,
)
from serve_app.core.tiers import Tier


def shares(chat: TierWish, reasoning: TierWish, gpus: float = 3) -> tuple[GpuShare, GpuShare]:
    shared = share_gpus({Tier.CHAT: chat, Tier.REASONING: reasoning}, gpus=gpus)
    return shared[Tier.CHAT], shared[Tier.REASONING]


def wish(wanted: int, target: int, minimum: int = 1, part: float = 1.0) -> TierWish:
    return TierWish(wanted, target, minimum, part)


def test_both_get_what_they_want_while_there_is_enough() -> None:
    chat, reasoning = shares(wish(2, 1), wish(1, 1))
    assert (chat.replicas, reasoning.replicas) == (2, 1)
    assert chat.reason == reasoning.reason == ""


def test_a_tier_never_takes_the_others_minimum() -> None:
    chat, reasoning = shares(wish(9, 1), wish(1, 1))
    assert (chat.replicas, reasoning.replicas) == (2, 1)
    assert "shared out" in chat.reason


def test_a_tier_that_needs_its_card_back_gets_it_from_the_one_with_more() -> None:
    chat, reasoning = shares(wish(3, 2), wish(2, 1))
    assert (chat.replicas, reasoning.replicas) == (2, 1), "one each is left, and two want it"
    chat, reasoning = shares(wish(2, 2), wish(4, 1))
    assert chat.replicas == 1
    assert "gives a GPU" in chat.reason
    assert reasoning.replicas == 1, "until chat's card is free"
    assert "waits for a GPU" in reasoning.reason
    chat, reasoning = shares(wish(2, 1), wish(4, 1))
    assert (chat.replicas, reasoning.replicas) == (1, 2)


def test_what_idles_goes_to_who_queues() -> None:
    chat, reasoning = shares(wish(1, 2), wish(2, 1))
    assert (chat.replicas, reasoning.replicas) == (1, 1)
    chat, reasoning = shares(wish(1, 1), wish(2, 1))
    assert (chat.replicas, reasoning.replicas) == (1, 2)


def test_parts_of_a_card_count_as_parts() -> None:
    chat, reasoning = shares(wish(2, 1, part=0.5), wish(1, 1, part=0.5), gpus=1)
    assert (chat.replicas, reasoning.replicas) == (1, 1)
    chat, reasoning = shares(wish(2, 1, part=0.1), wish(1, 1, part=0.2), gpus=0.4)
    assert chat.replicas == 2


wishes = st.builds(
    wish, wanted=st.integers(1, 8), target=st.integers(1, 5), minimum=st.integers(0, 1)
)


@given(wishes, wishes, st.integers(2, 8))
def test_new_cards_are_never_more_than_there_are(
    chat: TierWish, reasoning: TierWish, gpus: int
) -> None:
    shared = shares(chat, reasoning, gpus)
    for wanted, share in zip((chat, reasoning), shared, strict=True):
        assert min(wanted.minimum, gpus) <= share.replicas <= max(wanted.wanted, wanted.minimum)
    if chat.target + reasoning.target <= gpus:
        assert sum(share.replicas for share in shared) <= gpus


@given(wishes, wishes, st.integers(2, 8))
def test_the_shares_settle(chat: TierWish, reasoning: TierWish, gpus: int) -> None:
    """With unchanged wishes the targets reach a state that they never leave: no oscillation."""
    for _ in range(12):
        first, second = shares(chat, reasoning, gpus)
        chat = wish(chat.wanted, first.replicas, chat.minimum)
        reasoning = wish(reasoning.wanted, second.replicas, reasoning.minimum)
    assert [share.replicas for share in shares(chat, reasoning, gpus)] == [
        chat.target,
        reasoning.target,
    ]


def test_what_is_needed_comes_before_what_is_kept() -> None:
    """Chat holds four for a load that may come back; reasoning needs three now."""
    wishes = {
        Tier.CHAT: TierWish(wanted=4, target=4, minimum=1, needed=1),
        Tier.REASONING: TierWish(wanted=3, target=1, minimum=1, needed=3),
    }
    shares = share_gpus(wishes, gpus=5)
    assert shares[Tier.CHAT].replicas == 2
    assert share_gpus(wishes, gpus=7)[Tier.CHAT].replicas == 4


def test_all_tiers_together_keep_what_they_needed_within_the_hold() -> None:
    """One tier grows while the other shrinks: the sum is kept, not each one's peak."""
    needed = NeededGpus()
    for now_s, chat, reasoning in ((0.0, 4, 1), (50.0, 2, 2), (100.0, 1, 4)):
        wishes = {
            Tier.CHAT: TierWish(wanted=4, target=4, minimum=1, needed=chat, hold_s=200.0),
            Tier.REASONING: TierWish(wanted=4, target=1, minimum=1, needed=reasoning, hold_s=90.0),
        }
        needed = observe_needed(needed, wishes, now_s=now_s)
    assert needed.most == 5
    shares = share_gpus(wishes, gpus=8, kept=needed.most)
    assert {tier: share.replicas for tier, share in shares.items()} == {
        Tier.CHAT: 1,
        Tier.REASONING: 4,
    }
    alone = {Tier.CHAT: wishes[Tier.CHAT]}
    assert share_gpus(alone, gpus=8, kept=1)[Tier.CHAT].replicas == 4


@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 9)), min_size=1, max_size=30),
    st.integers(0, 500),
)
def test_the_most_that_was_needed_is_that_of_the_hold(
    steps: list[tuple[int, int]], hold_s: int
) -> None:
    needed, now_s = NeededGpus(), 0.0
    seen: list[tuple[float, int]] = []
    for passed_s, count in steps:
        now_s += passed_s
        wish = TierWish(wanted=count, target=0, minimum=0, needed=count, hold_s=float(hold_s))
        needed = observe_needed(needed, {Tier.CHAT: wish}, now_s=now_s)
        seen.append((now_s, count))
    assert needed.most == max(count for at_s, count in seen if at_s >= now_s - hold_s)
