"""Whole runs on made-up traffic: what each policy must and must not do."""

import json
from pathlib import Path

import pytest

from loadtest.simulation.options import POLICIES
from loadtest.simulation.run import simulate
from loadtest.simulation.setup import Setup
from serve_app.core.tiers import Tier
from tests.loadtest.simulation.builders import traffic

pytestmark = pytest.mark.filterwarnings(
    # Ray 2.60 itself gives pydantic this keyword when its config is imported.
    "ignore:Using extra keyword arguments on `Field`:DeprecationWarning"
)
SETUP = Setup(gpus={"T4": 3}, cold_start_s=45.0)


def test_a_quiet_hour_stays_at_the_minimum() -> None:
    from loadtest.simulation.contest import run_policy

    outcome = run_policy("ours", traffic((Tier.CHAT, 0, 600, 1.0)), SETUP, goodput=None).outcome
    assert (outcome.attainment, outcome.scale_actions) == (1.0, 0)
    assert outcome.gpu_hours == pytest.approx(600 / 3600, rel=0.02)


def test_a_load_of_two_gpus_gets_them_and_gives_them_back() -> None:
    from loadtest.simulation.contest import run_policy

    trace = traffic((Tier.CHAT, 0, 1500, 1.0), (Tier.CHAT, 300, 800, 7.0))
    outcome = run_policy("ours", trace, SETUP, goodput=None).outcome
    assert outcome.changes[0].replicas > 1
    assert outcome.changes[-1].replicas == 1
    # A step to eight times the load, and a start of 45 s: some of it cannot be in time.
    assert outcome.attainment > 0.96
    assert outcome.scale_actions <= 4


def test_the_others_have_hindsight(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cheapest of their settings that is as good as it must be, or the best there is."""
    from dataclasses import replace

    from loadtest.simulation import contest
    from loadtest.simulation.contest import OPPONENTS, run_policy

    axes = {
        "target_ongoing_requests": (2, 10_000),
        "downscale_delay_s": (30.0,),
        "look_back_period_s": (2.0, 30.0),
    }
    fewer = replace(OPPONENTS["ray-default"], axes=axes, coarse=axes)
    monkeypatch.setattr(contest, "OPPONENTS", {"ray-default": fewer})
    trace = traffic((Tier.CHAT, 0, 150, 9.0), new_tokens=100)
    lax = run_policy("ray-default", trace, SETUP, goodput=0.0)
    strict = run_policy("ray-default", trace, SETUP, goodput=0.99)
    assert lax.tried == strict.tried == 4
    assert lax.outcome.gpu_hours < strict.outcome.gpu_hours
    assert lax.outcome.goodput < strict.outcome.goodput


def test_no_policy_beats_the_one_that_knows_the_trace() -> None:
    from loadtest.simulation.contest import run_policy

    trace = traffic((Tier.CHAT, 0, 300, 1.0), (Tier.CHAT, 100, 200, 6.0))
    ours = run_policy("ours", trace, SETUP, goodput=None).outcome
    clairvoyant = run_policy("clairvoyant", trace, SETUP, goodput=ours.goodput).outcome
    assert clairvoyant.goodput >= ours.goodput
    assert clairvoyant.gpu_hours <= ours.gpu_hours * 1.001


def test_a_full_tier_borrows_while_what_it_ordered_starts() -> None:
    from dataclasses import replace

    from loadtest.simulation.contest import run_policy

    trace = traffic((Tier.CHAT, 0, 900, 6.5), (Tier.REASONING, 0, 900, 0.2))
    lent = run_policy("ours", trace, SETUP, goodput=None).outcome
    alone = run_policy("ours", trace, replace(SETUP, lend_share=0.0), goodput=None).outcome
    assert lent.lent > 0
    assert alone.lent == 0
    assert lent.gpu_hours <= alone.gpu_hours
    assert lent.goodput > alone.goodput
    assert lent.attainment >= 0.99


def test_a_simulated_day_does_not_flap() -> None:
    """Two tiers whose load rises and falls once in a day that is pressed into one hour."""
    from loadtest.simulation.contest import run_policy

    hours = [
        (Tier.CHAT, 150.0 * hour, 150.0 * (hour + 1), 7.5 if 8 < hour < 18 else 0.5)
        for hour in range(24)
    ]
    trace = traffic(*hours, (Tier.REASONING, 0, 3_600, 0.3))
    outcome = run_policy("ours", trace, SETUP, goodput=None).outcome
    assert outcome.attainment > 0.98
    # One rise and one fall of the load; a few corrections are no flapping in 14,400 decisions.
    assert outcome.scale_actions <= 6


def test_a_run_does_what_it_is_given() -> None:
    class Three:
        def targets(self, tiers: object, now_s: float) -> dict[Tier, int]:
            return {Tier.CHAT: 3 if 100 <= now_s < 200 else 1}

    outcome = simulate(traffic((Tier.CHAT, 0, 400, 1.0)), SETUP, Three())
    assert [(change.at_s, change.replicas) for change in outcome.changes] == [(100, 3), (200, 1)]
    assert outcome.gpu_hours * 3600 == pytest.approx(400 + 2 * (100 + 5), abs=5)


def test_the_command_writes_what_it_found(tmp_path: Path) -> None:
    from loadtest.__main__ import main

    trace, out = tmp_path / "t.csv", tmp_path / "out.json"
    rows = "".join(f"{number},100,50,chat\n" for number in range(60))
    trace.write_text(f"arrival_s,input_tokens,output_tokens,tier\n{rows}", encoding="utf-8")
    for policy in POLICIES:
        words = ["simulate", "--trace", str(trace), "--policy", policy, "--json", str(out)]
        assert main([*words, "--gpus", "T4=2,RTX4090=1"]) == 0
        found = json.loads(out.read_text(encoding="utf-8"))
        assert found["policy"] == policy
        assert found["attainment"] == 1.0
        assert found["gpu_hours"] == pytest.approx(59 / 3600, rel=0.05)


def test_a_file_that_is_no_trace_ends_with_2(tmp_path: Path) -> None:
    from loadtest.__main__ import main

    assert main(["simulate", "--trace", str(tmp_path / "none.csv"), "--policy", "ours"]) == 2
