"""What is made of Serve's sights: GPU seconds, scale actions, starts."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.studies.replay_scaling.replay import (
    Sight,
    gpu_seconds,
    scale_actions,
    sight_of,
    starts_s,
)
from serve_app.core.tiers import Tier

CHAT, REASONING = Tier.CHAT, Tier.REASONING


def sight(at_s: float, target: int, **states: str) -> Sight:
    return Sight(at_s, {CHAT: states}, {CHAT: target})


def served(name: str, target: int, *states: str) -> dict[str, Any]:
    replicas = [{"replica_id": f"{name}{i}", "state": state} for i, state in enumerate(states)]
    return {"deployments": {name: {"replicas": replicas, "target_num_replicas": target}}}


def test_a_sight_has_the_tiers_alone() -> None:
    applications = {
        "web": served("web", 1, "RUNNING"),
        "chat": served("chat", 2, "RUNNING", "STARTING", "STOPPING"),
        "reasoning": {"deployments": {}},
    }
    seen = sight_of(applications, 7.0)
    assert seen.targets == {CHAT: 2}
    assert sorted(seen.states[CHAT].values()) == ["RUNNING", "STARTING", "STOPPING"]


def test_a_replica_holds_its_gpu_from_its_order_to_the_end_of_its_drain() -> None:
    sights = [
        sight(0.0, 1, a="RUNNING"),
        sight(10.0, 2, a="RUNNING", b="STARTING"),
        sight(30.0, 2, a="RUNNING", b="RUNNING"),
        sight(50.0, 1, a="RUNNING", b="STOPPING"),
        sight(55.0, 1, a="RUNNING"),
    ]
    assert gpu_seconds(sights, 0.0, 60.0) == {CHAT: 60.0 + 45.0}
    assert gpu_seconds(sights, 20.0, 52.0) == {CHAT: 2 * 32.0}
    actions = scale_actions(sights, 0.0, 60.0)
    assert [(action.at_s, action.replicas) for action in actions] == [(10.0, 2), (50.0, 1)]
    assert scale_actions(sights, 20.0, 60.0)[0].replicas == 1
    assert starts_s(sights) == [20.0]


@given(
    counts=st.lists(st.integers(0, 5), min_size=1, max_size=20),
    start_s=st.floats(0, 10),
    length_s=st.floats(0, 30),
)
def test_seconds_lie_between_those_of_the_fewest_and_the_most(
    counts: list[int], start_s: float, length_s: float
) -> None:
    sights = [
        sight(float(at_s), count, **{f"r{number}": "RUNNING" for number in range(count)})
        for at_s, count in enumerate(counts)
    ]
    held = gpu_seconds(sights, start_s, start_s + length_s)[CHAT]
    assert min(counts) * length_s <= held + 1e-6
    assert held <= max(counts) * length_s + 1e-6


def test_no_sight_is_no_replica() -> None:
    assert gpu_seconds([], 0.0, 10.0) == {}
    assert scale_actions([], 0.0, 10.0) == []
    assert starts_s([]) == []


def test_tiers_are_counted_apart() -> None:
    both = Sight(0.0, {CHAT: {"a": "RUNNING"}, REASONING: {"b": "RUNNING", "c": "STARTING"}}, {})
    assert gpu_seconds([both], 0.0, 5.0) == {
        CHAT: pytest.approx(5.0),
        REASONING: pytest.approx(10.0),
    }
