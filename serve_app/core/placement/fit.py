"""Whether a model fits on a GPU, with the arithmetic.

KV tokens = (utilisation * memory that CUDA sees - weights - overhead) / KV bytes a token.
Source: the formula and the overhead were fitted to published start-up logs of this 1.5B model,
`(0.90 * GiB - 3.34 - 1.2..1.4) * 2^30 / 28672`; no GPU was at hand to measure it.
"""

from dataclasses import dataclass

from serve_app.core.placement.hardware import GIB, Hardware, ModelShape
from serve_app.core.placement.quantization import QUANTIZATIONS, Capability, Weights

# Activations of the largest batch, CUDA graphs and workspaces: 1.2 to 1.4 GiB in those logs.
# A model of another size needs another amount; this one is taken for all.
OVERHEAD_BYTES = int(1.3 * GIB)
# Refused is only what does not fit with the least overhead seen either: vLLM itself has the last
# word, after the weights are loaded.
OVERHEAD_DOUBT_BYTES = int(0.1 * GIB)
# CUDA sees a little less than the driver reports: 14.6 of 15.0 GiB on a T4, 23.4 of 24.0 on a 4090.
VISIBLE_FRACTION = 0.975
CONTEXT_STEP = 256
LEAST_USEFUL_CONTEXT = 1024
HIGHEST_UTILIZATION = 0.95


@dataclass(frozen=True, slots=True)
class GpuSpec:
    """A GPU as placement sees it. `memory_bytes` is what the driver reports; None is unknown."""

    name: str
    memory_bytes: int | None
    capability: Capability | None

    @property
    def visible_bytes(self) -> int | None:
        """What CUDA, and so vLLM, sees of it."""
        return None if self.memory_bytes is None else int(self.memory_bytes * VISIBLE_FRACTION)


@dataclass(frozen=True, slots=True)
class MemoryFit:
    """`kv_tokens` is what the KV cache will hold. Both are None where the GPU is not known."""

    fits: bool | None
    kv_tokens: int | None
    reason: str


def gpu_of(
    hardware: Hardware, *, memory_bytes: int | None = None, capability: Capability | None = None
) -> GpuSpec:
    """The GPU of a replica's hardware; what its driver says wins over the data sheet, and is all
    there is for a GPU that core/placement/hardware.py does not know."""
    if hardware.capability is None:
        return GpuSpec(hardware.name, memory_bytes, capability)
    return GpuSpec(
        hardware.name, memory_bytes or hardware.memory_bytes, capability or hardware.capability
    )


def weight_bytes(shape: ModelShape, weights: Weights, stored_bytes: int | None = None) -> int:
    """Bytes of the weights on the GPU.

    `stored_bytes`, the size of the weights' files, is exact unless vLLM quantizes them while it
    loads. Embeddings and output head stay in 16 bits in all the kinds known here.
    """
    if stored_bytes is not None and weights.argument is None:
        return stored_bytes
    embeddings = shape.embedding_parameters * (1 if shape.tied_embeddings else 2)
    linear = shape.parameters - embeddings
    return int(2 * embeddings + weights.linear_bytes * linear)


def fit_model(
    gpu: GpuSpec,
    *,
    weights_bytes: int,
    kv_bytes_per_token: int,
    max_model_len: int,
    utilization: float,
    detail: str = "16-bit weights",
) -> MemoryFit:
    """Whether the engine can hold the weights and at least one sequence of its full context."""
    visible = gpu.visible_bytes
    if visible is None:
        return MemoryFit(
            None, None, f"the memory of {gpu.name} is not known, so its fit is not checked"
        )
    budget = int(utilization * visible)
    kv_bytes = budget - weights_bytes - OVERHEAD_BYTES
    kv_tokens = max(0, kv_bytes) // kv_bytes_per_token
    fits = (kv_bytes + OVERHEAD_DOUBT_BYTES) // kv_bytes_per_token >= max_model_len
    sums = (
        f"{utilization:g} of {_gib(visible)} GiB on {gpu.name} is {_gib(budget)}; less "
        f"{_gib(weights_bytes)} for {detail} and {_gib(OVERHEAD_BYTES)} for activations and CUDA "
        f"graphs leaves {_gib(kv_bytes)} GiB"
    )
    if not fits and kv_bytes <= 0:
        return MemoryFit(False, 0, f"{sums}: nothing for the KV cache")
    holds = (
        f"{sums}, {kv_tokens:,} KV tokens of {kv_bytes_per_token:,} bytes: "
        f"{kv_tokens / max_model_len:.1f} sequences of {max_model_len} tokens"
    )
    if not fits:
        return MemoryFit(False, kv_tokens, f"{holds}, and it must hold one")
    doubt = "" if kv_tokens >= max_model_len else "; only just, if the overhead is as small as seen"
    return MemoryFit(True, max(kv_tokens, max_model_len), f"{holds}{doubt}")


def ways_to_fit(
    gpu: GpuSpec,
    shape: ModelShape,
    weights: Weights,
    *,
    max_model_len: int,
    utilization: float,
    weights_bytes: int,
) -> list[str]:
    """What would make a model fit that does not: each is checked with the same arithmetic."""

    def fits(size: int, context: int, fraction: float) -> bool:
        fit = fit_model(
            gpu,
            weights_bytes=size,
            kv_bytes_per_token=shape.kv_bytes_per_token,
            max_model_len=context,
            utilization=fraction,
        )
        return bool(fit.fits)

    ways: list[str] = []
    contexts = range(max_model_len - CONTEXT_STEP, LEAST_USEFUL_CONTEXT - 1, -CONTEXT_STEP)
    shorter = next((n for n in contexts if fits(weights_bytes, n, utilization)), None)
    if shorter is not None:
        ways.append(f"engine.max_model_len: {shorter}")
    if weights.name is None:
        for kind in QUANTIZATIONS.values():
            smaller = Weights(kind.name, kind.argument, kind.bits / 8, kind.name)
            runs = gpu.capability is None or gpu.capability >= kind.min_capability
            if runs and fits(weight_bytes(shape, smaller), max_model_len, utilization):
                needs = "" if kind.argument else " with a model stored so"
                ways.append(f"engine.quantization: {kind.name}{needs}")
    if utilization < HIGHEST_UTILIZATION and fits(weights_bytes, max_model_len, 0.90):
        ways.append("engine.gpu_memory_utilization: 0.9, if the GPU is this engine's alone")
    return [*ways, "a GPU with more memory"]


def _gib(amount: int) -> str:
    return f"{amount / GIB:.2f}"
