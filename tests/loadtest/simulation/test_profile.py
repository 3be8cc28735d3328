"""Profiles of GPUs: what comes with the package agrees with production's code, and bad ones are
refused with the field's name."""

import json
from pathlib import Path

import pytest

from loadtest.errors import UserError
from loadtest.simulation.profile import (
    PROFILES,
    TOTAL,
    known_profiles,
    read_profile,
    write_profile,
)
from serve_app.config.engine import EngineConfig
from serve_app.core.default_model import DEFAULT_MODEL, DEFAULT_MODEL_CONFIG
from serve_app.core.placement.fit import fit_model, gpu_of
from serve_app.core.placement.hardware import RTX_4090, T4, Hardware, model_shape
from serve_app.core.scaling.step_time import derived_step_model
from serve_app.engine.fake.batch import PROMPT_TOKENS_PER_STEP
from tests.loadtest.simulation.builders import a_gpu, curve

SHAPE = model_shape(DEFAULT_MODEL_CONFIG)
GPUS = [("T4", T4), ("RTX4090", RTX_4090)]


def test_both_gpus_come_with_the_package() -> None:
    assert sorted(known_profiles()) == ["RTX4090", "T4"]


@pytest.mark.parametrize(("name", "hardware"), GPUS)
def test_a_gpu_steps_as_production_derives_it(name: str, hardware: Hardware) -> None:
    profile, derived = known_profiles()[name], derived_step_model(hardware, SHAPE)
    read_ms = SHAPE.kv_bytes_per_token * 1e3 / hardware.bandwidth_bytes_per_s * 1e3
    assert profile.model == DEFAULT_MODEL
    assert profile.accelerator_type == hardware.accelerator_type
    assert profile.base_ms.value == pytest.approx(derived.base_ms, abs=5e-4)
    assert profile.per_sequence_ms.value == derived.per_sequence_ms
    assert profile.per_prompt_token_ms.value == pytest.approx(derived.per_prompt_token_ms, abs=5e-7)
    assert profile.per_context_ktoken_ms.value == pytest.approx(read_ms, abs=5e-6)
    assert profile.max_sequences.value == hardware.max_sequences
    assert profile.step_tokens.value == PROMPT_TOKENS_PER_STEP


@pytest.mark.parametrize(("name", "hardware"), GPUS)
def test_a_gpu_holds_what_placement_derives(name: str, hardware: Hardware) -> None:
    engine = EngineConfig()
    fit = fit_model(
        gpu_of(hardware),
        weights_bytes=SHAPE.weight_bytes,
        kv_bytes_per_token=SHAPE.kv_bytes_per_token,
        max_model_len=engine.max_model_len,
        utilization=engine.gpu_memory_utilization,
    )
    assert known_profiles()[name].kv_tokens.value == fit.kv_tokens


@pytest.mark.parametrize("name", ["T4", "RTX4090"])
def test_a_gpus_start_is_the_sum_of_its_phases(name: str) -> None:
    profile = known_profiles()[name]
    phases = [figure.value for phase, figure in profile.start_s.items() if phase != TOTAL]
    assert profile.start_total_s == pytest.approx(sum(phases), abs=0.01)


@pytest.mark.parametrize("name", ["T4", "RTX4090"])
def test_nothing_of_a_gpu_that_was_not_here_is_called_measured(name: str) -> None:
    profile = known_profiles()[name]
    assert profile.measured_on is None
    assert '"measured"' not in profile.model_dump_json()


def test_a_step_takes_its_four_parts() -> None:
    t4 = known_profiles()["T4"]
    assert t4.step_ms(0) == t4.base_ms.value
    got_ms = t4.step_ms(10, context_tokens=5000, prompt_tokens=256) - t4.base_ms.value
    assert got_ms == pytest.approx(10 * 0.13 + 5 * 0.0896 + 256 * 0.125)


def test_a_curve_goes_on_as_between_its_last_two_points() -> None:
    found = curve({1: 10.0, 4: 16.0, 8: 32.0})
    asked = (0, 1, 2, 4, 6, 8, 10)
    assert [found.at(n) for n in asked] == pytest.approx([10, 10, 12, 16, 24, 32, 40])


def test_a_gpu_with_a_curve_keeps_the_straight_line_for_the_gate() -> None:
    bent = a_gpu(by_sequences={1: 20.0, 8: 90.0}, per_prompt_mpair_ms=100.0, per_prompt_ms=7.0)
    assert bent.step_ms(8) == 90.0
    assert bent.token_ms(8) == pytest.approx(90.0 / 8)
    assert bent.step_model.step_ms(8) == pytest.approx(18.0)
    assert bent.prompt_ms(1000) == pytest.approx(100.0 + 50.0 + 7.0)


@pytest.mark.parametrize("step_ms", [{1: 10.0}, {0: 1.0, 1: 2.0}, {2: 9.0, 1: 8.0}, {1: 9, 2: 8}])
def test_a_curve_rises_from_one_sequence(step_ms: dict[int, float]) -> None:
    with pytest.raises(ValueError, match="step_ms is"):
        curve(step_ms)


def test_a_profile_is_read_as_it_was_written(tmp_path: Path) -> None:
    bent = a_gpu(by_sequences={1: 10.0, 4: 16.0}, per_prompt_mpair_ms=2.0)
    for gpu in (known_profiles()["T4"], bent):
        write_profile(tmp_path / "deeper" / "gpu.json", gpu)
        assert read_profile(tmp_path / "deeper" / "gpu.json") == gpu


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"speed": 1}, "speed: there is no such key"),
        ({"base_ms": None}, "base_ms: "),
        ({"base_ms": {"value": 0, "status": "derived", "source": "a guess"}}, "base_ms: the value"),
        ({"kv_tokens": {"value": 1.5, "status": "derived", "source": "a"}}, "kv_tokens: the value"),
        (
            {"per_sequence_ms": {"value": -1, "status": "derived", "source": "a"}},
            "per_sequence_ms.value: Input should be greater than or equal to 0",
        ),
        ({"overhead_ms": {"value": 1, "status": "true", "source": "a"}}, "overhead_ms.status: "),
        ({"start_s": {}}, "start_s: is to have `total`"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, object], reason: str, tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    document = json.loads((PROFILES / "t4.json").read_text(encoding="utf-8"))
    path.write_text(json.dumps(document | change), encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_profile(path)
    assert str(path) in str(error.value)
    assert reason in str(error.value)


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    document = json.loads((PROFILES / "t4.json").read_text(encoding="utf-8"))
    del document["per_context_ktoken_ms"]
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(UserError, match="per_context_ktoken_ms: is missing"):
        read_profile(path)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_profile(tmp_path / "none.json")
