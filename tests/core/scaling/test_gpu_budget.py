"""GPUs divided between two tiers: minima, who gets the next one, who scales down."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.scaling.gpu_budget import (
    GpuAllocation,
    GpuDemand,
    NeededGpus,
    allocate_gpus,
    observe_needed,
)
from serve_app.core.tiers import Tier


def shares(
    chat: GpuDemand, reasoning: GpuDemand, gpus: float = 3
) -> tuple[GpuAllocation, GpuAllocation]:
    shared = allocate_gpus({Tier.CHAT: chat, Tier.REASONING: reasoning}, gpus=gpus)
    return shared[Tier.CHAT], shared[Tier.REASONING]


def demand(wanted: int, target: int, minimum: int = 1, part: float = 1.0) -> GpuDemand:
    return GpuDemand(wanted, target, minimum, part)


def test_both_get_what_they_want_while_there_is_enough() -> None:
    chat, reasoning = shares(demand(2, 1), demand(1, 1))
    assert (chat.replicas, reasoning.replicas) == (2, 1)
    assert chat.reason == reasoning.reason == ""


def test_a_tier_never_takes_the_others_minimum() -> None:
    chat, reasoning = shares(demand(9, 1), demand(1, 1))
    assert (chat.replicas, reasoning.replicas) == (2, 1)
    assert "allocated" in chat.reason


def test_a_tier_that_needs_its_gpu_back_gets_it_from_the_one_with_more() -> None:
    chat, reasoning = shares(demand(3, 2), demand(2, 1))
    assert (chat.replicas, reasoning.replicas) == (2, 1), "one each is left, and two want it"
    chat, reasoning = shares(demand(2, 2), demand(4, 1))
    assert chat.replicas == 1
    assert "hands a GPU" in chat.reason
    assert reasoning.replicas == 1, "until chat's GPU is free"
    assert "waits for a GPU" in reasoning.reason
    chat, reasoning = shares(demand(2, 1), demand(4, 1))
    assert (chat.replicas, reasoning.replicas) == (1, 2)


def test_what_idles_goes_to_who_queues() -> None:
    chat, reasoning = shares(demand(1, 2), demand(2, 1))
    assert (chat.replicas, reasoning.replicas) == (1, 1)
    chat, reasoning = shares(demand(1, 1), demand(2, 1))
    assert (chat.replicas, reasoning.replicas) == (1, 2)


def test_parts_of_a_gpu_count_as_parts() -> None:
    chat, reasoning = shares(demand(2, 1, part=0.5), demand(1, 1, part=0.5), gpus=1)
    assert (chat.replicas, reasoning.replicas) == (1, 1)
    chat, reasoning = shares(demand(2, 1, part=0.1), demand(1, 1, part=0.2), gpus=0.4)
    assert chat.replicas == 2


demands = st.builds(
    demand, wanted=st.integers(1, 8), target=st.integers(1, 5), minimum=st.integers(0, 1)
)


@given(demands, demands, st.integers(2, 8))
def test_new_gpus_are_never_more_than_there_are(
    chat: GpuDemand, reasoning: GpuDemand, gpus: int
) -> None:
    shared = shares(chat, reasoning, gpus)
    for wanted, share in zip((chat, reasoning), shared, strict=True):
        assert min(wanted.minimum, gpus) <= share.replicas <= max(wanted.wanted, wanted.minimum)
    if chat.target + reasoning.target <= gpus:
        assert sum(share.replicas for share in shared) <= gpus


@given(demands, demands, st.integers(2, 8))
def test_the_shares_settle(chat: GpuDemand, reasoning: GpuDemand, gpus: int) -> None:
    """With unchanged demands the targets reach a state that they never leave: no oscillation."""
    for _ in range(12):
        first, second = shares(chat, reasoning, gpus)
        chat = demand(chat.wanted, first.replicas, chat.minimum)
        reasoning = demand(reasoning.wanted, second.replicas, reasoning.minimum)
    assert [share.replicas for share in shares(chat, reasoning, gpus)] == [
        chat.target,
        reasoning.target,
    ]


def test_what_is_needed_comes_before_what_is_kept() -> None:
    """Chat holds four for a load that may come back; reasoning needs three now."""
    demands = {
        Tier.CHAT: GpuDemand(wanted=4, target=4, minimum=1, needed=1),
        Tier.REASONING: GpuDemand(wanted=3, target=1, minimum=1, needed=3),
    }
    shares = allocate_gpus(demands, gpus=5)
    assert shares[Tier.CHAT].replicas == 2
    assert allocate_gpus(demands, gpus=7)[Tier.CHAT].replicas == 4


def test_all_tiers_together_keep_what_they_needed_within_the_hold() -> None:
    """One tier grows while the other shrinks: the sum is kept, not each one's peak."""
    needed = NeededGpus()
    for now_s, chat, reasoning in ((0.0, 4, 1), (50.0, 2, 2), (100.0, 1, 4)):
        demands = {
            Tier.CHAT: GpuDemand(wanted=4, target=4, minimum=1, needed=chat, hold_s=200.0),
            Tier.REASONING: GpuDemand(wanted=4, target=1, minimum=1, needed=reasoning, hold_s=90.0),
        }
        needed = observe_needed(needed, demands, now_s=now_s)
    assert needed.most == 5
    shares = allocate_gpus(demands, gpus=8, kept=needed.most)
    assert {tier: share.replicas for tier, share in shares.items()} == {
        Tier.CHAT: 1,
        Tier.REASONING: 4,
    }
    alone = {Tier.CHAT: demands[Tier.CHAT]}
    assert allocate_gpus(alone, gpus=8, kept=1)[Tier.CHAT].replicas == 4


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
        demand = GpuDemand(wanted=count, target=0, minimum=0, needed=count, hold_s=float(hold_s))
        needed = observe_needed(needed, {Tier.CHAT: demand}, now_s=now_s)
        seen.append((now_s, count))
    assert needed.most == max(count for at_s, count in seen if at_s >= now_s - hold_s)


