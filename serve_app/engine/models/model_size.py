"""A model's sizes from its files, before any weight is loaded: config.json and the headers of the
weights' files."""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve_app.core.default_model import DEFAULT_MODEL, DEFAULT_MODEL_CONFIG
from serve_app.engine.models.model_dir import hub_config

_KNOWN_CONFIGS: Mapping[str, Mapping[str, Any]] = {DEFAULT_MODEL: DEFAULT_MODEL_CONFIG}
# Floats are loaded in 16 bits whatever they are stored in; packed integers stay as they are.
_LOADED_BYTES = {"F64": 2, "F32": 2, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2}


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """`weight_bytes` is what the stored weights take when loaded; None where they are not here."""

    config: Mapping[str, Any]
    weight_bytes: int | None


def read_model(model: Path | str) -> ModelFiles:
    """Of a model directory, a GGUF file, or a hub name (from its local cache, or the hub).

    Raises ModelNotFoundError where a hub name has no config.json within reach.
    """
    path = Path(model) if isinstance(model, Path) or Path(model).exists() else None
    if path is not None and path.suffix == ".gguf":
        config = _gguf_config(path) | {"quantization_config": {"quant_method": "gguf"}}
        return ModelFiles(config, path.stat().st_size)
    if path is None and str(model) in _KNOWN_CONFIGS and not _is_cached(str(model)):
        return ModelFiles(_KNOWN_CONFIGS[str(model)], None)
    folder = path or hub_config(str(model)).parent
    return ModelFiles(json.loads((folder / "config.json").read_text()), _loaded_bytes(folder))


def _is_cached(name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(name, "config.json"), str)


def _gguf_config(file: Path) -> dict[str, Any]:
    """vLLM's plugin takes the config.json beside the file; its metadata tell the sizes as well."""
    beside = file.with_name("config.json")
    if beside.is_file():
        return json.loads(beside.read_text())
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(file.parent, gguf_file=file.name).to_dict()


def _loaded_bytes(folder: Path) -> int | None:
    files = sorted(folder.glob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = set(json.loads(index.read_text()).get("weight_map", {}).values())
        files = [folder / name for name in sorted(names)]
    if not files or not all(file.is_file() for file in files):
        return None
    return sum(_bytes_of(file) for file in files)


def _bytes_of(file: Path) -> int:
    with file.open("rb") as stream:
        (header_bytes,) = struct.unpack("<Q", stream.read(8))
        header: dict[str, Any] = json.loads(stream.read(header_bytes))
    return sum(
        math.prod(tensor["shape"]) * _LOADED_BYTES.get(tensor["dtype"], 1)
        for name, tensor in header.items()
        if name != "__metadata__"
    )
