"""How many replicas a tier needs: by its SLO, robust to any single report, without flapping."""

import math
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from serve_app.core.scaling.desired_replicas import (
    Decision,
    ScalingSettings,
    desired_replicas,
    spare_load,
)
from serve_app.core.scaling.scaling_memory import ScalingMemory
from serve_app.core.scaling.slo_capacity import Slo
from serve_app.core.scaling.tier_demand import ReplicaLoad
from serve_app.core.scaling.tier_need import LentLoad

SETTINGS = ScalingSettings(start_s=43.0, slo=Slo(ttft_s=2.0, tpot_s=0.1))
# What a replica measures and learns; the rest is its hardware, its clock and its age.
LEARNT = (
    "running",
    "queued_requests",
    "slow_rps",
    "quick_rps",
    "slow_prompt_tokens_per_s",
    "quick_prompt_tokens_per_s",
    "prompt_tokens",
    "new_tokens",
    "variation",
    "answers_seen",
    "decode_factor",
    "prefill_factor",
)


def load(rps: float = 1.0, *, prompt_tokens: float = 500.0, **figures: Any) -> ReplicaLoad:
    """A T4 as derived, which keeps the SLO for some seven such requests a second."""
    base = ReplicaLoad(
        running=8,
        queue_depth=0,
        queued_requests=0,
        slots=125,
        slow_rps=rps,
        quick_rps=rps,
        slow_prompt_tokens_per_s=rps * prompt_tokens,
        quick_prompt_tokens_per_s=rps * prompt_tokens,
        observed_s=600,
        prompt_tokens=prompt_tokens,
        new_tokens=200,
        variation=1.0,
        answers_seen=200,
        base_ms=14.5,
        per_sequence_ms=0.13,
        per_prompt_token_ms=0.125,
    )
    return replace(base, **figures)


def decide(
    reports: Sequence[ReplicaLoad],
    *,
    settings: ScalingSettings = SETTINGS,
    target: int | None = None,
    now_s: float = 1000.0,
    memory: ScalingMemory | None = None,
    **more: object,
) -> Decision:
    return desired_replicas(
        reports,
        settings,
        now_s=now_s,
        memory=memory or ScalingMemory(),
        replicas_target=len(reports) if target is None else target,
        replicas_running=len(reports),
        **more,  # pyright: ignore[reportArgumentType]
    )


def wanted(reports: Sequence[ReplicaLoad], **more: object) -> int:
    """Without what is kept for the hold."""
    return int(decide(reports, **more).inputs["needed_replicas"])  # pyright: ignore


def test_a_replica_is_enough_for_what_keeps_its_slo() -> None:
    assert wanted([load(2.0)]) == 1
    assert wanted([load(12.0)]) == 2
    assert wanted([load(40.0)]) > 4


def test_prompts_count_by_their_length() -> None:
    assert wanted([load(4.0, prompt_tokens=50)]) == 1
    assert wanted([load(4.0, prompt_tokens=2000)]) > 1


def test_a_tighter_slo_needs_more() -> None:
    counts = [
        wanted([load(20.0)], settings=replace(SETTINGS, slo=Slo(ttft_s, tpot_s, goodput)))
        for ttft_s, tpot_s, goodput in ((10.0, 0.3, 0.9), (2.0, 0.1, 0.99), (0.3, 0.03, 0.999))
    ]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]


def test_a_newcomers_first_short_answer_orders_nothing() -> None:
    """14 equal reports want what they want, and with a newcomer whose lengths are 1/68 the same."""
    equal = [load(6.0) for _ in range(14)]
    before = wanted(equal)
    newcomer = load(0.5, new_tokens=200 / 68, prompt_tokens=500, answers_seen=1)
    assert abs(wanted([*equal, newcomer]) - before) <= 1


@given(
    rps=st.floats(0.1, 12),
    prompt_tokens=st.floats(10, 4000),
    new_tokens=st.floats(5, 2000),
    count=st.integers(3, 48),
    name=st.sampled_from(LEARNT),
    factor=st.floats(-6, 6).map(lambda power: 10**power),
)
@example(1.0, 500, 200, 14, "new_tokens", 1 / 68)
@example(6.0, 500, 200, 48, "slow_rps", 1e6)
def test_one_report_moves_the_decision_by_its_own_share(
    rps: float, prompt_tokens: float, new_tokens: float, count: int, name: str, factor: float
) -> None:
    """Of the GPUs that the tier needs, and by one at least, since replicas are whole."""
    equal = [load(rps, prompt_tokens=prompt_tokens, new_tokens=new_tokens)] * count
    before = wanted(equal)
    faulty = replace(equal[0], **{name: getattr(equal[0], name) * factor})
    share = max(before, count) / count
    assert abs(wanted([faulty, *equal[1:]]) - before) <= math.ceil(share) + 1


