"""What stands in the way: on this machine before any cluster is there (driver, vLLM, memory), and
in a service that runs."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from serve_app.core.placement.diagnosis import Finding, Severity
from serve_app.doctor.cluster_view import ClusterView
from serve_app.doctor.configured_deployments import ConfiguredDeployment
from serve_app.engine.vllm.cpu import computes_on_cpu
from serve_app.engine.vllm.quantizations import known_to_vllm
from serve_app.engine.vllm.speculation import SpeculationError, chosen_speculation
from serve_app.local.launcher import LEAST_MEMORY_BYTES
from serve_app.local.services import LocalService

GIB = 1024**3
_PCI = Path("/sys/bus/pci/devices")
_NVIDIA_VENDOR, _DISPLAY_CLASS = "0x10de", "0x03"


def machine_findings(
    view: ClusterView, deployments: Sequence[ConfiguredDeployment]
) -> list[Finding]:
    """For a machine on which no Ray runs yet."""
    gpus = [gpu for found in view.gpus.values() for gpu in found]
    needs_gpu = any(each.request.gpus for each in deployments)
    return [
        *_driver(bool(gpus)),
        *_vllm(needs_gpu=needs_gpu, has_gpu=bool(gpus)),
        *_memory(),
        *_used(view, deployments),
        *_speculation(deployments),
    ]


def service_findings(
    service: LocalService, tiers: list[dict[str, Any]] | None, *, starting: bool
) -> Iterator[Finding]:
    """What is wrong with a service that runs, as its own HTTP port shows it. One that is `starting`
    does not answer yet, which is no error."""
    if tiers is None and starting:
        yield Finding(
            Severity.WARNING,
            "service-starting",
            None,
            f"Port {service.port} does not answer yet: the service is starting.",
            "wait until its terminal says Ready",
        )
    elif tiers is None:
        yield Finding(
            Severity.ERROR,
            "service-silent",
            None,
            f"Port {service.port} does not answer, though the service's Ray runs.",
            "look at its terminal and its logs",
        )
    for tier in tiers or []:
        if not tier.get("ready") and tier.get("replicas_wanted") != 0:
            message = str(tier.get("message") or "Serve has no message").rstrip(".")
            yield Finding(
                Severity.WARNING,
                "tier-not-ready",
                str(tier["tier"]),
                f"{tier['tier']} has no replica that answers: {message}.",
            )


def _driver(answers: bool) -> Iterator[Finding]:
    if not answers and _has_nvidia_gpu():
        yield Finding(
            Severity.WARNING,
            "driver",
            None,
            "This machine has an NVIDIA GPU, but `nvidia-smi` does not answer.",
            "install NVIDIA's driver, or in a container pass the GPU through (--gpus all)",
        )


def _has_nvidia_gpu() -> bool:
    for device in _PCI.glob("*/vendor"):
        kind = device.with_name("class").read_text()
        if device.read_text().strip() == _NVIDIA_VENDOR and kind.startswith(_DISPLAY_CLASS):
            return True
    return False


def _vllm(*, needs_gpu: bool, has_gpu: bool) -> Iterator[Finding]:
    remedy = "run `make clean setup`: it installs the vLLM that fits this machine"
    if known_to_vllm() is None:
        yield Finding(Severity.ERROR, "no-vllm", None, "vLLM is not installed here.", remedy)
    elif needs_gpu and has_gpu and computes_on_cpu():
        sentence = "The profile needs a GPU, and the vLLM that is installed here computes on CPUs."
        yield Finding(Severity.ERROR, "vllm-for-cpu", None, sentence, remedy)


def _memory() -> Iterator[Finding]:
    available = psutil.virtual_memory().available
    if available < LEAST_MEMORY_BYTES:
        yield Finding(
            Severity.ERROR,
            "memory-short",
            None,
            f"Only {available / GIB:.1f} GiB of memory are free, and two replicas of vLLM need "
            f"{LEAST_MEMORY_BYTES / GIB:.0f}.",
            "end something else first",
        )


def _used(view: ClusterView, deployments: Sequence[ConfiguredDeployment]) -> Iterator[Finding]:
    """vLLM refuses to start where less is free than the fraction that it may take."""
    fractions = [
        e.tier.engine.gpu_memory_utilization for e in deployments if e.tier and e.request.gpus
    ]
    for gpu in (gpu for found in view.gpus.values() for gpu in found):
        if not fractions or gpu.memory_bytes is None or gpu.free_bytes is None:
            continue
        if gpu.free_bytes < max(fractions) * gpu.memory_bytes:
            yield Finding(
                Severity.ERROR,
                "gpu-memory-held",
                None,
                f"GPU {gpu.index} ({gpu.name}) has {gpu.free_bytes / GIB:.1f} of "
                f"{gpu.memory_bytes / GIB:.1f} GiB free, and an engine needs "
                f"{max(fractions):g} of it.",
                "end what uses it (`nvidia-smi` lists it), or lower engine.gpu_memory_utilization",
            )


def _speculation(deployments: Sequence[ConfiguredDeployment]) -> Iterator[Finding]:
    """What each tier drafts by on this machine, where it is set to."""
    for each in deployments:
        setting = "off" if each.tier is None else each.tier.engine.speculation
        if setting == "off":
            continue
        try:
            speculation = chosen_speculation(setting)
        except SpeculationError as error:
            yield Finding(
                Severity.ERROR,
                "speculation-impossible",
                each.request.name,
                str(error),
                "install it where replicas run, or change engine.speculation",
            )
            continue
        assert speculation is not None
        yield Finding(
            Severity.INFO,
            "speculation-on",
            each.request.name,
            f"engine.speculation is {setting}: tokens are drafted by {speculation.method}.",
        )
