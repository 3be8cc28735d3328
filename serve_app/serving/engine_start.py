"""Starts the engine that a tier's settings name, for the GPU that its replica was placed on."""

import logging
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from serve_app.api.tracing import HTTP_PROTOCOL, TRACES_PROTOCOL_VARIABLE
from serve_app.config.engine import EngineConfig
from serve_app.config.tier import TierArgs
from serve_app.core.model_family import R1_PARSER, VLLMS_R1_PARSER
from serve_app.core.placement.engine_args import EngineSpec, cores_of_slice, engine_args
from serve_app.core.placement.hardware import Hardware
from serve_app.engine.fake.engine import FakeEngine, simulated_gpu
from serve_app.engine.interface import Engine
from serve_app.engine.models.fit_check import quantization_argument
from serve_app.engine.models.model_dir import resolve_model
from serve_app.engine.templates.chat_templates import served_template
from serve_app.engine.vllm.compilation import keep_compiled_in
from serve_app.engine.vllm.cpu import computes_on_cpu, on_cores, this_cpu
from serve_app.engine.vllm.engine import VllmEngine
from serve_app.engine.vllm.speculation import check_patches, choose_runner, chosen_speculation
from serve_app.nvidia import DriverGpu, gpu_with_id
from serve_app.serving.replica_placement import ReplicaPlacement
from serve_app.serving.scheduling_class import preempting

log = logging.getLogger(__name__)

# Settings that are no arguments of `vllm serve`.
NOT_ARGUMENTS = frozenset({"compile_cache_dir", "cpu_kv_cache_gib", "cpu_slice", "fake"})

# What is installed decides how it is done.
BY_INSTALLATION = frozenset({"speculation"})

# Where the settings leave these open, the model's family decides.
BY_FAMILY = frozenset({"chat_template", "reasoning_parser"})

Phase = Callable[[str], AbstractContextManager[None]]


async def start_engine(
    args: TierArgs, placed_on: Hardware, phase: Phase, traces_url: str | None = None
) -> tuple[Engine, Hardware]:
    """The engine, and the hardware that it computes on. `phase` times each step; `traces_url` is
    where vLLM's own spans go."""
    # The first name is the one that answers carry.
    names = (args.tier.value, args.model)
    if args.engine.fake is not None:
        hardware = simulated_gpu(args.engine.fake, placed_on)
        engine = await FakeEngine.start(
            args.engine, args.engine.fake, hardware, served_names=names, phase=phase
        )
        return engine, hardware
    hardware = _computing(placed_on)
    with phase("model"):
        model = str(resolve_model(args.model))
        quantization = quantization_argument(args.engine, model, hardware, _driver_gpu(hardware))
    speculation = chosen_speculation(args.engine.speculation)
    if speculation is not None:
        choose_runner()
    spec = EngineSpec(
        model=model,
        served_names=names,
        quantization=quantization,
        traces_url=traces_url,
        speculation=None if speculation is None else speculation.method,
        speculation_measured=speculation is not None and speculation.measured,
        **_by_family(args.engine, model),
        **args.engine.model_dump(
            exclude={*NOT_ARGUMENTS, *BY_FAMILY, *BY_INSTALLATION, "quantization"}
        ),
    )
    arguments = engine_args(spec, hardware)
    log.info("engine arguments", extra={"phase": "start", "arguments": " ".join(arguments)})
    keep_compiled_in(args.engine.compile_cache_dir)
    if traces_url is not None:
        # vLLM's defaults are gRPC and `unknown_service`.
        os.environ[TRACES_PROTOCOL_VARIABLE] = HTTP_PROTOCOL
        os.environ.setdefault("OTEL_SERVICE_NAME", "vllm")
    with preempting(), _placed(args.engine, hardware):
        engine = await VllmEngine.start(arguments, phase, args.structure)
    if speculation is not None:
        check_patches(engine.patches)
    return engine, hardware


def _driver_gpu(hardware: Hardware) -> DriverGpu | None:
    if hardware.accelerator_type is None:
        return None
    # Ray numbers the GPUs as the driver does, and shows a replica its own.
    gpu_ids = ReplicaPlacement.of_this_process().gpu_ids
    return gpu_with_id(gpu_ids[0]) if gpu_ids else None


def _by_family(config: EngineConfig, model: str) -> dict[str, Any]:
    template, reason, r1 = served_template(model)
    log.info("chat template", extra={"phase": "start", "reason": reason})
    parser = config.reasoning_parser or (VLLMS_R1_PARSER if r1 else None)
    return {
        "chat_template": config.chat_template or template,
        "reasoning_parser": R1_PARSER if parser == VLLMS_R1_PARSER else parser,
    }


def _computing(placed_on: Hardware) -> Hardware:
    """A GPU may be a logical one of Ray's: what computes then is the CPU."""
    if placed_on.accelerator_type is None:
        return this_cpu()
    if not computes_on_cpu():
        return placed_on
    log.warning(
        "this vLLM computes on the CPU, not on the GPU that Ray gave the replica",
        extra={"phase": "start", "accelerator_type": placed_on.accelerator_type},
    )
    return this_cpu()


def _placed(config: EngineConfig, hardware: Hardware) -> AbstractContextManager[None]:
    """Without a GPU, the engine gets the cores of its tier."""
    if hardware.accelerator_type is not None:
        return nullcontext()
    cores = cores_of_slice(config.cpu_slice, sorted(os.sched_getaffinity(0)))
    return on_cores(cores, config.cpu_kv_cache_gib)