def test_a_replica_that_joins_and_takes_most_hides_no_arrivals() -> None:
    """Three serve six requests a second; one that joins takes nearly all until it is as full."""
    before = decide([load(2.0, new_tokens=1200)] * 3).inputs["arriving_rps"]
    busy = load(1.5, new_tokens=1200, quick_rps=0.2, quick_prompt_tokens_per_s=100)
    newcomer = replace(busy, quick_rps=5.4, quick_prompt_tokens_per_s=2700, answers_seen=0)
    joined = decide([busy] * 3 + [newcomer]).inputs
    assert joined["arriving_rps"] == joined["expected_rps"] == pytest.approx(before)


@given(factor=st.floats(-6, 6).map(lambda power: 10**power), count=st.integers(3, 48))
def test_a_report_that_is_wrong_in_all_it_measures_moves_it_by_little_more(
    factor: float, count: int
) -> None:
    equal = [load(5.0)] * count
    before = wanted(equal)
    wrong = {name: getattr(equal[0], name) * factor for name in LEARNT}
    assert abs(wanted([replace(equal[0], **wrong), *equal[1:]]) - before) <= 4


@given(
    rates=st.lists(st.floats(0, 30), min_size=1, max_size=8),
    more=st.floats(1, 5),
    prompt_tokens=st.floats(1, 4000),
)
def test_more_arrivals_never_need_fewer(
    rates: list[float], more: float, prompt_tokens: float
) -> None:
    reports = [load(rps, prompt_tokens=prompt_tokens) for rps in rates]
    busier = [load(rps * more, prompt_tokens=prompt_tokens) for rps in rates]
    assert wanted(busier) >= wanted(reports)


@given(
    rps=st.floats(0, 100),
    running=st.integers(0, 125),
    queued=st.floats(0, 500),
    factor=st.floats(0.05, 20),
    count=st.integers(1, 6),
)
def test_the_count_is_bounded_by_the_work(
    rps: float, running: int, queued: float, factor: float, count: int
) -> None:
    report = load(rps, running=running, queued_requests=queued, decode_factor=factor)
    decision = decide([report] * count)
    per_replica_rps = decision.inputs["capacity_rps"] / count
    work_rps = decision.inputs["expected_rps"] + count * queued / SETTINGS.drain_within_s
    assert decision.replicas >= 1
    assert decision.inputs["needed_replicas"] <= 3 + 2 * work_rps / per_replica_rps


def test_a_burst_that_never_stays_is_not_ordered_for() -> None:
    """Bursts of ten seconds that the tier has seen end; the mean of minutes stays as it is."""
    spike = load(2.0, quick_rps=20.0, quick_prompt_tokens_per_s=10_000.0)
    learnt = ScalingMemory(stayed=0.0, rushed=10.0)
    assert wanted([spike], memory=learnt) == 1
    assert wanted([spike], memory=ScalingMemory(stayed=10.0, rushed=10.0)) > 2


def test_few_arrivals_are_no_rush() -> None:
    assert decide([load(1.0, quick_rps=1.4)]).inputs["expected_rps"] == pytest.approx(1.0)


def test_what_starts_is_not_ordered_again() -> None:
    step = [load(14.0, running=125, queue_depth=40, queued_requests=40)]
    first = decide(step)
    again = decide(step, target=first.replicas, memory=first.memory, now_s=1010.0)
    assert first.replicas > 1
    assert again.replicas == first.replicas


def test_a_backlog_is_cleared_though_nothing_arrives() -> None:
    slow = replace(SETTINGS, start_s=4.0)
    assert wanted([load(0.5, running=125, queued_requests=400)], settings=slow) > 1
    assert wanted([load(0.5, running=125, queued_requests=5)], settings=slow) == 1


