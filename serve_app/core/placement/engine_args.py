"""vLLM's command line for a model on a GPU, as plain names and values."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from serve_app.core.admission.capacity import express_slots
from serve_app.core.model_family import R1_PARSER
from serve_app.core.placement.hardware import Hardware

ArgValue = str | int | float | bool
# One process computes and schedules. vLLM's default on the CPU gives the worker a process of its
# own, and the two then spin for up to a second on each other's messages: with a core for each
# tier, the time to the first token of one tier rose tenfold while the other was flooded. By class,
# because the name `uni` is turned back into the default.
CPU_EXECUTOR = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
# A draft is what followed the last so many tokens where they stood before; one token alone says
# next to nothing in prose.
NGRAM_MIN_TOKENS, NGRAM_MAX_TOKENS = 2, 5
# In vLLM's additional-config, which reaches the engine's process; `engine/vllm/drafting.py` reads
# it.
SPECULATION_KEY, SPECULATION_MEASURED = "tierserve_speculation", "auto"


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What to start: the model, the names it is served under, and how."""

    model: str
    served_names: tuple[str, ...]
    max_model_len: int
    gpu_memory_utilization: float
    dtype: str | None = None
    enforce_eager: bool | None = None
    quantization: str | None = None
    tool_call_parser: str | None = None
    tool_strict_level: str = "parameter"
    reasoning_parser: str | None = None
    thinking_transition: str = ""
    chat_template: str | None = None
    seed: int = 0
    # vLLM's method of drafting; None: none. Measured: drafts only where they pay.
    speculation: str | None = None
    speculation_measured: bool = False
    speculation_tokens: int = 8
    # Where vLLM's spans go; None: it makes none.
    traces_url: str | None = None
    extra_args: Mapping[str, ArgValue] = field(default_factory=dict[str, ArgValue])


def engine_args(spec: EngineSpec, hardware: Hardware) -> list[str]:
    """Arguments of `vllm serve` for this model on this GPU; `extra_args` win. A False among them
    turns the argument off, whatever vLLM's default for it is."""
    on_cpu = hardware.accelerator_type is None
    args: dict[str, ArgValue | None] = {
        "model": spec.model,
        "dtype": spec.dtype or hardware.dtype,
        "max-model-len": spec.max_model_len,
        "max-num-seqs": hardware.max_sequences + express_slots(hardware.max_sequences),
        "seed": spec.seed,
        "enforce-eager": on_cpu if spec.enforce_eager is None else spec.enforce_eager,
        "quantization": spec.quantization,
        "attention-backend": hardware.attention_backend,
        "chat-template": spec.chat_template,
        "reasoning-parser": spec.reasoning_parser,
        "reasoning-config": _reasoning_config(spec),
        "tool-call-parser": spec.tool_call_parser,
        "tool-strict-level": spec.tool_strict_level,
        "enable-auto-tool-choice": spec.tool_call_parser is not None,
        "disable-uvicorn-access-log": True,
        "enable-prefix-caching": True,
        "otlp-traces-endpoint": spec.traces_url,
        **_speculation(spec),
    }
    if on_cpu:
        args["distributed-executor-backend"] = CPU_EXECUTOR
    else:
        args["gpu-memory-utilization"] = spec.gpu_memory_utilization
    extra = {name.replace("_", "-"): value for name, value in spec.extra_args.items()}
    off = [f"--no-{name}" for name, value in extra.items() if value is False]
    given = [part for name, value in (args | extra).items() for part in _as_options(name, value)]
    return [*given, *off, "--served-model-name", *spec.served_names]


def _reasoning_config(spec: EngineSpec) -> str | None:
    """How the engine ends the reasoning. Only vLLM knows the marks of other parsers."""
    if spec.reasoning_parser != R1_PARSER:
        return None
    marks = {
        "reasoning_start_str": "<think>",
        "reasoning_end_str": f"{spec.thinking_transition}</think>",
    }
    return json.dumps(marks)


def _speculation(spec: EngineSpec) -> dict[str, ArgValue]:
    if spec.speculation is None:
        return {}
    config: dict[str, ArgValue] = {
        "method": spec.speculation,
        "num_speculative_tokens": spec.speculation_tokens,
    }
    if spec.speculation == "ngram":
        config |= {"prompt_lookup_min": NGRAM_MIN_TOKENS, "prompt_lookup_max": NGRAM_MAX_TOKENS}
    args: dict[str, ArgValue] = {"speculative-config": json.dumps(config)}
    if spec.speculation_measured:
        args["additional-config"] = json.dumps({SPECULATION_KEY: SPECULATION_MEASURED})
    return args


def _as_options(name: str, value: ArgValue | None) -> list[str]:
    if value is None or value is False:
        return []
    return [f"--{name}"] if value is True else [f"--{name}", str(value)]


def cores_of_slice(cpu_slice: str | None, cores: list[int]) -> list[int]:
    """Part `i` of `n` equal parts of the cores, for `i/n`; all where there are fewer than `n`."""
    if cpu_slice is None:
        return cores
    part, parts = (int(number) for number in cpu_slice.split("/"))
    if part >= parts:
        raise ValueError(f"cpu_slice {cpu_slice}: the first number must be below the second")
    if len(cores) < parts:
        return cores
    return cores[part * len(cores) // parts : (part + 1) * len(cores) // parts]
