"""Small fleets, by hand: the gate's refusals, the relay, lending, starts, drains, the balancer."""

from collections import Counter
from dataclasses import replace

import pytest

from loadtest.simulation.outcome import SimulationOutcome
from loadtest.simulation.replica import Clock, SimulatedReplica
from loadtest.simulation.run import simulate
from loadtest.simulation.setup import Setup, tier_plan
from loadtest.simulation.sim_request import SimRequest
from loadtest.simulation.static_set import AllServing
from loadtest.simulation.tier_state import LeastConnections
from loadtest.simulation.trace import Request, Trace
from serve_app.api.gate import GateFullError
from serve_app.core.tiers import Tier
from tests.loadtest.simulation.builders import a_gpu, a_request, a_setup, traffic

ONE = AllServing({Tier.CHAT: 1})


def run(*requests: Request, setup: Setup, policy: object = ONE) -> SimulationOutcome:
    trace = Trace(tuple(sorted(requests, key=lambda request: request.arrival_s)))
    return simulate(trace, setup, policy)  # pyright: ignore[reportArgumentType]


def test_times_are_the_clients() -> None:
    """Prefill 20 ms, then four steps of 11 ms; 30 ms on the way outside the engine."""
    outcome = run(a_request(1.0), setup=a_setup(a_gpu(overhead_ms=30)))
    chat = outcome.tiers[Tier.CHAT]
    assert (chat.requests, chat.served, chat.started_in_time) == (1, 1, 1)
    assert chat.ttft_s.p50 == pytest.approx(0.050)
    assert chat.e2e_s.p50 == pytest.approx(0.050 + 0.044)
    assert chat.tpot_s.p50 == pytest.approx(0.011)
    assert (chat.output_tokens, chat.prompt_tokens) == (5, 100)


def test_a_wait_at_the_gate_is_part_of_ttft() -> None:
    setup = a_setup(slots=1)
    chat = run(a_request(0.0), a_request(0.0), setup=setup).tiers[Tier.CHAT]
    assert chat.ttft_s.p99 == pytest.approx(0.020 + 0.044 + 0.020, abs=1e-3)
    assert chat.queue_wait_s.p99 == pytest.approx(0.064, abs=1e-3)


def test_the_gate_refuses_what_production_would() -> None:
    """One slot and two places in line: of five at once, two are refused, by name."""
    setup = a_setup(slots=1, max_queued_requests=2, max_wait_s=60.0)
    chat = run(*(a_request(0.0) for _ in range(5)), setup=setup).tiers[Tier.CHAT]
    assert (chat.served, chat.refused) == (3, {"queue_full": 2})
    assert chat.attainment == pytest.approx(3 / 5)
    assert chat.goodput_share == pytest.approx(3 / 5)


def test_who_is_refused_retries_after_retry_after() -> None:
    setup = a_setup(slots=1, max_queued_requests=2, max_wait_s=60.0, retries=1)
    chat = run(*(a_request(0.0) for _ in range(5)), setup=setup).tiers[Tier.CHAT]
    assert (chat.served, chat.refused, chat.retried) == (5, {}, 2)
    # Retry-After is in whole seconds, at least one; TTFT counts from when the client first asked.
    assert chat.ttft_s.p99 is not None
    assert chat.ttft_s.p99 > 1.0


def test_each_refusal_is_the_gates_own() -> None:
    """What the fleet refuses is what this replica's gate says to the same request."""
    setup = a_setup(slots=1, max_queued_requests=0)
    clock = Clock()
    replica = SimulatedReplica.build(tier_plan(Tier.CHAT, setup), "T4", clock, ready_s=0.0)
    replica.enter(SimRequest(1, Tier.CHAT, 0.0, 100, 5, 1024))
    with pytest.raises(GateFullError) as refused:
        replica.enter(SimRequest(2, Tier.CHAT, 0.0, 100, 5, 1024))
    assert refused.value.admission.reason == "queue_full"
    assert refused.value.admission.retry_after_s >= 1


def test_the_head_of_a_queue_finds_capacity_at_another_replica() -> None:
    """Two replicas with a slot each. HAProxy sends the third request to the one that has the long
    answer; the other one's is soon over, and it takes the third at its next look, after 0.25 s."""
    setup = a_setup(gpus={"T4": 2}, slots=1, initial={Tier.CHAT: 2})
    requests = [a_request(0.0, new_tokens=500), a_request(0.001), a_request(0.002)]
    chat = run(*requests, setup=setup, policy=AllServing({Tier.CHAT: 2})).tiers[Tier.CHAT]
    assert chat.relayed == 1
    assert chat.queue_wait_s.p99 == pytest.approx(0.25, abs=0.01)


def test_one_that_would_be_refused_is_passed_on_at_once() -> None:
    setup = a_setup(gpus={"T4": 2}, slots=1, initial={Tier.CHAT: 2}, max_queued_requests=0)
    requests = [a_request(0.0, new_tokens=500), a_request(0.001), a_request(0.1)]
    chat = run(*requests, setup=setup, policy=AllServing({Tier.CHAT: 2})).tiers[Tier.CHAT]
    assert (chat.served, chat.refused) == (3, {})


@pytest.mark.parametrize(("lend_share", "lent"), [(0.0, 0), (0.5, 1)])
def test_a_full_tier_borrows_half_of_the_others_slots(lend_share: float, lent: int) -> None:
    setup = a_setup(gpus={"T4": 2}, slots=2, max_queued_requests=0, lend_share=lend_share)
    thinks = a_request(0.0, tier=Tier.REASONING, new_tokens=2, limit=2048)
    requests = [thinks, *(a_request(0.5, new_tokens=100) for _ in range(4)), a_request(1.0)]
    policy = AllServing({Tier.CHAT: 1, Tier.REASONING: 1})
    chat = run(*requests, setup=setup, policy=policy).tiers[Tier.CHAT]
    assert chat.lent == lent
    assert chat.refused_total == 3 - lent


