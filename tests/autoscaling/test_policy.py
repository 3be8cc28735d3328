"""Serve's context in, replicas out; each decision is logged once."""

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
    """The policy with a pool and a store of its own, and what it logs in `logged`."""
    from serve_app.autoscaling import decision_store, gpu_pool, policy, prestart

    logged: list[str] = []
    prestarted: list[str] = []
    shown: list[Any] = []
    monkeypatch.setattr(policy.log, "info", lambda text, *values: logged.append(text % values))
    prestarter = prestart.Prestarter(lambda: {"busy": 0.0, "free": 1.0}, prestarted.append)
    monkeypatch.setattr(gpu_pool, "POOL", gpu_pool.GpuPool(_prestarter=prestarter))
    monkeypatch.setattr(gpu_pool, "_cluster_gpus", lambda: 3.0)
    monkeypatch.setattr(decision_store, "write_record", lambda tier, record: shown.append(record))
    return SimpleNamespace(
        scale=policy.scale_on_queue_depth, logged=logged, shown=shown, prestarted=prestarted
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
        "queued_requests": 0.0,
        "slots": 125.0,
        "slow_rps": 3.0,
        "quick_rps": 3.0,
        "slow_prompt_tokens_per_s": 1500.0,
        "quick_prompt_tokens_per_s": 1500.0,
        "observed_s": 600.0,
        "prompt_tokens": 500.0,
        "new_tokens": 200.0,
        "variation": 1.0,
        "answers_seen": 200.0,
        "base_ms": 14.5,
        "per_sequence_ms": 0.13,
        "per_prompt_token_ms": 0.125,
        "decode_factor": 1.0,
        "prefill_factor": 1.0,
        "fallback": 0.0,
        "lend_share": 0.0,
        "gpus": 1.0,
        "law_start_s": 4.0,
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


def arriving(rps: float, prompt_tokens: float = 500.0) -> dict[str, Any]:
    tokens = prompt_tokens * rps
    return {
        "slow_rps": rps,
        "quick_rps": rps,
        "slow_prompt_tokens_per_s": tokens,
        "quick_prompt_tokens_per_s": tokens,
    }


BURST: dict[str, Any] = {"queue_depth": 20.0, "queued_requests": 20.0, **arriving(30.0)}
QUIET: dict[str, Any] = arriving(0.0)


def test_a_burst_orders_replicas_and_is_logged_once(policy: Any) -> None:
    """Serve asks several times a second; the same demand is one decision."""
    state: dict[str, Any] = {}
    for tick in range(3):
        wanted, state = policy.scale(context(state=state, now_s=NOW_S + tick / 4, **BURST))
        assert wanted == 3, "the cluster has three GPUs"
    assert [line.split(":")[0] for line in policy.logged] == ["scale chat from 1 to 3"]
    assert [record.replicas_wanted for record in policy.shown] == [3]
    assert state["record"].inputs["queue_depth"] == 20


def test_figures_are_shown_every_few_seconds_without_a_change(policy: Any) -> None:
    state: dict[str, Any] = {}
    for tick in range(20):
        _, state = policy.scale(context(state=state, now_s=NOW_S + tick / 4))
    assert len(policy.shown) == 3
    assert policy.logged == []


def test_the_settings_come_from_the_replicas(policy: Any) -> None:
    lax: dict[str, Any] = arriving(8.5)
    patient: dict[str, Any] = {"law_slo_ttft_s": 30.0, "law_slo_tpot_s": 1.0, "law_goodput": 0.6}
    assert policy.scale(context(**lax))[0] == 2
    assert policy.scale(context(**lax, **patient))[0] == 1


def test_the_policy_remembers_from_one_call_to_the_next(policy: Any) -> None:
    """What was needed is kept for the hold, which begins when it is needed no more."""
    wanted, state = policy.scale(context(**BURST))
    calm, state = policy.scale(context(target=wanted, state=state, now_s=NOW_S + 50, **QUIET))
    assert calm == wanted
    later, _ = policy.scale(context(target=wanted, state=state, now_s=NOW_S + 500, **QUIET))
    assert later == 1


def test_chat_leaves_reasoning_its_minimum(policy: Any) -> None:
    policy.scale(context(tier="reasoning"))
    wanted, _ = policy.scale(context(**BURST))
    assert wanted == 2
    assert "allocated" in policy.logged[0]


def test_what_reasoning_can_lend_spares_chat_a_gpu(policy: Any) -> None:
    busy: dict[str, Any] = {**arriving(2.0, prompt_tokens=2000.0), "new_tokens": 15.0}
    alone, _ = policy.scale(context(**busy))
    assert alone == 2
    policy.scale(context(tier="reasoning", running=0.0, **QUIET, lend_share=1.0))
    lent, _ = policy.scale(context(**busy))
    assert lent == 1


def test_chat_keeps_what_reasoning_would_have_to_start(policy: Any) -> None:
    """Its need is known for some seconds after its own decision."""
    _, state = policy.scale(context(target=2, **QUIET, lend_share=0.5))
    late_s = NOW_S + 1000

    def chat_at(now_s: float) -> int:
        calm = context(target=2, state=state, now_s=now_s, **QUIET, lend_share=0.5)
        return policy.scale(calm)[0]

    assert chat_at(late_s) == 1
    short: dict[str, Any] = {**arriving(5.5, prompt_tokens=100.0), "new_tokens": 1000.0}
    assert policy.scale(context(tier="reasoning", now_s=late_s + 1, **short))[0] == 1, "it borrows"
    assert chat_at(late_s + 2) == 2
    assert chat_at(late_s + 60) == 1


def test_a_give_back_says_what_it_costs(policy: Any) -> None:
    _, state = policy.scale(context(target=2, **QUIET))
    calm = context(target=2, state=state, now_s=NOW_S + 1000, **QUIET, times_token_cost=1.0)
    calm.raw_metrics["times_token_cost"]["chat-1"][0].value = 4.0
    policy.scale(calm)
    assert "4.0 times as much" in policy.logged[-1]


def test_a_tier_without_gpus_takes_none_from_the_budget(policy: Any) -> None:
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
    idle: dict[str, Any] = {"running": 0.0, **QUIET}
    _, state = policy.scale(context(least=0, **idle))
    later_s = NOW_S + 1000
    assert policy.scale(context(least=0, state=state, now_s=later_s, **idle))[0] == 0
    assert policy.scale(context(least=1, state=state, now_s=later_s, **idle))[0] == 1


def test_a_worker_is_prestarted_where_a_gpu_stays_free(policy: Any) -> None:
    for tick in range(40):
        policy.scale(context(now_s=NOW_S + tick / 4))
    assert policy.prestarted == ["free"]
