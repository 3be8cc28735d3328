"""Arrivals: the rates are right, the same seed gives the same, and traces keep their lengths."""

import itertools
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadtest.errors import UserError
from loadtest.load.arrivals import draw, schedule, times
from loadtest.load.prompts import PromptWriter
from loadtest.scenario import Lognormal, Poisson, Scenario, Uniform

HOUR_S = 3600.0


def a_scenario(arrivals: dict[str, Any], **more: Any) -> Scenario:
    load = {"tier": "chat", "arrivals": arrivals, **more}
    return Scenario.model_validate({"loads": [load], "duration": HOUR_S})


def arrival_times(arrivals: dict[str, Any]) -> np.ndarray:
    return np.array([due.due_s for due in schedule(a_scenario(arrivals))])


def test_poisson_arrivals_have_their_rate_and_exponential_gaps() -> None:
    gaps = np.diff(arrival_times({"kind": "poisson", "rate": 5}))
    assert len(gaps) == pytest.approx(5 * HOUR_S, rel=0.03)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)


def test_constant_arrivals_have_equal_gaps() -> None:
    found = arrival_times({"kind": "constant", "rate": "30/m"})
    assert len(found) == 1800
    assert np.diff(found) == pytest.approx(2.0)


@pytest.mark.parametrize(("rate", "to"), [(1, 5), (5, 1), (3, 3)])
def test_a_ramp_goes_from_one_rate_to_the_other(rate: float, to: float) -> None:
    found = arrival_times({"kind": "ramp", "rate": rate, "to": to})
    assert len(found) == pytest.approx((rate + to) / 2 * HOUR_S, rel=0.03)
    begin, end = (found < HOUR_S / 10).sum(), (found >= HOUR_S * 0.9).sum()
    step = (to - rate) / 20
    assert begin == pytest.approx((rate + step) * HOUR_S / 10, rel=0.12)
    assert end == pytest.approx((to - step) * HOUR_S / 10, rel=0.12)


def test_a_burst_comes_at_the_end_of_each_period() -> None:
    burst = {"kind": "burst", "rate": 1, "burst_rate": 10, "every": "60s", "length": "6s"}
    phases = arrival_times(burst) % 60
    assert (phases < 54).sum() == pytest.approx(54 * 60, rel=0.06)
    assert (phases >= 54).sum() == pytest.approx(6 * 10 * 60, rel=0.06)


def test_the_same_seed_gives_the_same_and_another_another() -> None:
    def dues(seed: int) -> list[Any]:
        scenario = a_scenario(
            {"kind": "poisson", "rate": 0.1}, output_tokens={"low": 1, "high": 99}
        )
        return schedule(scenario.model_copy(update={"seed": seed}))

    assert dues(1) == dues(1)
    assert dues(1) != dues(2)


def test_another_length_leaves_the_times_as_they_are() -> None:
    poisson = {"kind": "poisson", "rate": 0.1}
    short, long = (schedule(a_scenario(poisson, input_tokens=n)) for n in (8, 800))
    assert [due.due_s for due in short] == [due.due_s for due in long]


def test_a_load_starts_when_it_says_and_stops_at_its_count() -> None:
    load = {"kind": "constant", "rate": 1}
    dues = schedule(a_scenario(load, start="10s", requests=3))
    assert [due.due_s for due in dues] == [10, 11, 12]


def test_without_a_duration_the_count_ends_it() -> None:
    endless = times(Poisson(rate=1), random.Random(0), None)
    assert len(list(itertools.islice(endless, 1000))) == 1000


def test_lengths_are_drawn_as_they_are_described() -> None:
    rng = random.Random(0)
    even = [draw(Uniform(low=10, high=20), rng) for _ in range(2000)]
    assert (min(even), max(even)) == (10, 20)
    long = np.array([draw(Lognormal(median=100, p95=400), rng) for _ in range(20_000)])
    assert np.median(long) == pytest.approx(100, rel=0.05)
    assert np.percentile(long, 95) == pytest.approx(400, rel=0.08)
    assert draw(7, rng) == 7


def a_trace(folder: Path, text: str) -> dict[str, Any]:
    path = folder / "trace.csv"
    path.write_text(f"arrival_s,input_tokens,output_tokens{text}")
    return {"kind": "trace", "file": str(path), "speed": 2}


def test_a_trace_keeps_its_lengths_and_is_sped_up(tmp_path: Path) -> None:
    dues = schedule(a_scenario(a_trace(tmp_path, "\n4,9000,20\n2,10,5000\n99999,1,1\n")))
    assert [(d.due_s, d.input_tokens, d.output_tokens) for d in dues] == [
        (1, 10, 5000),
        (2, 9000, 20),
    ]


def test_a_trace_with_tiers_names_them(tmp_path: Path) -> None:
    dues = schedule(a_scenario(a_trace(tmp_path, ",tier\n1,2,3,reasoning\n2,2,3,chat\n")))
    assert [due.tier for due in dues] == ["reasoning", "chat"]


def test_a_broken_trace_is_named_by_its_place(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"loads\.0\.arrivals\.file: .*line 2"):
        schedule(a_scenario(a_trace(tmp_path, "\nx,1,2\n")))


@pytest.mark.parametrize("tokens", [1, 30, 1000, 70_000])
def test_a_prompt_has_about_as_many_words_as_tokens_asked(tokens: int) -> None:
    prompt = PromptWriter(0, fresh=True).write(3, tokens)
    assert math.isclose(len(prompt.split()), tokens, abs_tol=8)


def test_fresh_prompts_differ_from_run_to_run_and_others_do_not() -> None:
    fresh = {PromptWriter(0, fresh=True).write(1, 20) for _ in range(3)}
    same = {PromptWriter(0, fresh=False).write(1, 20) for _ in range(3)}
    assert (len(fresh), len(same)) == (3, 1)
