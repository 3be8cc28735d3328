"""The three commands from their arguments to their JSON: old keys, new ones, and what they
answer."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from loadtest.__main__ import main
from loadtest.simulation.answers import CapacityAnswer, PlanAnswer, SimulateAnswer
from loadtest.simulation.outcome import SimulationOutcome
from loadtest.simulation.profile import write_profile
from loadtest.simulation.static_set import Bench, Split
from loadtest.simulation.sustained_load import SustainedLoad
from serve_app.core.tiers import Tier
from tests.loadtest.simulation.builders import a_gpu

pytestmark = pytest.mark.filterwarnings(
    # Ray 2.60 itself gives pydantic this keyword when its config is imported.
    "ignore:Using extra keyword arguments on `Field`:DeprecationWarning"
)
# As they were before the engines were simulated with their gates.
OLD_KEYS = {
    "policy", "attainment", "gpu_hours", "scale_actions", "attainment_by_tier", "requests",
    "refused", "lent", "setting", "settings_tried", "trace", "rate", "duration_s", "clipped",
    "gpus", "max_wait_s", "cold_start_s", "hardware", "date", "changes",
}  # fmt: skip


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Two minutes of a request a second, every fifth one reasoning's."""
    rows = "".join(
        f"{number},100,50,{'reasoning' if number % 5 == 0 else 'chat'}\n" for number in range(120)
    )
    path = tmp_path / "t.csv"
    path.write_text(f"arrival_s,input_tokens,output_tokens,tier\n{rows}", encoding="utf-8")
    return path


@pytest.fixture
def slow_gpu(tmp_path: Path) -> Path:
    """About 0.4 requests a second, so that little has to be simulated."""
    gpu = a_gpu("slow", base_ms=60, per_sequence_ms=5, kv_tokens=8 * 1600, start_s=20,
        price_usd_per_hour=0.5)  # fmt: skip
    path = tmp_path / "slow.json"
    write_profile(path, gpu)
    return path


