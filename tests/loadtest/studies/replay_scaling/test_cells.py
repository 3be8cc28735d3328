"""What is replayed, and that both sides get the same of it."""

from collections import Counter
from dataclasses import replace

import pytest

from loadtest.scenario import Slo
from loadtest.simulation.profile import known_profiles
from loadtest.simulation.setup import Setup, tier_plan
from loadtest.simulation.trace import Request, Trace
from loadtest.studies.replay_scaling.cells import CELLS, IDLE_S, STEP_TIMES, ReplayCell, cut, slowed
from loadtest.studies.replay_scaling.cluster import (
    PROCESS_S,
    application,
    autoscaling_config,
    fake_engine,
)
from serve_app.config.admission import AdmissionConfig
from serve_app.config.engine import FakeEngineConfig
from serve_app.config.tier import TierArgs
from serve_app.core.admission.capacity import derive_limits
from serve_app.core.default_model import DEFAULT_MODEL_CONFIG
from serve_app.core.placement.hardware import T4, model_shape
from serve_app.core.tiers import DEFAULT_MAX_NEW_TOKENS, Tier
from serve_app.engine.fake.engine import simulated_gpu

pytestmark = pytest.mark.filterwarnings(
    # Ray 2.60 itself gives pydantic this keyword when its config is imported.
    "ignore:Using extra keyword arguments on `Field`:DeprecationWarning"
)
PROFILES = known_profiles()


def evenly(count: int) -> Trace:
    return Trace(tuple(Request(Tier.CHAT, float(at_s), 100, 10, 1024) for at_s in range(count)))


def test_a_cut_begins_at_nought_and_has_its_load() -> None:
    part = cut(evenly(1000), start_s=200.0, length_s=300.0, times=2.0)
    arrivals = [request.arrival_s for request in part.requests]
    assert arrivals == sorted(arrivals)
    assert 0 <= arrivals[0] < arrivals[-1] <= 300
    assert len(arrivals) == pytest.approx(600, rel=0.02)
    assert part.times == 1.0


def test_a_thin_cut_keeps_its_length() -> None:
    part = cut(evenly(1000), start_s=0.0, length_s=1000.0, times=0.25)
    assert len(part.requests) == pytest.approx(250, rel=0.2)
    assert part.requests[-1].arrival_s > 900


@pytest.mark.parametrize("cell", CELLS.values(), ids=lambda cell: cell.name)
def test_a_cell_is_the_same_each_time_and_fits_its_length(cell: ReplayCell) -> None:
    trace = cell.trace(120.0, 1.0)
    assert trace == cell.trace(120.0, 1.0)
    assert 100 < trace.requests[-1].arrival_s <= 120
    assert set(trace.tiers) == set(cell.initial)
    assert sum(cell.initial.values()) <= sum(cell.gpus.values())
    half = cell.trace(120.0, 0.5)
    assert len(half.requests) == pytest.approx(len(trace.requests) / 2, rel=0.2)


def test_bursts_are_distinguished_from_calm() -> None:
    per_s = Counter(int(r.arrival_s) for r in CELLS["prompt-heavy"].trace(600.0, 1.0).requests)
    assert sum(count >= 8 for count in per_s.values()) >= 20
    assert sum(per_s[second] <= 4 for second in range(600)) >= 300


def test_a_slowed_gpu_takes_longer_for_its_steps_alone() -> None:
    gpu, slow = PROFILES["T4"], slowed(PROFILES["T4"], 3.0)
    for name in STEP_TIMES:
        assert getattr(slow, name).value == pytest.approx(3 * getattr(gpu, name).value)
    assert slow.start_total_s == gpu.start_total_s
    assert slow.kv_tokens == gpu.kv_tokens
    assert slowed(gpu, 1.0) is gpu


@pytest.mark.parametrize("cell", CELLS.values(), ids=lambda cell: cell.name)
def test_the_application_is_the_mixed_one_on_the_fake_engine(cell: ReplayCell) -> None:
    tiers = tuple(cell.initial)
    config = application(cell, PROFILES, tiers, 16, least=cell.initial)
    assert [app["name"] for app in config["applications"]] == ["web", *tiers]
    for app in config["applications"][1:]:
        tier = Tier(app["name"])
        fake = TierArgs.model_validate(app["args"]).engine.fake
        assert fake is not None
        assert fake.stream_interval == 16
        assert fake.start_s + PROCESS_S == max(PROFILES[gpu].start_total_s for gpu in cell.gpus)
        (deployment,) = app["deployments"]
        scaling = deployment["autoscaling_config"]
        assert scaling["min_replicas"] == cell.initial[tier]
        assert scaling["max_replicas"] == sum(cell.gpus.values())
        assert ("policy" in scaling) == (cell.policy == "ours")
        assert autoscaling_config(cell, tier)["min_replicas"] == 1


@pytest.mark.parametrize("slow", [1.0, 2.0])
def test_the_replica_derives_the_limits_that_the_simulation_derives(slow: float) -> None:
    """Otherwise the gates on both sides would be different ones."""
    profiles = {"T4": slowed(PROFILES["T4"], slow)}
    cell = CELLS["azure"]
    fake = FakeEngineConfig.model_validate(fake_engine(cell, profiles, 1))
    gpu, admission = fake.cards["T4"], AdmissionConfig()
    limits = derive_limits(
        simulated_gpu(fake, T4),
        model_shape(DEFAULT_MODEL_CONFIG),
        kv_tokens=gpu.kv_tokens,
        prompt_tokens=admission.expected_prompt_tokens,
        max_new_tokens=DEFAULT_MAX_NEW_TOKENS[Tier.CHAT],
        expected_new_tokens=admission.expected_new_tokens,
        min_stream_tokens_per_s=admission.min_stream_tokens_per_s,
        max_wait_s=admission.max_wait_s,
    )
    simulated = tier_plan(Tier.CHAT, Setup(gpus=cell.gpus, profiles=profiles)).gpu_plans["T4"]
    assert limits.slots == simulated.limits.slots
    assert limits.max_queued_requests == simulated.limits.max_queued_requests
    assert limits.batch_cost == pytest.approx(simulated.limits.batch_cost)
    assert limits.service_s == pytest.approx(simulated.service.mean_s)


@pytest.mark.parametrize("name", ["step", "step-ray"])
def test_the_simulation_counts_from_the_first_request(name: str) -> None:
    """All GPUs of the cell serve from the beginning, and none is given back so soon."""
    from loadtest.studies.replay_scaling.simulated import simulate_replay

    cell = replace(CELLS[name], gpus={"T4": 2}, initial={Tier.CHAT: 2})
    trace = cell.trace(40.0, 1.0)
    outcome = simulate_replay(cell, trace, PROFILES, Slo(ttft=2.0, tpot=0.1))
    assert outcome.requests == len(trace.requests)
    assert outcome.gpu_hours == pytest.approx(2 * trace.duration_s / 3600, rel=0.01)
    assert outcome.duration_s == pytest.approx(trace.duration_s)


def test_the_simulations_times_begin_with_the_first_request() -> None:
    from loadtest.studies.replay_scaling.simulated import simulate_replay

    cell = CELLS["step-ray"]
    outcome = simulate_replay(cell, cell.trace(60.0, 1.0), PROFILES, Slo(ttft=2.0, tpot=0.1))
    assert outcome.changes
    assert all(change.at_s >= -IDLE_S for change in outcome.changes)
    assert any(0 < change.at_s < 60 for change in outcome.changes)
