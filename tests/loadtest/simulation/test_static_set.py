"""The bound by arithmetic, how GPUs are divided, and the load that a small set sustains."""

import itertools
from dataclasses import replace

import pytest

from loadtest.scenario import Slo, Uniform
from loadtest.simulation.profile import GpuProfile, known_profiles
from loadtest.simulation.setup import Setup
from loadtest.simulation.static_set import Bench
from loadtest.simulation.sustained_load import maximum_sustained_load, sustaining_split
from loadtest.simulation.traffic import Independent
from serve_app.core.tiers import Tier
from tests.loadtest.simulation.builders import curve

GPUS = {"T4": 2, "RTX4090": 3}


def times_slower(profile: GpuProfile, factor: float, name: str) -> GpuProfile:
    """A GPU that makes fewer requests a second, so that little has to be simulated."""
    figures = ("base_ms", "per_sequence_ms", "per_prompt_token_ms", "per_context_ktoken_ms")
    slower = {
        figure: (own := getattr(profile, figure)).model_copy(update={"value": factor * own.value})
        for figure in figures
    }
    return profile.model_copy(update={"name": name, **slower})


def a_bench(*, slo: Slo | None = None, chat: float = 0.8) -> Bench:
    shares = {Tier.CHAT: chat, Tier.REASONING: 1 - chat} if chat < 1 else {Tier.CHAT: 1.0}
    lengths = dict.fromkeys(Tier, Uniform(low=100, high=300))
    known = known_profiles()
    slow = times_slower(known["T4"], 8, "slow")
    setup = Setup(
        gpus=GPUS,
        profiles={**known, "slow": slow},
        slos=dict.fromkeys(Tier, slo or Slo(ttft=5.0, tpot=1.5)),
        slots=8,
    )
    return Bench(Independent(shares, lengths, lengths, requests=100), setup, goodput=0.9)


def test_the_bound_of_one_tier_is_the_sum_of_its_gpus() -> None:
    bench = a_bench(chat=1.0)
    one = {gpu: bench.gpu_bound_rps(gpu, Tier.CHAT) for gpu in GPUS}
    assert bench.bound_rps(GPUS) == pytest.approx(2 * one["T4"] + 3 * one["RTX4090"])
    assert one["RTX4090"] > one["T4"] > 0


@pytest.mark.parametrize("chat", [0.05, 0.3, 0.5, 0.8, 0.97])
def test_the_bound_of_two_tiers_is_the_best_division_of_the_gpus_time(chat: float) -> None:
    bench = a_bench(chat=chat)
    rates = {
        gpu: [bench.gpu_bound_rps(gpu, tier) for tier in (Tier.CHAT, Tier.REASONING)]
        for gpu in GPUS
    }
    best = 0.0
    for parts in itertools.product([step / 100 for step in range(101)], repeat=2):
        served = [0.0, 0.0]
        for (gpu, count), part in zip(GPUS.items(), parts, strict=True):
            served[0] += count * part * rates[gpu][0]
            served[1] += count * (1 - part) * rates[gpu][1]
        best = max(best, min(served[0] / chat, served[1] / (1 - chat)))
    assert best <= bench.bound_rps(GPUS) * 1.000001
    assert best == pytest.approx(bench.bound_rps(GPUS), rel=0.02)


def test_a_tight_promise_on_tokens_lowers_the_bound_to_nothing() -> None:
    loose, tight, never = (
        a_bench(chat=1.0, slo=Slo(tpot=tpot)).gpu_bound_rps("T4", Tier.CHAT)
        for tpot in (1.0, 0.0155, 0.014)
    )
    assert loose > tight > 0
    assert never == 0