def test_a_replica_is_kept_for_the_hold_and_then_given_back() -> None:
    memory, times = decide([load(12.0)] * 2).memory, range(1001, 2001)
    counts = []
    for now_s in times:
        decision = decide([load(0.5)] * 2, memory=memory, now_s=float(now_s))
        memory = decision.memory
        counts.append(decision.replicas)
    held_s = counts.index(1)
    assert 3 * SETTINGS.start_s < held_s <= SETTINGS.most_hold_s
    assert counts == sorted(counts, reverse=True), "no flapping"


def counts_after(spike: ReplicaLoad, *, at_s: range) -> list[int]:
    """Two replicas, needed until second 1000; then a load that one carries, but at these times."""
    memory, counts = decide([load(12.0)] * 2).memory, []
    for now_s in range(1001, 1400):
        calm = load(2.5, slow_prompt_tokens_per_s=1250, running=2)
        reports = [spike if now_s in at_s else calm] * 2
        decision = decide(reports, memory=memory, now_s=float(now_s))
        memory = decision.memory
        counts.append(decision.replicas)
    return counts


def test_what_one_fewer_carries_is_given_back_after_the_hold_however_near() -> None:
    """With a twentieth more it would miss the SLO; the moments of the hold together do not."""
    near = load(3.55)
    assert decide([near] * 2).needed == 2
    memory, counts = decide([load(12.0)] * 2).memory, []
    for now_s in range(1001, 1400):
        decision = decide([near] * 2, memory=memory, now_s=float(now_s))
        memory = decision.memory
        counts.append(decision.replicas)
    assert 3 * SETTINGS.start_s < counts.index(1)


def test_a_moment_by_chance_does_not_begin_the_hold_anew() -> None:
    """Two seconds at which the second replica is only just to be kept, near the end of it."""
    calm = counts_after(load(2.5), at_s=range(0))
    above = load(3.55)
    assert decide([above] * 2).needed == 2
    assert wanted([above] * 2) == 1
    assert counts_after(above, at_s=range(1130, 1132)).index(1) <= calm.index(1)


def test_what_a_moment_would_order_again_is_kept() -> None:
    calm = counts_after(load(2.5), at_s=range(0))
    above = load(4.5)
    assert wanted([above] * 2) == 2
    assert counts_after(above, at_s=range(1130, 1132)).index(1) > calm.index(1) + 100


def test_what_a_rush_needs_is_kept_for_the_hold() -> None:
    calm = counts_after(load(2.5), at_s=range(0))
    rush = load(2.5, quick_rps=5.5, quick_prompt_tokens_per_s=2750)
    decision = decide([rush] * 2)
    assert (decision.needed, decision.inputs["needed_replicas"]) == (2, 1)
    assert counts_after(rush, at_s=range(1130, 1132)).index(1) > calm.index(1) + 100


def test_a_burst_of_seconds_does() -> None:
    calm = counts_after(load(2.5), at_s=range(0))
    burst = load(8.0)
    assert counts_after(burst, at_s=range(1130, 1140)).index(1) > calm.index(1) + 100


def test_while_reports_are_missing_nothing_is_learnt_of_what_is_needed() -> None:
    memory = decide([load(12.0)] * 2).memory
    partial = desired_replicas(
        [load(0.1)], SETTINGS, now_s=1002, memory=memory, replicas_target=2, replicas_running=2
    )
    assert partial.memory.misses == memory.misses


def test_an_excess_is_no_rush_before_it_could_fill_slots() -> None:
    """Nearly two requests a second more, for some seconds: as many as chance brings of long
    answers, and more than it brings of short ones. Where the TPOT is the limit they are slow."""
    stays = ScalingMemory(stayed=10.0, rushed=10.0)

    def expected_rps(quick_rps: float = 3.8, **figures: float) -> float:
        rush = load(2.0, quick_rps=quick_rps, quick_prompt_tokens_per_s=500 * quick_rps, **figures)
        return decide([rush], memory=stays).inputs["expected_rps"]

    assert expected_rps(new_tokens=1500) == pytest.approx(2.0)
    assert expected_rps(new_tokens=20) > 2.5
    assert expected_rps(new_tokens=1500, slots=4000) > 2.5
    assert expected_rps(new_tokens=1500, quick_rps=9.0) > 6, "a step is no chance"