def test_both_together_keep_what_is_enough_when_they_lend() -> None:
    """Chat needs four alone and reasoning two, but four lend reasoning what one has too few."""
    demands = {
        Tier.CHAT: GpuDemand(wanted=4, target=4, minimum=1, needed=4, hold_s=200.0),
        Tier.REASONING: GpuDemand(wanted=2, target=2, minimum=1, needed=2, hold_s=200.0),
    }
    together = {Tier.CHAT: 4, Tier.REASONING: 1}
    alone = observe_needed(NeededGpus(((-1.0, 5.0),)), demands, now_s=0.0)
    lending = observe_needed(NeededGpus(((-1.0, 5.0),)), demands, now_s=0.0, together=together)
    assert (alone.most, lending.most) == (6, 5)
    shares = allocate_gpus(demands, gpus=8, kept=lending.most)
    assert shares[Tier.REASONING].replicas == 2, "it needs both now"
    calm = {**demands, Tier.REASONING: replace(demands[Tier.REASONING], needed=1)}
    assert allocate_gpus(calm, gpus=8, kept=lending.most)[Tier.REASONING].replicas == 1
    assert allocate_gpus(calm, gpus=8, kept=alone.most)[Tier.REASONING].replicas == 2


def test_a_reserve_is_handed_over_when_what_was_ordered_serves() -> None:
    chat = GpuDemand(wanted=4, target=4, minimum=1, needed=4, starting=1)
    reasoning = GpuDemand(wanted=2, target=2, minimum=1, needed=1)
    waits = allocate_gpus({Tier.CHAT: chat, Tier.REASONING: reasoning}, gpus=8, kept=5)
    assert waits[Tier.REASONING].replicas == 2
    serves = {Tier.CHAT: replace(chat, starting=0), Tier.REASONING: reasoning}
    assert allocate_gpus(serves, gpus=8, kept=5)[Tier.REASONING].replicas == 1


needed_demands = st.builds(
    lambda wanted, target, needed, starting: GpuDemand(
        wanted, target, 1, needed=needed, hold_s=100.0, starting=min(starting, target)
    ),
    st.integers(1, 8),
    st.integers(1, 5),
    st.integers(0, 8),
    st.integers(0, 3),
)


@given(needed_demands, needed_demands, st.integers(0, 20), st.integers(2, 20))
def test_what_is_kept_for_all_gives_back_nothing_that_is_needed_now(
    chat: GpuDemand, reasoning: GpuDemand, kept: int, gpus: int
) -> None:
    demands = {Tier.CHAT: chat, Tier.REASONING: reasoning}
    within, without = (allocate_gpus(demands, gpus=gpus, kept=k) for k in (kept, None))
    for tier, demand in demands.items():
        enough = min(demand.target, demand.least, without[tier].replicas)
        assert enough <= within[tier].replicas