def test_a_curve_is_bound_by_its_best_batch() -> None:
    """The step of eight takes so long that four at a time make more tokens."""
    bench = a_bench(chat=1.0)
    straight = bench.gpu_bound_rps("T4", Tier.CHAT)
    known = bench.setup.profiles

    def bound_rps(step_ms: dict[int, float]) -> float:
        bent = known["T4"].model_copy(update={"by_sequences": curve(step_ms)})
        setup = replace(bench.setup, profiles={**known, "T4": bent})
        return replace(bench, setup=setup).gpu_bound_rps("T4", Tier.CHAT)

    line_ms = {batch: known["T4"].batch_ms(batch) for batch in (1, 4, 8)}
    assert bound_rps(line_ms) == pytest.approx(straight)
    assert bound_rps({**line_ms, 8: 100.0}) == pytest.approx(bound_rps({**line_ms, 8: 200.0}))
    assert bound_rps({**line_ms, 8: 100.0}) < straight
    assert bound_rps({1: 2000.0, 4: 2000.0}) == 0


def test_each_tier_gets_its_preferred_gpus_first() -> None:
    bench = a_bench()
    assert bench.placed(GPUS, {Tier.CHAT: 3, Tier.REASONING: 2}) == {
        Tier.CHAT: {"RTX4090": 3, "T4": 0},
        Tier.REASONING: {"RTX4090": 0, "T4": 2},
    }


def test_the_division_with_most_room_comes_first() -> None:
    splits = a_bench().splits({"RTX4090": 10})
    assert splits[0][Tier.CHAT] == 8
    assert all(split[Tier.CHAT] + split[Tier.REASONING] == 10 for split in splits)
    assert a_bench().splits({"T4": 1}) == []


def test_the_load_that_a_gpu_sustains_is_found_and_the_next_is_not() -> None:
    bench = a_bench(chat=1.0)
    sustained = maximum_sustained_load(bench, {"slow": 1}, repetitions=2, precision=0.05)
    assert sustained is not None
    assert sustained.outcome is not None
    assert sustained.load_per_s == min(sustained.loads_per_s)
    assert 0.4 * bench.bound_rps({"slow": 1}) < sustained.load_per_s <= bench.bound_rps({"slow": 1})
    assert bench.sustains(sustained.outcome)
    assert "chat: " in sustained.beyond
    assert sustained.split == {Tier.CHAT: 1}
    assert (
        sustaining_split(bench, {"slow": 1}, sustained.load_per_s * 0.9, repetitions=2) is not None
    )
    assert sustaining_split(bench, {"slow": 1}, sustained.load_per_s * 1.5, repetitions=2) is None


def test_what_no_load_keeps_is_reported() -> None:
    sustained = maximum_sustained_load(
        a_bench(chat=1.0, slo=Slo(tpot=0.014)), {"T4": 1}, repetitions=2
    )
    assert sustained is not None
    assert (sustained.load_per_s, sustained.outcome) == (0.0, None)
    assert "a step for one request alone takes longer" in sustained.beyond


def test_the_same_seed_gives_the_same_requests_closer_together() -> None:
    traffic = a_bench(chat=1.0).traffic
    slow, fast = traffic.at(0.05, 3), traffic.at(0.1, 3)
    assert slow.requests[0].arrival_s == pytest.approx(2 * fast.requests[0].arrival_s)
    assert [r.new_tokens for r in slow.requests[:40]] == [r.new_tokens for r in fast.requests[:40]]
    assert traffic.at(0.05, 4).requests != slow.requests
    rate = len(slow.requests) / slow.duration_s
    assert rate == pytest.approx(0.05, rel=0.3)


def test_heavy_traffic_is_copies_of_lighter_traffic() -> None:
    heavy = a_bench(chat=1.0).traffic.at(1000.0, 0)
    assert heavy.times == 10
    assert heavy.expected_requests / heavy.duration_s == pytest.approx(1000, rel=0.02)


def test_a_mix_keeps_its_shares() -> None:
    requests = a_bench(chat=0.8).traffic.at(1.0, 0).requests
    chat = sum(request.tier is Tier.CHAT for request in requests)
    assert chat / len(requests) == pytest.approx(0.8, abs=0.05)