def test_a_load_between_both_thresholds_changes_nothing() -> None:
    two = [load(rps) for rps in (3.9, 3.9)]
    decision = decide(two)
    for rps in (3.8, 3.95, 3.85):
        decision = decide(
            [load(rps)] * 2, memory=decision.memory, now_s=5000.0, target=decision.replicas
        )
        assert decision.replicas == 2


def test_lent_slots_are_for_what_chance_adds_to_the_load() -> None:
    lent = LentLoad(replicas=1.0, token_s=0.00025)
    prompts = [load(2.0, prompt_tokens=2000, new_tokens=15)]
    assert wanted(prompts) == 2
    assert wanted(prompts, lent_load=lent) == 1
    full = [load(3.0, prompt_tokens=2000, new_tokens=15)]
    assert 1 < wanted(full, lent_load=lent) < wanted(full), "what is load needs a replica"


def test_a_burst_may_be_served_by_lent_slots_and_a_level_may_not() -> None:
    lent = LentLoad(replicas=1.0, token_s=0.00025)
    stays = ScalingMemory(stayed=10.0, rushed=10.0)
    burst = [load(4.0, quick_rps=10.5, quick_prompt_tokens_per_s=5250.0)]
    assert wanted(burst, memory=stays) == 2
    assert wanted(burst, memory=stays, lent_load=lent) == 1
    level = decide(burst, memory=stays).inputs["expected_rps"]
    assert wanted([load(level)], memory=stays, lent_load=lent) == 2


def test_what_another_tier_lives_on_is_kept_after_the_hold() -> None:
    calm = [load(0.5)] * 3
    short = decide([load(6.0, prompt_tokens=100, new_tokens=1000)]).need
    assert short is not None
    assert short.fewest() == 2
    memory = decide(calm).memory
    alone = decide(calm, memory=memory, now_s=5000.0)
    lends = decide(calm, memory=memory, now_s=5000.0, borrower=short, lend_share=0.5)
    assert alone.replicas == 1
    assert lends.replicas == lends.needed == 2
    assert lends.reason.endswith("keeps 1 to lend")
    assert decide(calm, borrower=short, lend_share=0.5, target=1).replicas == 1, "none is ordered"


def test_what_another_tier_lives_on_is_kept_though_few_arrive_here_now() -> None:
    """Of all requests of the hold those since then are few: what is lent is no miss of theirs."""
    busy, calm = [load(4.0)] * 4, [load(0.001)] * 4
    short = decide([load(6.0, prompt_tokens=100, new_tokens=1000)]).need
    memory = ScalingMemory()
    for now_s in range(280):
        memory = decide(busy, memory=memory, now_s=float(now_s)).memory
    for now_s in range(280, 2000, 10):
        lends = decide(calm, memory=memory, now_s=float(now_s), borrower=short, lend_share=0.5)
        memory = lends.memory
        assert lends.needed is not None
        assert lends.replicas >= lends.needed >= 2


def test_what_a_tier_lends_stays_within_its_own_slo() -> None:
    idle, busy = load(0.1), load(6.5)
    offered = spare_load([idle], SETTINGS, lend_share=0.5)
    assert offered is not None
    assert offered.replicas == pytest.approx(0.5)
    part = spare_load([busy], SETTINGS, lend_share=0.5)
    assert part is not None
    assert part.replicas < 0.3
    assert spare_load([load(9.5)], SETTINGS, lend_share=0.5) is None
    assert spare_load([replace(idle, queued_requests=30)], SETTINGS, lend_share=0.5) is None
    assert spare_load([], SETTINGS, lend_share=0.5) is None


def test_half_of_the_slots_of_an_idle_one_make_more_than_half_of_the_tokens() -> None:
    """A step with a smaller batch is shorter."""
    full_s = load().derived.token_s(125)
    idle = spare_load([load(0.1, running=0)], SETTINGS, lend_share=0.5)
    used = spare_load([load(0.1, running=100)], SETTINGS, lend_share=0.5)
    assert idle is not None
    assert used is not None
    assert idle.token_s < 0.8 * full_s
    assert used.token_s == pytest.approx(full_s)


