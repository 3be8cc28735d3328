"""What stands in the way: on this machine before any cluster is there (driver, vLLM, memory), and
in a service that runs."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from serve_app.core.placement.diagnosis import Finding, Severity
from serve_app.doctor.cluster_view import ClusterView
from serve_app.doctor.deployment_requests import DeploymentAsked
from serve_app.engine.vllm.cpu import computes_on_cpu
from serve_app.engine.vllm.quantizations import known_to_vllm
from serve_app.local.launcher import LEAST_MEMORY_BYTES
from serve_app.local.services import LocalService

GIB = 1024**3
_PCI = Path("/sys/bus/pci/devices")
_NVIDIA_VENDOR, _DISPLAY_CLASS = "0x10de", "0x03"


def machine_findings(view: ClusterView, asked: Sequence[DeploymentAsked]) -> list[Finding]:
    """For a machine on which no Ray runs yet."""
    cards = [card for found in view.cards.values() for card in found]
    wants_gpu = any(each.wish.gpus for each in asked)
    return [
        *_driver(bool(cards)),
        *_vllm(wants_gpu=wants_gpu, has_gpu=bool(cards)),
        *_memory(),
        *_held(view, asked),
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
            "wait until `make serve` says Ready",
        )
    elif tiers is None:
        yield Finding(
            Severity.ERROR,
            "service-silent",
            None,
            f"Port {service.port} does not answer, though the service's Ray runs.",
            "look at the terminal of `make serve`, and into its logs",
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
    if not answers and _has_nvidia_card():
        yield Finding(
            Severity.WARNING,
            "driver",
            None,
            "This machine has an NVIDIA card, but `nvidia-smi` does not answer.",
            "install NVIDIA's driver, or in a container pass the card on (--gpus all)",
        )


def _has_nvidia_card() -> bool:
    for device in _PCI.glob("*/vendor"):
        kind = device.with_name("class").read_text()
        if device.read_text().strip() == _NVIDIA_VENDOR and kind.startswith(_DISPLAY_CLASS):
            return True
    return False


def _vllm(*, wants_gpu: bool, has_gpu: bool) -> Iterator[Finding]:
    remedy = "run `make clean setup`: it installs the vLLM that fits this machine"
    if known_to_vllm() is None:
        yield Finding(Severity.ERROR, "no-vllm", None, "vLLM is not installed here.", remedy)
    elif wants_gpu and has_gpu and computes_on_cpu():
        sentence = "The profile wants a GPU, and the vLLM that is installed here computes on CPUs."
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


def _held(view: ClusterView, asked: Sequence[DeploymentAsked]) -> Iterator[Finding]:
    """vLLM refuses to start where less is free than the share that it may take."""
    shares = [e.tier.engine.gpu_memory_utilization for e in asked if e.tier and e.wish.gpus]
    for card in (card for found in view.cards.values() for card in found):
        if not shares or card.memory_bytes is None or card.free_bytes is None:
            continue
        if card.free_bytes < max(shares) * card.memory_bytes:
            yield Finding(
                Severity.ERROR,
                "gpu-memory-held",
                None,
                f"Card {card.index} ({card.name}) has {card.free_bytes / GIB:.1f} of "
                f"{card.memory_bytes / GIB:.1f} GiB free, and an engine wants "
                f"{max(shares):g} of it.",
                "end what holds it (`nvidia-smi` lists it), or lower engine.gpu_memory_utilization",
            )
