"""Refuses a model that its GPU cannot hold, before any weight is loaded."""

import logging
from dataclasses import dataclass
from pathlib import Path

from serve_app.config.engine import EngineConfig
from serve_app.core.placement.fit import (
    GpuSpec,
    MemoryFit,
    fit_model,
    gpu_of,
    ways_to_fit,
    weight_bytes,
)
from serve_app.core.placement.hardware import Hardware, ModelShape, model_shape
from serve_app.core.placement.quantization import Weights, choose_weights
from serve_app.engine.models.model_dir import resolve_model
from serve_app.engine.models.model_size import ModelFiles, read_model
from serve_app.engine.vllm.quantizations import known_to_vllm
from serve_app.nvidia import DriverGpu

log = logging.getLogger(__name__)


class ModelDoesNotFitError(ValueError):
    """The model cannot run on this GPU; the message has the arithmetic and what to do."""


@dataclass(frozen=True, slots=True)
class CheckedModel:
    """A model on a GPU: its weights there, and what they leave for the KV cache."""

    shape: ModelShape
    weights: Weights
    fit: MemoryFit


def quantization_argument(
    config: EngineConfig, model: str, hardware: Hardware, found: DriverGpu | None = None
) -> str | None:
    """vLLM's `--quantization` for this model on this hardware. `found` is the replica's GPU as its
    driver describes it.

    Raises ModelDoesNotFitError, or ValueError for a quantization that does not go with the model,
    the GPU or vLLM. On the CPU there is no GPU to fit: only the quantization is looked at.
    """
    on_cpu = hardware.accelerator_type is None
    if on_cpu and config.quantization is None:
        return None
    files = read_model(Path(model) if Path(model).exists() else model)
    if on_cpu:
        return _weights(config, files, GpuSpec("the CPU", None, None)).argument
    checked = check_model(config, files, gpu_of_replica(hardware, found))
    if checked is None:
        return config.quantization
    log.info("model fits", extra={"phase": "start", "why": checked.fit.reason})
    return checked.weights.argument


def check_model(config: EngineConfig, files: ModelFiles, gpu: GpuSpec) -> CheckedModel | None:
    """The model on that GPU; None for a model whose config.json has no sizes.

    Raises as `quantization_argument` does.
    """
    try:
        shape = model_shape(files.config)
    except ValueError as error:
        log.warning("the fit is not checked: %s", error, extra={"phase": "start"})
        return None
    weights = _weights(config, files, gpu)
    size = weight_bytes(shape, weights, files.weight_bytes)
    fit = fit_model(
        gpu,
        weights_bytes=size,
        kv_bytes_per_token=shape.kv_bytes_per_token,
        max_model_len=config.max_model_len,
        utilization=config.gpu_memory_utilization,
        detail=weights.detail,
    )
    if fit.fits is False:
        ways = ways_to_fit(
            gpu,
            shape,
            weights,
            max_model_len=config.max_model_len,
            utilization=config.gpu_memory_utilization,
            weights_bytes=size,
        )
        raise ModelDoesNotFitError(
            f"The model does not fit: {fit.reason}. What would help: {'; '.join(ways)}."
        )
    return CheckedModel(shape, weights, fit)


def gpu_of_replica(hardware: Hardware, found: DriverGpu | None) -> GpuSpec:
    """What is known of the GPU: by the driver, else by core/placement/hardware.py."""
    if found is None:
        return gpu_of(hardware)
    return gpu_of(hardware, memory_bytes=found.memory_bytes, capability=found.capability)


def model_files(model: str) -> ModelFiles:
    """Of whatever the config file calls a model. Raises ModelNotFoundError."""
    return read_model(resolve_model(model))


def _weights(config: EngineConfig, files: ModelFiles, gpu: GpuSpec) -> Weights:
    return choose_weights(
        config.quantization,
        files.config,
        capability=gpu.capability,
        known_to_vllm=known_to_vllm(),
        gpu=gpu.name,
    )
