"""Serve's context in, replicas out; each decision is told once."""

from types import SimpleNamespace
from typing import Any

import pytest

NOW_S = 100.0
# Ray 2.60 itself gives pydantic this keyword when its config is imported.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Using extra keyword arguments on `Field`:DeprecationWarning"
)


@pytest.fixture
def policy(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The policy with a pool and a store of its own, and what it logs in `told`."""
    from serve_app.serving import gpu_pool, policy, scaling_store, standby

    policy_told: list[str] = []
    shown: list[Any] = []
    monkeypatch.setattr(policy.log, "info", lambda text, *values: policy_told.append(text % values))
    stood_by: list[str] = []
    standbys = standby.Standbys(lambda: {"busy": 0.0, "free": 1.0}, stood_by.append)
    monkeypatch.setattr(gpu_pool, "POOL", gpu_pool.GpuPool(_standbys=standbys))
    monkeypatch.setattr(gpu_pool, "_cluster_gpus", lambda: 3.0)
    monkeypatch.setattr(scaling_store, "write_record", lambda tier, record: shown.append(record))
    return SimpleNamespace(
        scale=policy.scale_on_queue_depth, told=policy_told, shown=shown, stood_by=stood_by
    )


def context(
    *,
    tier: str = "chat",
    target: int = 1,
    state: dict[str, Any] | None = None,
    now_s: float = NOW_S,
    least: int = 1,
    **figures: float,
) -> Any:
    point = {
        "running": 8.0,
        "queue_depth": 0.0,
        "slots": 8.0,
        "arriving_load": 0.5,
        "queued_s": 0.0,
        "typical_s": 1.0,
        "token_s": 0.01,
        "fallback": 0.0,
        "lend_share": 0.0,
        "gpus": 1.0,
        "law_start_s": 4.0,
        "law_wait_s": 2.0,
        "law_drain_within_s": 5.0,
        **figures,
    }
    replicas = [f"{tier}-{number}" for number in range(max(1, target))]
    return SimpleNamespace(
        app_name=tier,
        current_time=now_s,
        target_num_replicas=target,
        running_replicas=replicas,
        policy_state=state or {},
        capacity_adjusted_min_replicas=least,
        capacity_adjusted_max_replicas=4,
        raw_metrics={
            name: {replica: [SimpleNamespace(timestamp=now_s, value=value)] for replica in replicas}
            for name, value in point.items()
        },
    )


BURST: dict[str, Any] = {"queue_depth": 20.0, "queued_s": 20.0, "arriving_load": 2.0}


def test_a_burst_orders_replicas_and_is_told_once(policy: Any) -> None:
    """Serve asks several times a second; the same wish is one decision."""
    state: dict[str, Any] = {}
    for tick in range(3):
        wanted, state = policy.scale(context(state=state, now_s=NOW_S + tick / 4, **BURST))
        assert wanted == 3, "the cluster has three cards"
    assert [line.split(":")[0] for line in policy.told] == ["scale chat from 1 to 3"]
    assert [record.replicas_wanted for record in policy.shown] == [3]
    assert state["record"].inputs["queue_depth"] == 20


def test_figures_are_shown_every_few_seconds_without_a_change(policy: Any) -> None:
    state: dict[str, Any] = {}
    for tick in range(20):
        _, state = policy.scale(context(state=state, now_s=NOW_S + tick / 4))
    assert len(policy.shown) == 3
    assert policy.told == []


def test_the_settings_come_from_the_replicas(policy: Any) -> None:
    patient: dict[str, Any] = {**BURST, "law_wait_s": 100.0}
    assert policy.scale(context(**patient))[0] == 1


def test_chat_leaves_reasoning_its_minimum(policy: Any) -> None:
    policy.scale(context(tier="reasoning"))
    wanted, _ = policy.scale(context(**BURST))
    assert wanted == 2
    assert "shared out" in policy.told[0]


def test_what_reasoning_can_lend_spares_chat_a_card(policy: Any) -> None:
    alone, _ = policy.scale(context(arriving_load=1.7))
    assert alone == 2
    policy.scale(context(tier="reasoning", running=0.0, arriving_load=0.0, lend_share=1.0))
    lent, _ = policy.scale(context(arriving_load=1.7))
    assert lent == 1


def test_a_tier_without_cards_takes_none_from_the_budget(policy: Any) -> None:
    policy.scale(context(tier="reasoning", target=3))
    assert policy.scale(context(gpus=0.0, **BURST))[0] == 4, "its own maximum"


def test_a_silent_tier_keeps_its_minimum_from_the_other(policy: Any) -> None:
    """Its only replica has died, and nobody reports until the next one is up."""
    for tick in range(60):
        now_s = NOW_S + tick / 2
        silent = context(tier="reasoning", now_s=now_s)
        silent.raw_metrics, silent.running_replicas = {}, []
        assert policy.scale(silent)[0] == 1
        assert policy.scale(context(now_s=now_s, **BURST))[0] == 2


def test_missing_reports_hold_and_are_counted_once(policy: Any) -> None:
    silent = context(target=2)
    silent.raw_metrics = {}
    wanted, state = policy.scale(silent)
    assert wanted == 2
    silent.policy_state = state
    _, state = policy.scale(silent)
    assert state["record"].held_total == 1


def test_a_tier_that_may_goes_to_zero(policy: Any) -> None:
    idle: dict[str, Any] = {"running": 0.0, "arriving_load": 0.0}
    assert policy.scale(context(least=0, **idle))[0] == 0
    assert policy.scale(context(least=1, **idle))[0] == 1


def test_a_process_stands_by_where_a_card_stays_free(policy: Any) -> None:
    for tick in range(40):
        policy.scale(context(now_s=NOW_S + tick / 4))
    assert policy.stood_by == ["free"]
