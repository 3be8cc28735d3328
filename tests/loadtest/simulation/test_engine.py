"""The simulated engine against sums that can be done by hand."""

import pytest

from loadtest.simulation.engine import SimulatedEngine
from loadtest.simulation.profile import GpuProfile
from loadtest.simulation.sim_request import SimRequest
from serve_app.api.demand import DemandMeter
from serve_app.core.scaling.workload import LearntLengths
from serve_app.core.tiers import Tier
from tests.loadtest.simulation.builders import a_gpu


def an_engine(gpu: GpuProfile | None = None) -> SimulatedEngine:
    gpu = gpu or a_gpu()
    meter = DemandMeter(gpu.step_model, LearntLengths(100, 10), lambda: 0.0, slots=8)
    return SimulatedEngine(gpu, meter)


def a_sim_request(prompt_tokens: int = 100, new_tokens: int = 5) -> SimRequest:
    return SimRequest(1, Tier.CHAT, 0.0, prompt_tokens, new_tokens, 1024)


def run_until(engine: SimulatedEngine, until_s: float) -> dict[SimRequest, float]:
    """When each request ended."""
    ended: dict[SimRequest, float] = {}
    while (now_s := engine.stride_end_s) is not None and now_s <= until_s:
        ended |= dict.fromkeys(engine.end_stride(now_s), now_s)
    return ended


def run_dry(engine: SimulatedEngine) -> dict[SimRequest, float]:
    return run_until(engine, float("inf"))


def test_one_request_alone() -> None:
    """A prefill step of 10 + 0.1 x 100 ms yields the first token; four steps of 11 ms the rest."""
    engine, request = an_engine(), a_sim_request()
    engine.take(request, 2.0)
    assert run_dry(engine)[request] == pytest.approx(2.0 + 0.020 + 4 * 0.011)
    assert request.started_s == 2.0
    assert request.first_token_s == pytest.approx(2.020)


def test_two_at_once_share_their_steps() -> None:
    """10 + 0.1 x 200 ms for both prompts; then steps of 12 ms, and one of 11 ms alone."""
    engine, short, long = an_engine(), a_sim_request(new_tokens=3), a_sim_request(new_tokens=4)
    engine.take(short, 0.0)
    # The first step has begun without the second request: its prefill is the second step.
    engine.take(long, 0.0)
    ended = run_dry(engine)
    first_s, second_s = 0.020, 0.020 + 0.010 + 0.001 + 0.010
    assert short.first_token_s == pytest.approx(first_s)
    assert long.first_token_s == pytest.approx(second_s)
    assert ended[short] == pytest.approx(second_s + 0.012)
    assert ended[long] == pytest.approx(second_s + 0.012 + 2 * 0.011)


def test_one_that_joins_waits_for_the_step_that_runs() -> None:
    engine, first, second = an_engine(), a_sim_request(new_tokens=50), a_sim_request(new_tokens=1)
    engine.take(first, 0.0)
    run_until(engine, 0.021)
    assert engine.take(second, 0.025)
    assert engine.stride_end_s == pytest.approx(0.031)
    ended = run_dry(engine)
    assert second.started_s == pytest.approx(0.031)
    assert ended[second] == pytest.approx(0.031 + 0.021)
    assert ended[first] == pytest.approx(0.020 + 48 * 0.011 + 0.021)


def test_a_long_prompt_takes_several_steps() -> None:
    engine, request = an_engine(), a_sim_request(prompt_tokens=2048 + 48, new_tokens=1)
    engine.take(request, 0.0)
    assert run_dry(engine)[request] == pytest.approx(0.010 + 0.2048 + 0.010 + 0.0048)


def test_prompts_fill_what_the_sequences_leave_of_a_step() -> None:
    engine = an_engine(a_gpu(step_tokens=150))
    requests = [a_sim_request(new_tokens=2) for _ in range(2)]
    for request in requests:
        engine.take(request, 0.0)
    run_dry(engine)
    # Second step: one sequence, and a prompt of 100 tokens beside it.
    assert requests[1].first_token_s == pytest.approx(0.020 + 0.010 + 0.001 + 0.010)


def test_each_step_reads_the_contexts() -> None:
    """1 ms for 1,000 tokens: the four decode steps read 101, 102, 103 and 104 of them."""
    engine, request = an_engine(a_gpu(per_context_ktoken_ms=1.0)), a_sim_request()
    engine.take(request, 0.0)
    reading_s = (101 + 102 + 103 + 104) * 1e-6
    assert run_dry(engine)[request] == pytest.approx(0.020 + 4 * 0.011 + reading_s)


def test_a_stride_that_is_cut_ends_with_a_step() -> None:
    """Cut or not, each token comes at the same time as step by step."""
    gpu = a_gpu(per_context_ktoken_ms=50.0)
    times = [0.020]
    for step in range(40):
        times.append(times[-1] + 0.011 + (101 + step) * 50e-6)
    for joins_s in (0.0201, 0.1, 0.2, 0.4):
        engine, first = an_engine(gpu), a_sim_request(new_tokens=40)
        engine.take(first, 0.0)
        run_until(engine, 0.0201)
        second = a_sim_request(new_tokens=1)
        engine.take(second, joins_s)
        run_dry(engine)
        assert second.started_s == pytest.approx(next(at_s for at_s in times if at_s > joins_s))


