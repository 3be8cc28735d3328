"""Scenarios: what is wrong is said with its place in the file; flags say the same as a file."""

from pathlib import Path
from typing import Any

import pytest

from loadtest.__main__ import parse
from loadtest.errors import UserError
from loadtest.load.command import scenario_of
from loadtest.load.scenario_file import read
from loadtest.scenario import Closed, Load, Scenario, Slo, per_second, seconds

GOOD = """
duration: 1m
loads:
  - tier: chat
    arrivals: {kind: poisson, rate: 3/s}
    output_tokens: {low: 10, high: 20}
    slo: {ttft: 2s, tpot: 100ms}
"""


def a_file(folder: Path, text: str) -> Path:
    path = folder / "evening.yaml"
    path.write_text(text)
    return path


def from_flags(*words: str) -> Scenario:
    return scenario_of(parse(["run", *words]))


def test_a_file_is_read_with_its_units(tmp_path: Path) -> None:
    scenario = read(a_file(tmp_path, GOOD))
    assert (scenario.name, scenario.duration) == ("evening", 60)
    assert scenario.slo_of(scenario.loads[0]) == Slo(ttft=2, tpot=0.1)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("tier: chat", "teir: chat", "loads.0.teir: there is no such key"),
        ("tier: chat", "teir: chat", "loads.0.tier: is missing"),
        ("rate: 3/s", "rate: fast", "loads.0.arrivals.rate: 'fast' is no rate"),
        ("rate: 3/s", "rate: 0/s", "loads.0.arrivals.rate: 0 is not above 0"),
        ("kind: poisson", "kind: gauss", "loads.0.arrivals"),
        ("ttft: 2s", "ttft: 2 parsecs", "loads.0.slo.ttft: '2 parsecs' is no time"),
        ("low: 10", "low: 30", "loads.0.output_tokens: `low` is above `high`"),
        ("duration: 1m", "seed: 1", "loads.0 has no end"),
        ("duration: 1m", "durations: 1m", "durations: there is no such key"),
    ],
)
def test_a_mistake_is_named_by_its_place(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(UserError) as fault:
        read(a_file(tmp_path, GOOD.replace(old, new)))
    assert said in str(fault.value)


@pytest.mark.parametrize("text", ["- 1\n", "a: [\n"])
def test_what_is_no_scenario_at_all_is_said(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError):
        read(a_file(tmp_path, text))


def test_a_traces_path_is_relative_to_its_file(tmp_path: Path) -> None:
    text = "loads: [{tier: chat, arrivals: {kind: trace, file: t.csv}}]\n"
    arrivals = read(a_file(tmp_path, text)).loads[0].arrivals
    assert getattr(arrivals, "file", None) == tmp_path / "t.csv"


def test_flags_describe_two_tiers() -> None:
    scenario = from_flags(
        *("--tier", "chat=3/s", "--tier", "reasoning=1/s..2/s", "--duration", "30s"),
        *("--input-tokens", "8-16", "--slo", "ttft=2s", "--retry", "2", "--no-ignore-eos"),
    )
    assert [load.tier for load in scenario.loads] == ["chat", "reasoning"]
    assert [load.arrivals.kind for load in scenario.loads] == ["poisson", "ramp"]
    assert scenario.slo == Slo(ttft=2)
    assert (scenario.retries, scenario.ignore_eos) == (2, False)


def test_flags_describe_a_closed_loop() -> None:
    scenario = from_flags("--concurrency", "4", "--requests", "8", "--base-url", "http://a/v1")
    assert scenario.loads == (
        Load(tier="chat", arrivals=Closed(kind="closed", concurrency=4), requests=8),
    )
    assert scenario.base_url == "http://a/v1"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "Say what comes"),
        (("--tier", "chat"), "has no rate"),
        (("--tier", "chat=3/s", "--input-tokens", "many"), "--input-tokens many"),
        (("--tier", "chat=3/s", "--slo", "ttft"), "--slo"),
        (("--tier", "chat=3/s", "--slo", "speed=2s"), "slo.speed: there is no such key"),
        (("--trace", "nowhere.csv"), "--trace"),
        (("--scenario", "a.yaml", "--tier", "chat=1/s"), "leave --tier"),
    ],
)
def test_flags_that_make_no_sense_are_refused(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(UserError) as fault:
        from_flags(*words)
    assert said in str(fault.value)


@pytest.mark.parametrize(
    ("text", "value"), [("100ms", 0.1), ("2s", 2), ("5m", 300), ("1h", 3600), ("7", 7), (3, 3)]
)
def test_times(text: Any, value: float) -> None:
    assert seconds(text) == pytest.approx(value)


@pytest.mark.parametrize(("text", "value"), [("3/s", 3), ("90/m", 1.5), ("4", 4), (0.5, 0.5)])
def test_rates(text: Any, value: float) -> None:
    assert per_second(text) == pytest.approx(value)


def test_every_key_of_a_scenario_is_described() -> None:
    for model in (Scenario, Load, Slo, Closed):
        fields = {name: f for name, f in model.model_fields.items() if name != "kind"}
        assert all(field.description for field in fields.values()), model
