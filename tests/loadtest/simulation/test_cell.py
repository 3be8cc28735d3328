"""A part of a fleet stands for the whole: which part, and that it says the same."""

from dataclasses import replace

import pytest

from loadtest.simulation.cell import cell_of
from loadtest.simulation.outcome import SimulationOutcome
from loadtest.simulation.replica import Clock, SimulatedReplica
from loadtest.simulation.run import simulate
from loadtest.simulation.setup import tier_plan
from loadtest.simulation.sim_request import SimRequest
from loadtest.simulation.static_set import AllServing
from loadtest.simulation.tier_state import TierState
from loadtest.simulation.trace import Trace
from serve_app.core.tiers import Tier
from tests.loadtest.simulation.builders import a_gpu, a_setup, traffic

pytestmark = pytest.mark.filterwarnings(
    # Ray 2.60 itself gives pydantic this keyword when its config is imported.
    "ignore:Using extra keyword arguments on `Field`:DeprecationWarning"
)
GPUS = (
    a_gpu("T4", per_prompt_token_ms=0.02, start_s=20),
    a_gpu("RTX4090", base_ms=5, per_prompt_token_ms=0.02, start_s=20),
)
BIG = a_setup(*GPUS, gpus={"T4": 20, "RTX4090": 20}, slots=32)
TRAFFIC = traffic((Tier.CHAT, 0, 40, 4.0), prompt_tokens=300, new_tokens=60)


def test_the_cell_has_the_same_part_of_gpus_and_of_the_load() -> None:
    cell = cell_of(replace(TRAFFIC, times=10), replace(BIG, weight=4))
    assert (cell.gpus, cell.weight) == ({"T4": 5, "RTX4090": 5}, 4)
    assert len(cell.arrivals) == pytest.approx(10 / 4 * len(TRAFFIC.requests), rel=0.1)


def test_the_weight_is_chosen_by_the_requests_and_divides_the_gpus() -> None:
    trace = replace(TRAFFIC, times=30)
    few = replace(BIG, most_requests=int(trace.expected_requests / 2.5))
    assert cell_of(trace, few).gpus == {"T4": 5, "RTX4090": 5}
    assert cell_of(trace, replace(BIG, most_requests=10**9)).weight == 1
    uneven = replace(BIG, gpus={"T4": 21, "RTX4090": 20}, weight=4)
    assert cell_of(trace, uneven).weight == pytest.approx(41 / 10)


def test_each_tier_keeps_a_gpu() -> None:
    both = traffic((Tier.CHAT, 0, 60, 1.0), (Tier.REASONING, 0, 60, 1.0))
    setup = a_setup(gpus={"T4": 4}, weight=4)
    assert cell_of(both, setup).gpus == {"T4": 4}


def test_the_target_is_whole_replicas_of_a_part_each() -> None:
    state = TierState(tier_plan(Tier.CHAT, BIG), weight=10.0, target=23.0)
    assert (state.cell_target, state.size) == (3, pytest.approx(23 / 30))
    state.target = 30.0
    assert (state.cell_target, state.size) == (3, 1.0)


def test_a_part_of_a_replica_takes_as_long_for_that_part_of_a_batch() -> None:
    """Half of a GPU with half of the requests, each of the same length, steps alike."""

    def ends_s(size: float, requests: int) -> list[float]:
        clock = Clock()
        plan = tier_plan(Tier.CHAT, a_setup(a_gpu(per_context_ktoken_ms=5.0), slots=8))
        replica = SimulatedReplica.build(plan, "T4", clock, ready_s=0.0)
        replica.resize(size)
        for number in range(requests):
            replica.enter(SimRequest(number, Tier.CHAT, 0.0, 200, 20, 1024))
        engine, ends = replica.engine, []
        for request in replica.granted:
            engine.take(request, 0.0)
        while engine.stride_end_s is not None:
            ends += [engine.stride_end_s] * len(engine.end_stride(engine.stride_end_s))
        return ends

    whole = ends_s(1.0, 8)
    half = ends_s(0.5, 4)
    # The first request begins alone; all the others join with the second step.
    assert half[-1] == pytest.approx(whole[-1], rel=0.02)


def test_what_a_part_reports_is_of_a_whole_replica() -> None:
    replica = SimulatedReplica.build(tier_plan(Tier.CHAT, BIG), "T4", Clock(), ready_s=0.0)
    whole = replica.report()
    replica.resize(0.5)
    assert replica.report() == replace(whole)


