"""What the commands take, and how they say what is wrong: by the option's name."""

import argparse
from pathlib import Path

import pytest

from loadtest.__main__ import main
from loadtest.simulation.option_types import gpu_counts, lengths, load, mix, prices, rates, slo
from serve_app.core.tiers import Tier


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "t.csv"
    rows = "".join(f"{number},100,50,chat\n" for number in range(60))
    path.write_text(f"arrival_s,input_tokens,output_tokens,tier\n{rows}", encoding="utf-8")
    return path


def test_gpus_are_counted_by_name() -> None:
    assert gpu_counts("T4=2, RTX4090=1,T4=1") == {"T4": 3, "RTX4090": 1}
    for wrong in ("T4", "=1", "T4=x", "T4=-1", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="no GPU with its count"):
            gpu_counts(wrong)


def test_rates_shares_prices_and_lengths() -> None:
    assert rates("chat=20/s,reasoning=30/m") == {Tier.CHAT: 20, Tier.REASONING: 0.5}
    assert load("3") == 3
    assert load("chat=2/s") == {Tier.CHAT: 2}
    assert mix("chat=3,reasoning=1") == {Tier.CHAT: 0.75, Tier.REASONING: 0.25}
    assert prices("T4=0.35") == {"T4": 0.35}
    both = lengths("200-800")
    assert {(own.low, own.high) for own in both.values()} == {(200, 800)}
    assert list(both) == list(Tier)
    apart = lengths("chat=5,reasoning=6-7")
    assert (apart[Tier.CHAT].high, apart[Tier.REASONING].low) == (5, 6)


def test_an_slo_as_load_tests_have_it() -> None:
    assert dict(slo("ttft=500ms, e2e=1m")) == {"ttft": 0.5, "ttfo": None, "tpot": None, "e2e": 60}


CAPACITY, PLAN = ["capacity"], ["plan", "--load", "chat=1/s"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*CAPACITY, "--slo", "ttft=soon"], "argument --slo: ttft: 'soon' is no time"),
        ([*CAPACITY, "--slo", "speed=1s"], "argument --slo: speed: no limit"),
        ([*CAPACITY, "--slo", "ttfo=1s"], "argument --slo: ttfo: no limit"),
        ([*CAPACITY, "--mix", "gold=1"], "argument --mix: 'gold' is no tier"),
        ([*CAPACITY, "--mix", "chat=0"], "argument --mix: 0 is not above 0"),
        ([*CAPACITY, "--input-tokens", "9-3"], "argument --input-tokens: '9-3'"),
        ([*CAPACITY, "--goodput", "99"], "argument --goodput: 99 is not between 0 and 1"),
        ([*CAPACITY, "--seeds", "0"], "argument --seeds: 0 is no whole number above 0"),
        (["plan", "--load", "chat=0/s"], "argument --load: 'chat=0/s': 0.0 is not above 0"),
        (["plan", "--load", "chat=fast"], "argument --load: 'chat=fast': 'fast' is no rate"),
        (["plan", "--load", "0"], "argument --load: 0 is not above 0"),
        ([*PLAN, "--price", "T4=free"], "argument --price: 'T4=free' is no GPU with its price"),
    ],
)
def test_bad_words_name_their_option(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert said in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["capacity", "--gpus", "H100=1"], "--gpus: H100 is no GPU known here: RTX4090, T4"),
        (["capacity", "--gpus", "T4=0"], "--gpus names no GPU"),
        (["capacity", "--output-tokens", "chat=9"], "--output-tokens says nothing of reasoning"),
        (["capacity", "--output-tokens", "1500"], "--output-tokens: 1500 is above the 1024 tokens"),
        (["capacity", "--profile", "none.json"], "none.json cannot be read"),
        ([*PLAN, "--cards", "T4,H100"], "--cards: H100 is no GPU known here"),
        ([*PLAN, "--price", "H100=2"], "--price: H100 is no GPU known here"),
        (["plan", "--load", "3"], "--load: with --trace how many times its load"),
        (["simulate", "--trace", "none.csv"], "none.csv"),
        (["capacity", "--json", "nowhere/out.json"], "--json nowhere/out.json: there is no folder"),
        ([*PLAN, "--json", "nowhere/out.json"], "--json nowhere/out.json: there is no folder"),
        (["simulate", "--trace", "t.csv", "--plot", "a.svg"], "--plot a.svg: the picture is a PNG"),
    ],
)
def test_what_cannot_be_names_its_option(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert said in " ".join(capsys.readouterr().out.split())


def test_a_rate_for_each_tier_and_a_trace_do_not_go_together(
    trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*PLAN, "--trace", str(trace)]) == 2
    assert "--load: with --trace" in capsys.readouterr().out


def test_a_gpu_of_its_own_for_each_tier(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "two.csv"
    path.write_text(
        "arrival_s,input_tokens,output_tokens,tier\n1,9,9,chat\n2,9,9,reasoning\n", "utf-8"
    )
    assert main(["simulate", "--trace", str(path), "--gpus", "T4=1"]) == 2
    assert "--gpus: each tier" in capsys.readouterr().out
