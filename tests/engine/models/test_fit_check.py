"""A model that does not fit its GPU is refused before the engine starts."""

import json
from pathlib import Path

import pytest

from serve_app.config.engine import EngineConfig
from serve_app.core.placement.hardware import CPU, RTX_4090, T4, hardware_for
from serve_app.engine.models.fit_check import (
    ModelDoesNotFitError,
    check_model,
    gpu_of_replica,
    quantization_argument,
)
from serve_app.engine.models.model_size import ModelFiles
from serve_app.nvidia import MIB, DriverGpu
from tests.builders import R1_DISTILL_QWEN_1_5B

# Llama 8B's sizes: 16 GB of 16-bit weights.
LLAMA_8B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model directory with nothing but a config.json."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B))
    return tmp_path


def test_a_model_that_is_too_large_is_refused_with_the_sum_and_what_helps(model: Path) -> None:
    with pytest.raises(ModelDoesNotFitError) as refusal:
        quantization_argument(EngineConfig(), str(model), T4)
    text = str(refusal.value)
    assert "less 14.96 for 16-bit weights" in text
    assert "What would help: engine.quantization: awq with a model stored so" in text
    assert text.endswith("a GPU with more memory.")
    assert quantization_argument(EngineConfig(), str(model), RTX_4090) is None
    assert quantization_argument(EngineConfig(quantization="fp8"), str(model), T4) == (
        "fp8_per_tensor"
    )


def test_a_context_that_is_too_long_is_refused_with_one_that_fits(model: Path) -> None:
    (model / "config.json").write_text(json.dumps(R1_DISTILL_QWEN_1_5B))
    config = EngineConfig(max_model_len=131_072, gpu_memory_utilization=0.44)
    with pytest.raises(ModelDoesNotFitError, match=r"engine\.max_model_len: 7\d{4}"):
        quantization_argument(config, str(model), T4)


def test_what_the_driver_says_of_the_gpu_wins() -> None:
    files = ModelFiles(R1_DISTILL_QWEN_1_5B, None)
    small = DriverGpu("0", "", "x", memory_bytes=4096 * MIB, capability=(7, 5))
    with pytest.raises(ModelDoesNotFitError):
        check_model(EngineConfig(), files, gpu_of_replica(T4, small))
    unknown = gpu_of_replica(hardware_for("L4"), None)
    checked = check_model(EngineConfig(), files, unknown)
    assert checked is not None
    assert checked.fit.fits is None


def test_a_model_whose_sizes_are_not_reported_is_not_checked(model: Path) -> None:
    (model / "config.json").write_text('{"model_type": "strange"}')
    assert quantization_argument(EngineConfig(), str(model), T4) is None


def test_on_the_cpu_only_the_quantization_is_looked_at(model: Path) -> None:
    assert quantization_argument(EngineConfig(), "no/such-model", CPU) is None
    with pytest.raises(ValueError, match="awq needs a model"):
        quantization_argument(EngineConfig(quantization="awq"), str(model), CPU)