def test_a_target_that_grows_by_a_part_is_felt_after_a_start() -> None:
    state = TierState(tier_plan(Tier.CHAT, BIG), weight=10.0, target=5.0)
    replica = SimulatedReplica.build(state.plan, "T4", Clock(), ready_s=0.0)
    state.serve(replica)
    state.fit(0.0)
    assert replica.size == pytest.approx(0.5)
    state.target = 8.0
    for now_s, size in ((100.0, 0.5), (119.0, 0.5), (121.0, 0.8)):
        state.fit(now_s)
        assert replica.size == pytest.approx(size), now_s
    state.target = 6.0
    state.fit(122.0)
    assert replica.size == pytest.approx(0.6), "what is given back is gone at once"


def test_a_part_costs_what_its_target_says() -> None:
    setup = a_setup(gpus={"T4": 20}, weight=10, initial={Tier.CHAT: 13})
    outcome = simulate(replace(TRAFFIC, times=10), setup, AllServing({Tier.CHAT: 13}))
    assert outcome.gpu_hours * 3600 == pytest.approx(13 * outcome.duration_s, rel=1e-6)


@pytest.mark.parametrize("weight", [4, 10])
def test_a_fleet_that_stands_still_looks_the_same_in_a_cell(weight: int) -> None:
    policy = AllServing({Tier.CHAT: 30})
    setup = replace(BIG, initial={Tier.CHAT: 30})
    assert_alike(
        *(
            simulate(replace(TRAFFIC, times=50), replace(setup, weight=each), policy)
            for each in (1, weight)
        )
    )


@pytest.mark.parametrize(("weight", "off"), [(4, 0.05), (10, 0.2)])
def test_a_fleet_that_is_scaled_looks_the_same_in_a_cell(weight: int, off: float) -> None:
    """Ours for the whole fleet, and for a part of it. With two simulated replicas a burst of the
    first seconds, which twenty even out, orders ten that the fleet would not."""
    trace = replace(
        traffic(
            (Tier.CHAT, 0, 120, 1.5), (Tier.CHAT, 30, 75, 1.5), prompt_tokens=300, new_tokens=60
        ),
        times=40,
    )
    whole, cell = (_ours(trace, each) for each in (1, weight))
    assert {change.replicas for change in whole.changes}, "it is scaled"
    assert_alike(whole, cell, gpu_hours_off=off)


def test_a_cell_sees_its_load_from_the_first_second() -> None:
    """Its fleet's minimum is a tenth of the least that reports; such a cell would order nothing for
    a start, and then all."""
    from loadtest.simulation.contest import run_policy

    trace = replace(traffic((Tier.CHAT, 0, 60, 3.0), prompt_tokens=300, new_tokens=60), times=20)
    setup = a_setup(*GPUS, gpus={"T4": 200, "RTX4090": 200}, slots=32, weight=40)
    cell = run_policy("ours", trace, setup, goodput=None).outcome
    assert cell.changes[0].at_s <= 5.0
    assert max(change.replicas for change in cell.changes) < 200


def assert_alike(
    whole: SimulationOutcome, cell: SimulationOutcome, *, gpu_hours_off: float = 1e-6
) -> None:
    assert (whole.weight, cell.weight > 1) == (1, True)
    assert cell.simulated_requests == pytest.approx(whole.requests / cell.weight, rel=0.02)
    assert cell.requests == pytest.approx(whole.requests, rel=0.02)
    assert cell.gpu_hours == pytest.approx(whole.gpu_hours, rel=gpu_hours_off)
    assert cell.attainment == pytest.approx(whole.attainment, abs=0.02)
    chat, cell_chat = whole.tiers[Tier.CHAT], cell.tiers[Tier.CHAT]
    assert cell_chat.ttft_s.p50 == pytest.approx(chat.ttft_s.p50, rel=0.08)
    assert cell_chat.e2e_s.p50 == pytest.approx(chat.e2e_s.p50, rel=0.08)
    assert cell_chat.goodput_rps == pytest.approx(chat.goodput_rps, rel=0.04)
    assert cell.utilisation == pytest.approx(whole.utilisation, rel=0.02 + gpu_hours_off)


def _ours(trace: Trace, weight: int) -> SimulationOutcome:
    from loadtest.simulation.contest import run_policy

    setup = replace(BIG, weight=weight, initial={Tier.CHAT: 20})
    return run_policy("ours", trace, setup, goodput=None).outcome
