"""Sizes of a model from its files, without loading a weight."""

import json
import struct
from pathlib import Path

import pytest

from serve_app.core.placement.hardware import model_shape
from serve_app.engine.models import model_size
from serve_app.engine.models.model_dir import ModelNotFoundError, resolve_model
from serve_app.engine.models.model_size import read_model
from serve_app.engine.vllm.quantizations import known_to_vllm


def write_header(file: Path, tensors: dict[str, tuple[str, list[int]]]) -> None:
    entries = {n: {"dtype": d, "shape": s, "data_offsets": [0, 0]} for n, (d, s) in tensors.items()}
    header = json.dumps({"__metadata__": {"format": "pt"}, **entries}).encode()
    file.write_bytes(struct.pack("<Q", len(header)) + header)


def test_weights_are_counted_as_they_are_loaded(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"hidden_size": 8}')
    assert read_model(tmp_path).weight_bytes is None
    write_header(tmp_path / "a.safetensors", {"x": ("F32", [4, 8]), "y": ("BF16", [8])})
    write_header(tmp_path / "b.safetensors", {"z": ("I32", [3]), "s": ("F8_E4M3", [5])})
    files = read_model(tmp_path)
    # 32-bit floats are loaded in 16 bits; packed integers and 8-bit floats as they are.
    assert files.weight_bytes == 2 * 32 + 2 * 8 + 4 * 3 + 5
    assert files.config == {"hidden_size": 8}


def test_only_the_files_of_the_index_count(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    write_header(tmp_path / "a.safetensors", {"x": ("F16", [4])})
    write_header(tmp_path / "old.safetensors", {"x": ("F16", [400])})
    index = {"weight_map": {"x": "a.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert read_model(tmp_path).weight_bytes == 8
    (tmp_path / "a.safetensors").unlink()
    assert read_model(tmp_path).weight_bytes is None


def test_a_gguf_file_says_that_it_is_one(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(bytes(100))
    (tmp_path / "config.json").write_text('{"hidden_size": 8}')
    assert resolve_model(str(file)) == file
    files = read_model(file)
    assert files.weight_bytes == 100
    assert files.config["quantization_config"] == {"quant_method": "gguf"}


def test_the_default_model_is_known_without_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(name: str) -> Path:
        raise ModelNotFoundError(name)

    monkeypatch.setattr(model_size, "hub_config", unreachable)
    monkeypatch.setattr(model_size, "_is_cached", lambda name: False)
    files = read_model("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B")
    assert model_shape(files.config).parameters == 1_777_088_000
    with pytest.raises(ModelNotFoundError):
        read_model("some/other-model")


def test_the_installed_vllm_knows_what_the_settings_stand_for() -> None:
    known = known_to_vllm()
    if known is None:
        pytest.skip("no vLLM is installed")
    assert {"awq", "gptq", "compressed-tensors", "fp8_per_tensor", "fp8"} <= known
