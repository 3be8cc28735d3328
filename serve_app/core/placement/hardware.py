"""What a GPU can do: memory, bandwidth, number format, the cost of one decode step, and its price.

Figures: what NVIDIA's driver reports for memory, its data sheets for bandwidth and compute
capability. The step overhead and the cost per sequence are *derived* (for a 1.5B model: 14.5 +
0.13 b ms on a T4, 5.0 + 0.0695 b ms on a 4090, less the time to read the weights; prefill an upper
bound from the arithmetic rate) until a real GPU has been measured: each replica corrects them by
its own measured steps. docs/calibration.md has the points that they are derived from, and how far
they are off.
"""

from collections.abc import Mapping
from dataclasses import dataclass

MIB = 1024**2
GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Hardware:
    name: str
    accelerator_type: str | None
    memory_bytes: int
    bandwidth_bytes_per_s: float
    dtype: str
    attention_backend: str | None
    step_overhead_ms: float
    step_per_sequence_ms: float
    prefill_tokens_per_s: float
    max_sequences: int
    status: str
    capability: tuple[int, int] | None = None
    price: "Price | None" = None


@dataclass(frozen=True, slots=True)
class Price:
    """Of one GPU; `source` is where and when it was quoted."""

    usd_per_hour: float
    source: str


T4 = Hardware(
    name="NVIDIA T4",
    accelerator_type="T4",
    memory_bytes=15_360 * MIB,
    bandwidth_bytes_per_s=320e9,
    # Compute capability 7.5 has no bfloat16, and FlashAttention 2 and FlashInfer begin at 8.0.
    dtype="half",
    attention_backend="TRITON_ATTN",
    step_overhead_ms=4.85,
    step_per_sequence_ms=0.13,
    prefill_tokens_per_s=8_000,
    max_sequences=256,
    status="derived",
    capability=(7, 5),
    price=Price(0.526, "AWS g4dn.xlarge on demand, 2026-06"),
)

RTX_4090 = Hardware(
    name="NVIDIA GeForce RTX 4090",
    accelerator_type="GeForce-RTX-4090",
    memory_bytes=24_564 * MIB,
    bandwidth_bytes_per_s=1008e9,
    dtype="bfloat16",
    attention_backend=None,
    step_overhead_ms=1.94,
    step_per_sequence_ms=0.0695,
    prefill_tokens_per_s=27_000,
    max_sequences=256,
    status="derived",
    capability=(8, 9),
    price=Price(0.34, "RunPod, 2026-06"),
)

# One core of a server CPU (2026-11): SmolLM2-135M, which reads 269 MB a step, took 47 ms a step
# with one stream and 66 ms with eight.
CPU = Hardware(
    name="CPU",
    accelerator_type=None,
    memory_bytes=2 * GIB,
    bandwidth_bytes_per_s=6.5e9,
    dtype="auto",
    attention_backend=None,
    step_overhead_ms=3.0,
    step_per_sequence_ms=2.7,
    prefill_tokens_per_s=700,
    max_sequences=32,
    status="measured on one core of a server CPU",
)


def hardware_for(accelerator_type: str | None) -> Hardware:
    """The GPU of Ray's accelerator type. No accelerator means the CPU backend.

    A type that is not known here is treated like a T4, the smallest GPU served, with vLLM left to
    choose the number format and the attention backend.
    """
    if accelerator_type is None:
        return CPU
    known = {gpu.accelerator_type: gpu for gpu in (T4, RTX_4090)}
    if accelerator_type in known:
        return known[accelerator_type]
    return Hardware(
        name=accelerator_type,
        accelerator_type=accelerator_type,
        memory_bytes=T4.memory_bytes,
        bandwidth_bytes_per_s=T4.bandwidth_bytes_per_s,
        dtype="auto",
        attention_backend=None,
        step_overhead_ms=T4.step_overhead_ms,
        step_per_sequence_ms=T4.step_per_sequence_ms,
        prefill_tokens_per_s=T4.prefill_tokens_per_s,
        max_sequences=T4.max_sequences,
        status="unknown GPU, treated as a T4",
    )


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a dense Llama- or Qwen2-shaped model, in 16-bit weights."""

    parameters: int
    embedding_parameters: int
    tied_embeddings: bool
    kv_bytes_per_token: int

    @property
    def weight_bytes(self) -> int:
        return 2 * self.parameters

    @property
    def step_read_bytes(self) -> int:
        """Bytes that one decode step reads: all weights but an untied input embedding."""
        unread = 0 if self.tied_embeddings else self.embedding_parameters
        return 2 * (self.parameters - unread)


def model_shape(config: Mapping[str, object]) -> ModelShape:
    """Sizes from the model's `config.json`. Raises ValueError where a size is missing."""
    hidden = _size(config, "hidden_size")
    layers = _size(config, "num_hidden_layers")
    heads = _size(config, "num_attention_heads")
    kv_heads = _size(config, "num_key_value_heads", heads)
    head_dim = _size(config, "head_dim", hidden // heads)
    intermediate = _size(config, "intermediate_size")
    embedding = _size(config, "vocab_size") * hidden
    tied = bool(config.get("tie_word_embeddings", False))
    bias = (heads + 2 * kv_heads) * head_dim if config.get("model_type") == "qwen2" else 0
    attention = 2 * hidden * heads * head_dim + 2 * hidden * kv_heads * head_dim + bias
    layer = attention + 3 * hidden * intermediate + 2 * hidden
    return ModelShape(
        parameters=layers * layer + hidden + embedding * (1 if tied else 2),
        embedding_parameters=embedding,
        tied_embeddings=tied,
        kv_bytes_per_token=2 * 2 * layers * kv_heads * head_dim,
    )


def _size(config: Mapping[str, object], name: str, default: int | None = None) -> int:
    value = config.get(name)
    if isinstance(value, int):
        return value
    if default is None:
        raise ValueError(f"the model's config.json has no {name}")
    return default