@given(st.floats(0.0, 5.0), st.floats(0.0, 125.0), st.floats(0.0, 125.0), st.floats(0.05, 1.0))
def test_who_runs_more_itself_lends_no_more(
    rps: float, running: float, more: float, share: float
) -> None:
    def tokens_per_s(sequences: float) -> float:
        lent = spare_load([load(rps, running=sequences)], SETTINGS, lend_share=share)
        assert lent is not None
        return lent.replicas / lent.token_s

    assert tokens_per_s(running + more) <= tokens_per_s(running) * (1 + 1e-9)


def test_an_order_is_not_withdrawn_for_a_better_moment() -> None:
    """Its need has lasted for one decision."""
    memory = ScalingMemory()
    for now_s in range(600):
        memory = decide([load(2.5)], memory=memory, now_s=float(now_s)).memory
    ordered = decide([load(9.5)], memory=memory, now_s=600.0)
    assert ordered.replicas == 2
    calm = decide([load(2.5)], memory=ordered.memory, now_s=601.0, target=2)
    assert calm.inputs["needed_replicas"] == 1
    assert calm.replicas == 2
    late = decide([load(1.0)] * 2, memory=calm.memory, now_s=1500.0)
    assert late.replicas == 1


def test_what_was_given_back_too_early_is_kept_for_a_moment_by_chance() -> None:
    """As in `test_a_moment_by_chance_does_not_begin_the_hold_anew`, after it was regretted."""
    above, memory = [load(3.55)] * 2, decide([load(12.0)] * 2, now_s=1000.0).memory
    regretted = replace(memory, orders=replace(memory.orders, regretted=frozenset({1})))

    def count_after(known: ScalingMemory) -> int:
        counts: list[int] = []
        for now_s in range(1001, 1250):
            reports = above if 1130 <= now_s < 1132 else [load(2.5, running=2)] * 2
            decision = decide(reports, memory=known, now_s=float(now_s))
            known = decision.memory
            counts.append(decision.replicas)
        return counts[-1]

    assert (count_after(memory), count_after(regretted)) == (1, 2)


def test_a_fast_gpu_counts_by_its_speed() -> None:
    fast = load(12.0, base_ms=4.7, per_sequence_ms=0.09, per_prompt_token_ms=0.037)
    assert wanted([load(12.0)]) == 2
    assert wanted([fast]) == 1


def test_missing_reports_hold_and_never_read_as_zero() -> None:
    memory = ScalingMemory()
    silent = desired_replicas(
        [], SETTINGS, now_s=9.0, memory=memory, replicas_target=3, replicas_running=3
    )
    assert (silent.replicas, silent.held) == (3, True)
    one = desired_replicas(
        [load(0.1)], SETTINGS, now_s=9e9, memory=memory, replicas_target=3, replicas_running=3
    )
    later = desired_replicas(
        [load(0.1)],
        SETTINGS,
        now_s=9e9 + 999,
        memory=one.memory,
        replicas_target=3,
        replicas_running=3,
    )
    assert (later.replicas, later.held) == (3, True)
    assert "missing reports: 2" in later.reason
    more = desired_replicas(
        [load(60.0)], SETTINGS, now_s=9.0, memory=memory, replicas_target=3, replicas_running=3
    )
    assert more.replicas > 3, "it may rise"


def test_a_stale_report_is_no_report() -> None:
    stale = load(60.0, age_s=SETTINGS.stale_after_s + 1)
    assert decide([stale]).replicas == 1


def test_an_idle_tier_goes_to_zero_only_where_it_may() -> None:
    idle = [load(0.0, running=0, slow_prompt_tokens_per_s=0, quick_prompt_tokens_per_s=0)]
    memory = decide(idle).memory
    later = 1000.0 + 2 * SETTINGS.most_hold_s
    assert decide(idle, memory=memory, now_s=later).replicas == 1
    assert decide(idle, memory=memory, now_s=later, to_zero=True).replicas == 0
    busy = [load(0.0, running=1)]
    assert decide(busy, memory=memory, now_s=later, to_zero=True).replicas == 1


def test_the_reason_has_the_figures() -> None:
    decision = decide([load(12.0, running=40)])
    assert decision.reason.startswith("12.00 requests/s to come, the SLO allows ")
    assert "needs 2" in decision.reason
    assert {"arriving_rps", "expected_rps", "persistence", "hold_s"} <= set(decision.inputs)


def test_every_learnt_figure_is_one_of_a_report() -> None:
    assert set(LEARNT) < {figure.name for figure in fields(ReplicaLoad)}
