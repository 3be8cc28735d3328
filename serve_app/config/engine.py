"""Settings of a tier's engine: what vLLM, or the fake engine, is started with."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

# The model's own words to itself; its tokens count as the request's.
DEFAULT_TRANSITION = "\n\nTime is up: I answer with what I have.\n"


class Strict(BaseModel):
    """Unknown settings are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FakeGpuConfig(Strict):
    """Step times of a GPU that the fake engine stands in for. As in `tierserve bench simulate`, a
    step takes `base_ms + per_sequence_ms * sequences that decode + per_context_ktoken_ms * their
    contexts / 1000 + per_prompt_token_ms * prompt tokens`."""

    base_ms: float = Field(gt=0, description="What a step takes, whatever is in it.")
    per_sequence_ms: float = Field(gt=0, description="For each sequence that decodes.")
    per_prompt_token_ms: float = Field(gt=0, description="For each prompt token.")
    per_context_ktoken_ms: float = Field(
        default=0.0, ge=0, description="For each 1,000 tokens in the contexts of all that decode."
    )
    step_tokens: int = Field(
        default=2048, ge=1, description="Most tokens in a step: vLLM's max_num_batched_tokens."
    )
    kv_tokens: int = Field(ge=1, description="Capacity of the KV cache.")
    max_sequences: int = Field(
        default=256, ge=1, description="Most sequences in a step: vLLM's max_num_seqs."
    )


class FakeEngineConfig(Strict):
    """The fake engine in place of vLLM, for load beyond this machine and for tests: it has the
    step times of a GPU, and its answers are made up."""

    start_s: float = Field(default=2.0, ge=0, description="Time that a start takes.")
    reply_tokens: int = Field(
        default=300,
        ge=1,
        description="Mean length of an answer, of a log-normal distribution; a request with "
        "`ignore_eos` gets as many tokens as it asks for.",
    )
    reply_spread: float = Field(
        default=0.6, ge=0, description="Standard deviation of the logarithm of the length."
    )
    seed: int = Field(
        default=0, description="Seed of the lengths; the same prompt gets the same answer."
    )
    speed: float = Field(default=1.0, gt=0, description="How many times faster than the GPU.")
    stream_interval: int = Field(
        default=1,
        ge=1,
        description="Tokens in an event of a stream, of which the first has one: vLLM's "
        "stream-interval. More of them cost less CPU.",
    )
    prefix_cache: bool = Field(
        default=False,
        description="Keep the blocks of prompts, as many as the KV cache has, and read none of "
        "them again: vLLM's enable-prefix-caching.",
    )
    cards: dict[str, FakeGpuConfig] = Field(
        default_factory=dict,
        description="Step times by Ray's accelerator type; derived for a type that is not named.",
    )


class EngineConfig(Strict):
    """What vLLM is started with. A change needs a new engine."""

    dtype: str | None = Field(
        default=None,
        description="Number format; unset: by GPU (T4 half, 4090 bfloat16), float32 on an x86 CPU "
        "without AVX-512, and otherwise the model's.",
    )
    max_model_len: int = Field(
        default=4096, ge=64, description="Context of one sequence, prompt and answer, in tokens."
    )
    gpu_memory_utilization: float = Field(
        default=0.90,
        gt=0,
        le=1,
        description="Fraction of the GPU's memory that the engine may take.",
    )
    cpu_kv_cache_gib: int = Field(
        default=1, ge=1, description="KV cache on the CPU backend, in GiB."
    )
    cpu_slice: str | None = Field(
        default=None,
        pattern=r"^[0-9]+/[0-9]+$",
        description="CPU backend: the part of this machine's cores that the engine runs on, "
        "`0/2` for the first half, `1/2` for the second; unset: all. Tiers on cores of their own "
        "do not slow each other.",
    )
    enforce_eager: bool | None = Field(
        default=None,
        description="Skip compilation and graph capture; unset: yes on the CPU, no on a GPU.",
    )
    compile_cache_dir: str | None = Field(
        default=None,
        description="Where vLLM keeps what a later start can reuse: compiled code, and what it "
        "learned about the model's class, which helps without compilation too. Replicas and "
        "restarts share it; unset: `~/.cache/vllm`, which a container loses. On Kubernetes a "
        "volume that every node of one GPU type mounts. Its files are executed: let nobody else "
        "write there.",
    )
    quantization: Literal["awq", "gptq", "int8", "fp8", "gguf"] | None = Field(
        default=None,
        description="How the weights are quantized; unset: as the model's config.json says. `fp8` "
        "quantizes 16-bit weights while they load; the others need a model that is stored so "
        "(`int8`: W8A8, compressed-tensors; `gguf`: vLLM's plugin). docs/placement.md lists which "
        "GPU runs which.",
    )
    tool_call_parser: str | None = Field(
        default="hermes", description="vLLM's tool parser; null turns automatic tool choice off."
    )
    tool_strict_level: Literal["auto", "function", "parameter"] = Field(
        default="parameter",
        description="How far the engine constrains tool calls to their schemas: `parameter` makes "
        "the arguments of every call valid, `auto` only those of tools marked `strict`.",
    )
    reasoning_parser: str | None = Field(
        default=None,
        description="vLLM's reasoning parser; unset: for R1 models vLLM's own with exact counts "
        "(`tierserve_r1`), otherwise none.",
    )
    thinking_transition: str = Field(
        default=DEFAULT_TRANSITION,
        description="What ends the reasoning of an R1 model whose budget is spent, before "
        "`</think>`.",
    )
    chat_template: str | None = Field(
        default=None, description="Path of a chat template in place of the model's."
    )
    seed: int = Field(default=0, description="Seed of the engine.")
    speculation: Literal["off", "ngram", "suffix", "auto"] = Field(
        default="off",
        description="Draft tokens from what a sequence repeats, and verify several in one step: "
        "`ngram` from its own prompt and answer, `suffix` from other answers too (needs "
        "arctic-inference), `auto` the better of the two that is installed, and only where steps "
        "with drafts, measured, make more tokens a second. docs/speculation.md has what it gains "
        "and which requests it leaves alone.",
    )
    speculation_tokens: int = Field(
        default=8, ge=1, le=32, description="Most tokens drafted for a sequence and step."
    )
    extra_args: dict[str, str | int | float | bool] = Field(
        default_factory=dict,
        description="Further arguments of `vllm serve`, without dashes: `{stream-interval: 4}`.",
    )
    fake: FakeEngineConfig | None = Field(
        default=None,
        description="The fake engine in place of vLLM, for load beyond this machine and for tests: "
        "answers are made up. Unset: vLLM.",
    )

    @model_validator(mode="after")
    def _speculation_is_set_once(self) -> Self:
        """vLLM's own arguments would win, and the limits of drafts not be what they were set to."""
        if self.speculation == "off":
            return self
        if self.fake is not None:
            raise ValueError("speculation: the fake engine drafts nothing; set it to off")
        given = {name.replace("_", "-") for name in self.extra_args}
        twice = sorted(given & {"speculative-config", "additional-config"})
        if twice:
            raise ValueError(
                f"speculation is {self.speculation}, and extra_args has {' and '.join(twice)}: "
                "leave one of the two out"
            )
        return self
