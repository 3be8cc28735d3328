"""Which quantization goes with which model, GPU and vLLM."""

from collections.abc import Mapping
from typing import Any

import pytest

from serve_app.core.placement.quantization import (
    QUANTIZATIONS,
    Capability,
    Weights,
    choose_weights,
    declared_quantization,
)

T4: Capability = (7, 5)
RTX_4090: Capability = (8, 9)
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 64}
INT8 = {
    "quant_method": "compressed-tensors",
    "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "int"}}},
}
FP8_STORED = {
    "quant_method": "compressed-tensors",
    "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float"}}},
}


def choose(
    setting: str | None = None,
    stored: Mapping[str, Any] | None = None,
    capability: Capability | None = T4,
    known: frozenset[str] | None = None,
) -> Weights:
    config = {"quantization_config": stored} if stored else {}
    return choose_weights(
        setting, config, capability=capability, known_to_vllm=known, gpu="the GPU"
    )


@pytest.mark.parametrize(
    ("stored", "name"),
    [
        (None, None),
        (AWQ, "awq"),
        ({"quant_method": "gptq"}, "gptq"),
        ({"quant_method": "gptq_marlin"}, "gptq"),
        ({"quant_method": "auto_awq"}, "awq"),
        ({"quant_method": "fp8"}, "fp8"),
        (INT8, "int8"),
        (FP8_STORED, "fp8"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors"),
        ({"quant_method": "bitsandbytes"}, "bitsandbytes"),
    ],
)
def test_a_models_own_config_names_its_quantization(
    stored: Mapping[str, Any] | None, name: str | None
) -> None:
    assert declared_quantization({"quantization_config": stored}) == name


def test_vllm_is_given_only_what_the_model_does_not_say_itself() -> None:
    assert choose("fp8").argument == "fp8_per_tensor"
    assert choose("fp8", {"quant_method": "fp8"}).argument is None
    assert choose("awq", AWQ).argument is None
    assert choose(None, AWQ).argument is None
    assert choose().argument is None


def test_bytes_a_weight_count_scales_and_zero_points() -> None:
    assert choose().linear_bytes == 2.0
    assert choose("fp8").linear_bytes == 1.0
    assert choose(None, AWQ).linear_bytes == 0.5 + 2.5 / 64
    assert choose(None, {"quant_method": "gptq", "bits": 8}).linear_bytes == 1 + 2.5 / 128
    assert choose(None, INT8).linear_bytes == 1.0


@pytest.mark.parametrize("setting", ["awq", "gptq", "int8", "gguf"])
def test_what_needs_a_model_stored_so_is_refused_for_a_plain_one(setting: str) -> None:
    with pytest.raises(ValueError, match=rf"quantization {setting} needs a model .* or fp8"):
        choose(setting)


def test_the_setting_and_the_model_must_agree() -> None:
    with pytest.raises(ValueError, match=r"gptq is requested, but .* says awq"):
        choose("gptq", AWQ)


@pytest.mark.parametrize("name", QUANTIZATIONS)
def test_a_gpu_that_is_too_old_is_refused_with_what_it_can(name: str) -> None:
    stored = {"awq": AWQ, "int8": INT8}.get(name, {"quant_method": name})
    assert choose(name, stored, RTX_4090).name == name
    assert choose(name, stored, T4).name == name
    assert choose(name, stored, None).name == name
    with pytest.raises(ValueError, match=r"needs compute capability .* the GPU has 5.2: choose 16"):
        choose(name, stored, (5, 2))
    if QUANTIZATIONS[name].min_capability > (6, 1):
        with pytest.raises(ValueError, match=r"has 6\.1: choose gptq or gguf"):
            choose(name, stored, (6, 1))


def test_fp8_on_a_gpu_without_it_is_computed_in_16_bits() -> None:
    assert "computed in 16 bits" in choose("fp8", capability=T4).detail
    assert "activations" in choose("fp8", capability=RTX_4090).detail


def test_what_the_installed_vllm_does_not_know_is_refused() -> None:
    assert choose("fp8", known=frozenset({"fp8_per_tensor"})).name == "fp8"
    with pytest.raises(ValueError, match="does not know quantization fp8"):
        choose("fp8", known=frozenset({"awq"}))
    with pytest.raises(ValueError, match="install vllm-gguf-plugin"):
        choose("gguf", {"quant_method": "gguf"}, known=frozenset({"awq"}))


def test_a_kind_that_is_not_known_here_is_left_to_vllm_and_counted_in_16_bits() -> None:
    weights = choose(None, {"quant_method": "bitsandbytes"})
    assert (weights.name, weights.argument, weights.linear_bytes) == (None, None, 2.0)
    assert "bitsandbytes" in weights.detail