def test_simulate_has_its_old_keys_and_reads_back(trace: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    argv = ["simulate", "--trace", str(trace), "--gpus", "T4=2,RTX4090=1", "--policy", "ours"]
    assert main([*argv, "--json", str(out)]) == 0
    document = json.loads(out.read_text(encoding="utf-8"))
    assert document.keys() >= OLD_KEYS
    assert document["attainment"] == 1.0
    assert document["attainment_by_tier"] == {"chat": 1.0, "reasoning": 1.0}
    assert document["hardware"] == {"NVIDIA T4": "derived", "NVIDIA GeForce RTX 4090": "derived"}
    answer = SimulateAnswer.model_validate_json(out.read_bytes())
    assert json.loads(answer.model_dump_json()) == document


def test_simulate_counts_every_request_and_every_dollar(trace: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    argv = ["simulate", "--trace", str(trace), "--price", "T4=2,RTX4090=3", "--load", "2"]
    assert main([*argv, "--json", str(out)]) == 0
    answer = SimulateAnswer.model_validate_json(out.read_bytes())
    assert answer.load == 2
    assert answer.requests == sum(tier.requests for tier in answer.tiers.values()) == 240
    for tier in answer.tiers.values():
        assert tier.served + sum(tier.refused.values()) == tier.requests
    hours = {name: gpu.gpu_hours for name, gpu in answer.cards.items()}
    assert sum(hours.values()) == pytest.approx(answer.gpu_hours)
    assert answer.cost_usd == pytest.approx(2 * hours["T4"] + 3 * hours["RTX4090"])
    assert {gpu.price_source for gpu in answer.cards.values()} == {"--price"}


@pytest.mark.parametrize(
    ("argv", "begun"),
    [
        ([], {"chat": 1, "reasoning": 1}),
        (["--initial", "auto"], {"chat": 1, "reasoning": 1}),
        (["--initial", "2"], {"chat": 2, "reasoning": 2}),
        (["--initial", "chat=3"], {"chat": 3, "reasoning": 1}),
    ],
)
def test_simulate_says_what_it_began_with(
    trace: Path, tmp_path: Path, argv: list[str], begun: dict[str, int]
) -> None:
    out = tmp_path / "out.json"
    text = ["simulate", "--trace", str(trace), "--gpus", "T4=4", "--json", str(out), *argv]
    assert main(text) == 0
    document = json.loads(out.read_text(encoding="utf-8"))
    assert document["initial"] == begun
    first = document["timeline"][:2]
    assert {moment["tier"]: sum(moment["serving"].values()) for moment in first} == begun
    assert document["goodput"] == 1.0


def test_more_replicas_at_the_beginning_than_gpus_are_refused(
    trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", "--trace", str(trace), "--gpus", "T4=3", "--initial", "2"]) == 2
    assert "--initial" in capsys.readouterr().out


def test_simulate_draws_what_happened(trace: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "run.png"
    assert main(["simulate", "--trace", str(trace), "--plot", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_capacity_of_a_gpu_that_a_profile_adds(
    slow_gpu: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    argv = ["capacity", "--gpus", "slow=1", "--profile", str(slow_gpu), "--mix", "chat=1"]
    argv += ["--output-tokens", "50-150", "--slo", "ttft=5s,tpot=500ms", "--goodput", "0.9"]
    assert main([*argv, "--seeds", "2", "--requests", "100", "--json", str(out)]) == 0
    answer = CapacityAnswer.model_validate_json(out.read_bytes())
    (gpu,) = answer.cards
    assert gpu.at_it[Tier.CHAT].goodput >= 0.9
    assert gpu.load_per_s <= gpu.highest_per_s
    # With its slots full a step makes as many tokens as there are slots.
    assert 0.1 < gpu.load_per_s < 1
    assert answer.whole is not None
    assert answer.whole.load_per_s == pytest.approx(gpu.load_per_s)
    assert answer.asked.profiles == {"slow": "derived"}
    assert answer.asked.uncertainty["slow"]["base_ms"] == 0.3
    assert gpu.pessimistic_per_s is not None
    assert gpu.optimistic_per_s is not None
    # Everything but settings is 1.3 times as slow, or as quick; slots follow the KV cache.
    assert 0.5 < gpu.pessimistic_per_s / gpu.load_per_s < 0.9
    assert 1.15 < gpu.optimistic_per_s / gpu.load_per_s < 2.0
    ends = f"({gpu.pessimistic_per_s:.2g} to {gpu.optimistic_per_s:.2g})"
    assert f"{gpu.load_per_s:.3g} {ends}" in capsys.readouterr().out


def test_capacity_without_ranges(slow_gpu: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    argv = ["capacity", "--gpus", "slow=1", "--profile", str(slow_gpu), "--mix", "chat=1"]
    argv += ["--output-tokens", "50-150", "--slo", "ttft=5s,tpot=500ms", "--nominal"]
    assert main([*argv, "--seeds", "1", "--requests", "50", "--json", str(out)]) == 0
    (gpu,) = CapacityAnswer.model_validate_json(out.read_bytes()).cards
    assert (gpu.pessimistic_per_s, gpu.optimistic_per_s) == (None, None)


def test_plan_buys_what_the_capacity_of_a_gpu_asks_for(
    slow_gpu: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    argv = ["plan", "--load", "chat=1/s", "--cards", "slow", "--profile", str(slow_gpu)]
    argv += ["--output-tokens", "50-150", "--slo", "ttft=5s,tpot=500ms", "--goodput", "0.9"]
    assert main([*argv, "--seeds", "2", "--requests", "100", "--json", str(out)]) == 0
    answer = PlanAnswer.model_validate_json(out.read_bytes())
    best = answer.sets[0]
    assert answer.proven
    assert best.figures[Tier.CHAT].goodput >= 0.9
    count = best.gpus["slow"]
    assert best.usd_per_hour == pytest.approx(0.5 * count)
    assert best.usd_per_day == pytest.approx(12 * count)
    tokens_per_s = best.figures[Tier.CHAT].output_tokens_per_s
    assert best.usd_per_million_output_tokens == pytest.approx(
        best.usd_per_hour / 3600 / tokens_per_s * 1e6
    )
    assert answer.autoscaled is None
    worse, better = answer.pessimistic, answer.optimistic
    assert worse is not None
    assert worse.cheapest is not None
    assert better is not None
    assert better.cheapest is not None
    assert worse.cheapest_holds is (worse.cheapest.gpus == best.gpus)
    assert better.cheapest.gpus["slow"] <= count <= worse.cheapest.gpus["slow"]
    assert better.cheapest_holds
    sustains = "sustains it" if worse.cheapest_holds else "does not sustain it"
    assert f"{count} slow: {sustains} with the profiles' pessimistic" in capsys.readouterr().out


def test_plan_for_a_trace_says_what_scaling_saves(
    trace: Path, slow_gpu: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.json"
    argv = ["plan", "--trace", str(trace), "--load", "1", "--cards", "slow"]
    argv += ["--profile", str(slow_gpu), "--slo", "ttft=8s,tpot=500ms", "--goodput", "0.8"]
    assert main([*argv, "--seeds", "1", "--nominal", "--json", str(out)]) == 0
    answer = PlanAnswer.model_validate_json(out.read_bytes())
    assert answer.pessimistic is None
    saving = answer.autoscaled
    assert saving is not None
    assert saving.gpu_hours <= saving.gpu_hours_static
    gpus = sum(answer.sets[0].gpus.values())
    assert saving.gpu_hours_static == pytest.approx(gpus * 119 / 3600, rel=0.01)
    assert saving.saved == pytest.approx(1 - saving.gpu_hours / saving.gpu_hours_static)


def test_a_load_that_nothing_sustains_ends_with_1(slow_gpu: Path) -> None:
    argv = ["plan", "--load", "chat=1/s", "--cards", "slow", "--profile", str(slow_gpu)]
    assert main([*argv, "--slo", "tpot=50ms"]) == 1


def test_ctrl_c_keeps_the_rows_that_there_are(
    slow_gpu: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from loadtest.simulation import sustained_load

    asked: list[object] = []

    def once(bench: Bench, gpus: Mapping[str, int], *, repetitions: int) -> SustainedLoad:
        asked.append(gpus)
        if len(asked) > 1:
            raise KeyboardInterrupt
        return SustainedLoad(gpus, {Tier.CHAT: 1}, (0.5, 0.6), None, "")

    monkeypatch.setattr(sustained_load, "maximum_sustained_load", once)
    out = tmp_path / "out.json"
    argv = ["capacity", "--gpus", "slow=1,T4=1", "--profile", str(slow_gpu), "--mix", "chat=1"]
    assert main([*argv, "--json", str(out)]) == 130
    answer = CapacityAnswer.model_validate_json(out.read_bytes())
    assert [dict(row.gpus) for row in answer.cards] == [{"slow": 1}]
    assert (answer.interrupted, answer.whole) == (True, None)


def test_ctrl_c_keeps_the_sets_that_sustain_it(
    slow_gpu: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[object] = []
    real = Bench.run

    def run(
        bench: Bench, gpus: Mapping[str, int], split: Split, load_rps: float, seed: int
    ) -> SimulationOutcome:
        tried.append(gpus)
        if len(tried) > 1 and tried[-1] != tried[-2]:
            raise KeyboardInterrupt
        return real(bench, {"slow": 20}, {Tier.CHAT: 20}, load_rps, seed)

    monkeypatch.setattr(Bench, "run", run)
    out = tmp_path / "out.json"
    argv = ["plan", "--load", "chat=1/s", "--cards", "slow,T4", "--profile", str(slow_gpu)]
    argv += ["--output-tokens", "50-150", "--slo", "ttft=5s,tpot=500ms", "--seeds", "2"]
    assert main([*argv, "--requests", "50", "--json", str(out)]) == 130
    answer = PlanAnswer.model_validate_json(out.read_bytes())
    assert answer.interrupted
    assert len(answer.sets) == 1