def test_a_prompt_waits_for_room_in_the_pool() -> None:
    engine = an_engine(a_gpu(kv_tokens=250))
    first, second = a_sim_request(prompt_tokens=200), a_sim_request(prompt_tokens=200, new_tokens=1)
    engine.take(first, 0.0)
    engine.take(second, 0.0)
    assert engine.waiting == 1
    ended = run_dry(engine)
    assert second.started_s == ended[first] == pytest.approx(0.030 + 4 * 0.011)
    assert engine.preempted == 0


def test_a_full_pool_puts_the_newest_out_which_prefills_again() -> None:
    """250 tokens hold two prompts of 100 and 24 more for each; the newer one goes, and comes back
    when the older one has ended, with its prompt and what it has made."""
    engine = an_engine(a_gpu(kv_tokens=250))
    first, second = a_sim_request(new_tokens=60), a_sim_request(new_tokens=60)
    engine.take(first, 0.0)
    engine.take(second, 0.0)
    ended = run_dry(engine)
    assert engine.preempted == 1
    assert second.first_token_s == pytest.approx(0.020 + 0.021)
    assert ended[second] > ended[first]
    made = second.pool_tokens - 100
    assert made + second.tokens_left == 60
    again_s = 0.010 + 0.1e-3 * second.pool_tokens
    assert ended[second] - ended[first] == pytest.approx(again_s + (59 - made) * 0.011)


def test_it_teaches_the_meter_what_steps_take() -> None:
    engine = an_engine(a_gpu(per_context_ktoken_ms=20.0))
    engine.take(a_sim_request(prompt_tokens=1000, new_tokens=3), 0.0)
    run_dry(engine)
    # Against 11 ms derived, the two steps took 20.02 and 20.04 ms more for their contexts. They are
    # two of the three that were learnt, after the prompt's step, and weigh two thirds.
    assert engine.meter.speed.decode_factor == pytest.approx((1 + 2 * (11 + 20.03) / 11) / 3)
    assert engine.meter.steps == 3


def test_the_work_of_a_request_is_what_a_full_engine_takes_for_it() -> None:
    engine = an_engine()
    derived = engine.profile.step_model.request_s(slots=8, prompt_tokens=100, new_tokens=50)
    assert engine.work_s(100, 50, 8) == pytest.approx(derived)


def test_a_curve_takes_the_place_of_the_straight_line() -> None:
    """Steps of one, two and three sequences: 11, 30 and half of the way from 30 to 70 ms."""
    engine = an_engine(a_gpu(by_sequences={1: 11.0, 2: 30.0, 4: 70.0}))
    requests = [a_sim_request(new_tokens=tokens) for tokens in (6, 5, 4)]
    engine.take(requests[0], 0.0)
    for request in requests[1:]:
        engine.take(request, 0.0)
    ended = run_dry(engine)
    first_s = 0.011 + 0.010
    second_s = first_s + 0.011 + 2 * 0.010
    assert requests[1].first_token_s == requests[2].first_token_s == pytest.approx(second_s)
    assert ended[requests[2]] == pytest.approx(second_s + 3 * 0.050)
    assert ended[requests[1]] == ended[requests[0]] == pytest.approx(second_s + 3 * 0.050 + 0.030)
    assert engine.work_s(0, 10, 3) == pytest.approx(10 * 0.050 / 3)


def test_a_part_of_a_gpu_is_at_the_same_place_of_its_curve() -> None:
    engine = an_engine(a_gpu(by_sequences={1: 11.0, 2: 30.0, 4: 70.0}))
    engine.resize(0.5)
    assert engine.work_s(0, 10, 2) == pytest.approx(10 * 0.070 / 2)


def test_a_prompt_token_reads_those_before_it_in_earlier_steps_too() -> None:
    """2,096 tokens in steps of 2,048 and 48: together each token with each one before it."""
    gpu = a_gpu(per_prompt_mpair_ms=100.0)
    engine, request = an_engine(gpu), a_sim_request(prompt_tokens=2096, new_tokens=1)
    engine.take(request, 0.0)
    reading_s = 2096**2 / 2 * 100e-9
    assert run_dry(engine)[request] == pytest.approx(0.020 + 0.2096 + reading_s)
    assert engine.work_s(2096, 0, 8) == pytest.approx(0.2096 + reading_s)


def test_a_prompt_that_begins_lengthens_its_first_step_only() -> None:
    gpu = a_gpu(per_prompt_ms=40.0)
    engine, long, short = (
        an_engine(gpu),
        a_sim_request(prompt_tokens=2096),
        a_sim_request(new_tokens=1),
    )
    engine.take(long, 0.0)
    engine.take(short, 0.0)
    run_dry(engine)
    first_s = 0.010 + 0.2048 + 0.040
    assert short.started_s == pytest.approx(first_s)
    assert long.first_token_s == pytest.approx(first_s + 0.010 + 0.0148 + 0.040)
    assert engine.work_s(100, 0, 8) == pytest.approx(0.010 + 0.040)
