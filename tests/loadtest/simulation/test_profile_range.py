"""Figures at either end of their uncertainty, and the points that the derived ones come from."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.scenario import Uniform
from loadtest.simulation.engine import SimulatedEngine
from loadtest.simulation.profile import (
    PROFILES,
    GpuProfile,
    ProfileFigure,
    known_profiles,
    read_profile,
)
from loadtest.simulation.profile_range import UncertaintySide, profile_at, uncertainties
from loadtest.simulation.sim_request import SimRequest
from loadtest.simulation.static_set import Bench
from loadtest.simulation.sustained_load import SustainedLoad, bench_at, load_at
from loadtest.simulation.traffic import Independent
from serve_app.api.demand import DemandMeter
from serve_app.core.scaling.workload import LearntLengths
from serve_app.core.tiers import Tier
from tests.loadtest.simulation.builders import a_gpu, a_setup

# RTX 4090, Qwen2.5-1.5B, vLLM 0.13 (third party): a step by its streams, from tokens/s of answers
# of 100 tokens less their mean TTFT; docs/calibration.md has the sums.
MEASURED_STEPS_MS = {1: 4.67, 2: 4.93, 4: 5.66, 8: 6.12, 16: 6.61}
# RTX 4090, the default model (databasemart.com): 300 requests of 100 + 600 tokens at once.
MEASURED_TOKENS_PER_S = 8310


def tokens_per_s(gpu: GpuProfile, *, requests: int, prompt_tokens: int, new_tokens: int) -> float:
    """Of requests that come at once to an engine which runs `max_sequences` of them together."""
    meter = DemandMeter(gpu.step_model, LearntLengths(100, 10), lambda: 0.0, slots=256)
    engine, now_s, ended = SimulatedEngine(gpu, meter), 0.0, 0
    waiting = [
        SimRequest(n, Tier.CHAT, 0.0, prompt_tokens, new_tokens, 4096) for n in range(requests)
    ]
    slots = int(gpu.max_sequences.value)
    for request in waiting[:slots]:
        engine.take(request, now_s)
    del waiting[:slots]
    while engine.stride_end_s is not None:
        now_s = engine.stride_end_s
        for _ in engine.end_stride(now_s):
            ended += 1
            if waiting:
                engine.take(waiting.pop(0), now_s)
    assert ended == requests
    return requests * new_tokens / now_s


def test_the_4090_makes_the_measured_tokens_a_second_at_a_full_batch() -> None:
    gpu = known_profiles()["RTX4090"]
    found = tokens_per_s(gpu, requests=300, prompt_tokens=100, new_tokens=600)
    assert found == pytest.approx(MEASURED_TOKENS_PER_S, rel=0.05)


@pytest.mark.parametrize(("streams", "step_ms"), MEASURED_STEPS_MS.items())
def test_the_4090_steps_as_measured_with_few_streams(streams: int, step_ms: float) -> None:
    gpu = known_profiles()["RTX4090"]
    assert gpu.step_ms(streams) == pytest.approx(step_ms, rel=0.1)
    worse, better = (profile_at(gpu, side).step_ms(streams) for side in UncertaintySide)
    assert better <= step_ms <= worse


UNCERTAIN = st.builds(
    lambda value, share, least: ProfileFigure(
        value=value, status="derived", source="made up", uncertainty=share, least=least
    ),
    st.floats(0.01, 100),
    st.floats(0, 1),
    st.booleans(),
)


@given(UNCERTAIN, UNCERTAIN, UNCERTAIN, st.integers(1, 256), st.floats(0, 1e6), st.floats(0, 1e4))
def test_a_worse_profile_is_never_quicker_and_never_holds_more(
    base: ProfileFigure,
    sequence: ProfileFigure,
    prompt: ProfileFigure,
    sequences: int,
    context: float,
    tokens: float,
) -> None:
    changed = {"base_ms": base, "per_sequence_ms": sequence, "per_prompt_token_ms": prompt}
    gpu = a_gpu(per_context_ktoken_ms=0.1).model_copy(update=changed)
    worse, better = (
        profile_at(gpu, UncertaintySide.PESSIMISTIC),
        profile_at(gpu, UncertaintySide.OPTIMISTIC),
    )
    steps = [
        profile.step_ms(sequences, context_tokens=context, prompt_tokens=tokens)
        for profile in (better, gpu, worse)
    ]
    assert steps == sorted(steps)
    assert better.kv_tokens.value >= gpu.kv_tokens.value >= worse.kv_tokens.value
    assert better.start_total_s <= gpu.start_total_s <= worse.start_total_s


def test_a_bound_is_only_worse_and_a_curve_moves_as_a_whole() -> None:
    bound = ProfileFigure(value=2.0, status="derived", source="a", uncertainty=0.5, least=True)
    gpu = a_gpu(by_sequences={1: 13.0, 8: 26.0}).model_copy(update={"per_prompt_token_ms": bound})
    worse, better = (
        profile_at(gpu, UncertaintySide.PESSIMISTIC),
        profile_at(gpu, UncertaintySide.OPTIMISTIC),
    )
    assert (better.per_prompt_token_ms.value, worse.per_prompt_token_ms.value) == (2.0, 3.0)
    assert better.step_ms(8) == pytest.approx(20.0)
    assert worse.step_ms(8) == pytest.approx(26.0 * 1.3)


def test_an_older_file_has_the_defaults_of_its_figures_status(tmp_path: Path) -> None:
    document = json.loads((PROFILES / "t4.json").read_text(encoding="utf-8"))
    for figure in (*document.values(), *document["start_s"].values()):
        if isinstance(figure, dict):
            figure.pop("uncertainty", None)
    document["base_ms"]["status"] = "measured"
    path = tmp_path / "old.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    old = read_profile(path)
    assert (old.base_ms.share, old.per_sequence_ms.share, old.step_tokens.share) == (0.1, 0.3, 0.0)
    assert old.step_tokens.lowest == old.step_tokens.highest == 1.0


@pytest.mark.parametrize("name", ["T4", "RTX4090"])
def test_each_derived_figure_says_how_uncertain_it_is_and_why(name: str) -> None:
    gpu = known_profiles()[name]
    figures = [getattr(gpu, each) for each in uncertainties(gpu)]
    assert len(figures) == 6
    for figure in (*figures, gpu.start_s["total"]):
        assert figure.uncertainty is not None
        assert "uncertainty: " in figure.source


def a_bench(gpu: GpuProfile) -> Bench:
    lengths = {Tier.CHAT: Uniform(low=50, high=100)}
    setup = a_setup(gpu, slots=8)
    return Bench(Independent({Tier.CHAT: 1.0}, lengths, lengths, 200), setup, goodput=0.9)


def loads(gpu: GpuProfile) -> Sequence[float]:
    bench = a_bench(gpu)
    sustained = SustainedLoad({gpu.name: 1}, {Tier.CHAT: 1}, (4.0, 3.0), None, "")
    return [load_at(bench, sustained, side) for side in UncertaintySide]


def test_a_range_is_about_what_was_found() -> None:
    known = a_gpu(base_ms=20, per_sequence_ms=2)
    low, high = loads(known)
    assert low <= 3.0 <= high
    bench = a_bench(known)
    assert bench_at(bench, UncertaintySide.PESSIMISTIC).bound_rps({"T4": 1}) < bench.bound_rps(
        {"T4": 1}
    )
