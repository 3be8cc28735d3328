"""Which quantized weights a GPU and the installed vLLM can run, and what they weigh.

Least compute capabilities: `get_min_capability` of vLLM 0.32's quantization configs and kernels.
Marlin, which begins at 7.5 there, computes AWQ, GPTQ and 8-bit floats on a T4; only from 8.9 on are
the activations of FP8 8-bit floats too. Nothing of this has been measured on a GPU.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, cast

Capability = tuple[int, int]

# A scale of 2 bytes and a zero point of half a byte for each group of weights.
GROUP_BYTES = 2.5
DEFAULT_GROUP = 128
FP8_HARDWARE: Capability = (8, 9)


@dataclass(frozen=True, slots=True)
class Quantization:
    """One value of the setting `engine.quantization`.

    `bits` a weight of the quantized layers, without scales. `vllm_names`: one of them must be known
    to the installed vLLM. `argument`: what vLLM is given for a model whose weights are *not*
    quantized yet; None where it needs a model that is.
    """

    name: str
    title: str
    bits: int
    min_capability: Capability
    vllm_names: tuple[str, ...]
    argument: str | None = None


QUANTIZATIONS: Mapping[str, Quantization] = {
    kind.name: kind
    for kind in (
        Quantization("awq", "AWQ, 4 bits", 4, (7, 5), ("awq", "auto_awq")),
        Quantization("gptq", "GPTQ, 4 or 8 bits", 4, (6, 0), ("gptq", "auto_gptq")),
        Quantization("int8", "INT8 W8A8, compressed-tensors", 8, (7, 5), ("compressed-tensors",)),
        Quantization("fp8", "FP8", 8, (7, 5), ("fp8_per_tensor", "fp8"), "fp8_per_tensor"),
        Quantization("gguf", "GGUF, by vLLM's plugin", 8, (6, 0), ("gguf",)),
    )
}


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights of a model as they will be on the GPU.

    `name` is a value of the setting, or None for 16-bit weights (and for kinds not known here,
    which count as such). `argument` is vLLM's `--quantization`; None leaves it to the model's own
    config. `linear_bytes` a weight of the layers; embeddings and output head keep 2 bytes.
    """

    name: str | None
    argument: str | None
    linear_bytes: float
    detail: str


def choose_weights(
    setting: str | None,
    config: Mapping[str, Any],
    *,
    capability: Capability | None,
    known_to_vllm: Collection[str] | None,
    gpu: str,
) -> Weights:
    """What the setting and the model's config.json come to on this GPU.

    None for `capability` or `known_to_vllm` means that it is not known, and then not checked.
    Raises ValueError, with what to do, where model, GPU or vLLM do not go together.
    """
    declared = declared_quantization(config)
    if setting is not None and declared not in (None, setting):
        raise ValueError(
            f"quantization {setting} is requested, but the model's config.json says {declared}: "
            "leave engine.quantization unset, or take another model"
        )
    name = setting or declared
    if name is None:
        return Weights(None, None, 2.0, "16-bit weights")
    kind = QUANTIZATIONS.get(name)
    if kind is None:
        return Weights(None, None, 2.0, f"{name} weights, counted as 16-bit")
    if declared is None and kind.argument is None:
        raise ValueError(
            f"quantization {name} needs a model whose weights are stored so, and this model's "
            "config.json says nothing of it: take such a model, or fp8, which vLLM makes of 16-bit "
            "weights while it loads them"
        )
    _check_gpu(kind, capability, gpu)
    _check_vllm(kind, known_to_vllm)
    argument = kind.argument if declared is None else None
    return Weights(name, argument, _linear_bytes(kind, config), _detail(kind, capability))


def declared_quantization(config: Mapping[str, Any]) -> str | None:
    """The quantization in the model's own config.json, by the name of the setting where it has
    one."""
    found = config.get("quantization_config")
    if not isinstance(found, Mapping):
        return None
    declared = cast(Mapping[str, Any], found)
    method = str(declared.get("quant_method", "")).lower().removeprefix("auto_").replace("_", "-")
    if method.removesuffix("-marlin") in QUANTIZATIONS:
        return method.removesuffix("-marlin")
    if method == "compressed-tensors":
        return _compressed_kind(declared)
    return method or None


def _compressed_kind(declared: Mapping[str, Any]) -> str:
    groups = cast(Mapping[str, Mapping[str, Any]], declared.get("config_groups") or {})
    for group in groups.values():
        weights = cast(Mapping[str, Any], group.get("weights") or {})
        if weights.get("num_bits") == 8:
            return "fp8" if weights.get("type") == "float" else "int8"
    return "compressed-tensors"


def _check_gpu(kind: Quantization, capability: Capability | None, gpu: str) -> None:
    if capability is None or capability >= kind.min_capability:
        return
    can = [k.name for k in QUANTIZATIONS.values() if capability >= k.min_capability]
    raise ValueError(
        f"quantization {kind.name} needs compute capability {_dotted(kind.min_capability)}, and "
        f"{gpu} has {_dotted(capability)}: choose {' or '.join(can) or '16-bit weights'}"
    )


def _check_vllm(kind: Quantization, known: Collection[str] | None) -> None:
    if known is None or any(name in known for name in kind.vllm_names):
        return
    if kind.name == "gguf":
        raise ValueError(
            "this vLLM reads GGUF only with its plugin: install vllm-gguf-plugin beside vLLM on "
            "every node with a GPU"
        )
    raise ValueError(f"the installed vLLM does not know quantization {kind.name}: upgrade it")


def _linear_bytes(kind: Quantization, config: Mapping[str, Any]) -> float:
    declared = cast(Mapping[str, Any], config.get("quantization_config") or {})
    stored = declared.get("bits", declared.get("w_bit"))
    bits = stored if isinstance(stored, int) else kind.bits
    if kind.name not in ("awq", "gptq"):
        return bits / 8
    size = declared.get("group_size", declared.get("q_group_size"))
    group = size if isinstance(size, int) and size > 0 else DEFAULT_GROUP
    return bits / 8 + GROUP_BYTES / group


def _detail(kind: Quantization, capability: Capability | None) -> str:
    if kind.name != "fp8" or capability is None:
        return f"{kind.name} weights"
    if capability < FP8_HARDWARE:
        return "fp8 weights, computed in 16 bits (this GPU has no 8-bit floats)"
    return "fp8 weights and activations"


def _dotted(capability: Capability) -> str:
    return ".".join(str(number) for number in capability)
