"""What KEDA's, llm-d's and AIBrix's policies count, at what they see."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from loadtest.simulation.kubernetes_policies import (
    AibrixApa,
    Descent,
    LlmdSaturation,
    WaitingThreshold,
)
from serve_app.core.tiers import Tier


@dataclass(eq=False)
class SimulatedReplica:
    queue_depth: float
    engine: SimpleNamespace
    size: float = 1.0


def replica(*, queue: float = 0.0, kv: float = 0.0) -> SimulatedReplica:
    return SimulatedReplica(queue, SimpleNamespace(kv_usage=kv))


def a_tier(*replicas: SimulatedReplica, target: int | None = None, ongoing: int = 0) -> Any:
    serving = list(replicas)
    return SimpleNamespace(
        target=len(serving) if target is None else target,
        weight=1.0,
        serving=dict.fromkeys(serving),
        starting_or_serving=serving * (1 if target in (None, len(serving)) else 2),
        queue_depth=sum(r.queue_depth for r in serving),
        ongoing=ongoing,
    )


def desired(policy: Any, tier: Any, now_s: float = 0.0) -> float:
    return policy.targets({Tier.CHAT: tier}, now_s)[Tier.CHAT]


def test_a_count_falls_only_after_the_highest_count_of_the_window() -> None:
    descent = Descent(300.0)
    assert descent.apply(Tier.CHAT, 5, 2, 0.0) == 5
    assert descent.apply(Tier.CHAT, 1, 5, 200.0) == 5
    assert descent.apply(Tier.CHAT, 2, 5, 301.0) == 2


@pytest.mark.parametrize(
    ("waiting", "count"), [(10.0, 2), (10.9, 2), (12.0, 3), (100.0, 8), (0.0, 2)]
)
def test_keda_desires_a_replica_for_each_threshold_outside_a_tolerance(
    waiting: float, count: int
) -> None:
    policy = WaitingThreshold(5, 1, 8)
    # A count of zero waits for the window before it falls: the count of now is remembered.
    policy.descent.apply(Tier.CHAT, 2, 2, -1.0)
    assert desired(policy, a_tier(replica(queue=waiting / 2), replica(queue=waiting / 2))) == count


def test_llmd_desires_one_more_where_queues_or_caches_are_near_their_threshold() -> None:
    policy = LlmdSaturation(5, 3, 1, 10)
    assert desired(policy, a_tier(replica(queue=3), replica(queue=2))) == 3
    assert desired(LlmdSaturation(5, 3, 1, 10), a_tier(replica(kv=0.75), replica(kv=0.7))) == 3
    assert desired(LlmdSaturation(5, 3, 1, 10), a_tier(replica(queue=9), replica(kv=0.9))) == 3


def test_llmd_desires_none_while_one_starts() -> None:
    assert desired(LlmdSaturation(5, 3, 1, 10), a_tier(replica(queue=9), target=2)) == 2


def test_llmd_gives_one_back_where_the_rest_would_keep_enough() -> None:
    policy = LlmdSaturation(5, 3, 1, 10, descent=Descent(0.0))
    assert desired(policy, a_tier(replica(kv=0.1), replica(kv=0.1), replica())) == 2
    full = LlmdSaturation(5, 3, 1, 10, descent=Descent(0.0))
    assert desired(full, a_tier(replica(kv=0.5), replica(kv=0.5))) == 2


@pytest.mark.parametrize(
    ("ongoing", "count"), [(40, 4), (43, 4), (60, 6), (400, 8), (35, 4), (20, 2), (0, 2)]
)
def test_aibrix_follows_the_load_of_a_replica_twofold_at_most(ongoing: int, count: int) -> None:
    tier = a_tier(*(replica() for _ in range(4)), ongoing=ongoing)
    assert desired(AibrixApa(10, 1, 100), tier) == count


def test_aibrix_waits_after_a_change_before_it_gives_back() -> None:
    policy = AibrixApa(10, 1, 100, cooldown_s=300.0)
    four = [replica() for _ in range(4)]
    assert desired(policy, a_tier(*four, ongoing=60), 0.0) == 6
    assert desired(policy, a_tier(*four, ongoing=5), 100.0) == 4
    assert desired(policy, a_tier(*four, ongoing=5), 301.0) == 2