def test_a_replica_that_is_ordered_serves_after_its_start() -> None:
    """One slot each, answers of 1.1 s: the second of four takes the new replica's slot."""

    class Second:
        def targets(self, tiers: object, now_s: float) -> dict[Tier, int]:
            return {Tier.CHAT: 2 if now_s >= 1 else 1}

    setup = a_setup(a_gpu(start_s=3.0), gpus={"T4": 2}, slots=1)
    requests = [a_request(2.0, new_tokens=400), a_request(2.1), a_request(6.0)]
    outcome = run(*requests, setup=setup, policy=Second())
    chat = outcome.tiers[Tier.CHAT]
    # Ordered at 1 s, it serves at 4 s; the second request looks at 2.1, 2.35, ... 4.1 s.
    assert chat.queue_wait_s.p99 == pytest.approx(2.0, abs=0.05)
    assert [(c.at_s, c.replicas) for c in outcome.changes] == [(1.0, 2)]
    assert outcome.gpu_s["T4"] == pytest.approx(6.0 + 5.0)


def test_one_that_is_stopped_ends_what_it_has_and_frees_its_gpu() -> None:
    class Fewer:
        def targets(self, tiers: object, now_s: float) -> dict[Tier, int]:
            return {Tier.CHAT: 1 if now_s >= 1 else 2}

    setup = a_setup(gpus={"T4": 2}, slots=1, initial={Tier.CHAT: 2}, min_drain_s=0.0)
    # 20 ms and 499 steps of 11 ms: until 5.5 s.
    requests = [a_request(0.0, new_tokens=500), a_request(0.0, new_tokens=500), a_request(20.0)]
    outcome = run(*requests, setup=setup, policy=Fewer())
    assert outcome.tiers[Tier.CHAT].served == 3
    assert outcome.gpu_s["T4"] == pytest.approx(20 + 5.5, abs=0.6)


def test_a_tier_takes_its_preferred_gpu_and_falls_back() -> None:
    setup = a_setup(a_gpu("T4"), a_gpu("RTX4090"), initial={Tier.REASONING: 2})
    thinks = a_request(10.0, tier=Tier.REASONING)
    outcome = run(thinks, setup=setup, policy=AllServing({Tier.REASONING: 2}))
    assert outcome.gpu_s == {"T4": 10.0, "RTX4090": 10.0}
    alone = run(thinks, setup=replace(setup, initial={}), policy=AllServing({Tier.REASONING: 1}))
    assert alone.gpu_s == {"T4": 0.0, "RTX4090": 10.0}


def test_gpus_cost_what_their_profile_says() -> None:
    gpus = a_gpu("RTX4090", price_usd_per_hour=0.5), a_gpu("T4")
    outcome = run(a_request(3600.0), setup=a_setup(*gpus))
    assert outcome.cost_usd == {"RTX4090": pytest.approx(0.5)}
    assert outcome.total_cost_usd == pytest.approx(0.5)
    dear = run(
        a_request(3600.0, tier=Tier.REASONING),
        setup=a_setup(*gpus, initial={Tier.REASONING: 2}),
        policy=AllServing({Tier.REASONING: 2}),
    )
    assert dear.total_cost_usd is None, "the price of the GPU that was used is not known"


def test_the_balancer_chooses_the_fewest_connections_in_turn() -> None:
    plan, clock = tier_plan(Tier.CHAT, a_setup()), Clock()
    replicas = [SimulatedReplica.build(plan, "T4", clock, ready_s=0.0) for _ in range(3)]
    balancer = LeastConnections()
    for replica in replicas:
        balancer.add(replica)
    assert [balancer.choose() for _ in range(6)] == replicas * 2
    for _ in range(2):
        balancer.end(replicas[1])
    assert [balancer.choose() for _ in range(2)] == [replicas[1]] * 2
    balancer.remove(replicas[0])
    chosen = Counter(id(balancer.choose()) for _ in range(100))
    assert chosen == {id(replicas[1]): 50, id(replicas[2]): 50}


@pytest.mark.parametrize("retries", [0, 2])
def test_nothing_is_lost_and_nothing_counted_twice(retries: int) -> None:
    """An overload with relays, lending, refusals, starts and drains."""

    class Restless:
        def targets(self, tiers: object, now_s: float) -> dict[Tier, int]:
            return {Tier.CHAT: 1 + int(now_s / 20) % 3, Tier.REASONING: 1}

    trace = traffic((Tier.CHAT, 0, 120, 12.0), (Tier.REASONING, 0, 120, 0.5))
    gpus = {"T4": 2, "RTX4090": 2}
    setup = a_setup(
        a_gpu("T4", start_s=5.0, kv_tokens=20_000),
        a_gpu("RTX4090", base_ms=4, start_s=5.0),
        gpus=gpus,
        slots=16,
        lend_share=0.5,
        retries=retries,
    )
    outcome = simulate(trace, setup, Restless())
    for tier, counts in outcome.tiers.items():
        assert counts.requests == sum(request.tier is tier for request in trace.requests)
        assert counts.served + counts.refused_total == counts.requests
    assert outcome.lent > 0
    assert outcome.refused + sum(counts.retried for counts in outcome.tiers.values()) > 0
    assert sum(outcome.gpu_s.values()) <= 4 * outcome.duration_s
    assert simulate(trace, setup, Restless()) == outcome, "equal seeds, equal runs"
