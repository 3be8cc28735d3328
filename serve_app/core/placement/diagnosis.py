"""What a cluster can run of what is requested, and why a replica cannot be placed.

Ray places a replica on a node whose labels match one of its selectors, in their order, and that has
the GPUs, CPUs and memory free. The same search here finds which of them is missing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from serve_app.core.placement.labels import matches
from serve_app.core.placement.nodes import DeploymentRequest, NodeView, short_of, with_replica
from serve_app.core.placement.pending_reasons import why_unplaced


class Severity(StrEnum):
    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one more replica goes; `choice` counts the tier's selectors from 1."""

    tier: str
    node: str
    accelerator_type: str | None
    choice: int


@dataclass(frozen=True, slots=True)
class Finding:
    """`code` is stable, for scripts; the sentence and the remedy are for people."""

    severity: Severity
    code: str
    tier: str | None
    sentence: str
    remedy: str = ""


class Diagnosis(NamedTuple):
    places: list[Placement]
    findings: list[Finding]


def diagnose(nodes: Sequence[NodeView], requests: Sequence[DeploymentRequest]) -> Diagnosis:
    """Place what is not placed yet, tier by tier, and explain what cannot be placed."""
    places: list[Placement] = []
    findings: list[Finding] = []
    remaining = list(nodes)
    for request in requests:
        for number in range(request.placed, request.target):
            found = _find_place(remaining, request)
            if found is None:
                severity = Severity.ERROR if number < request.minimum else Severity.WARNING
                findings.append(_unplaced(remaining, request, request.target - number, severity))
                break
            index, choice = found
            node = remaining[index]
            places.append(Placement(request.name, node.name, node.accelerator_type, choice))
            remaining[index] = with_replica(node, request)
        findings += _refused(request, [p for p in places if p.tier == request.name])
    return Diagnosis(places, findings)


def _find_place(nodes: Sequence[NodeView], request: DeploymentRequest) -> tuple[int, int] | None:
    for choice, selector in enumerate(request.selectors or ({},), start=1):
        for index, node in enumerate(nodes):
            if matches(node.labels, selector) and not short_of(node, request):
                return index, choice
    return None


def _refused(request: DeploymentRequest, places: Sequence[Placement]) -> Iterator[Finding]:
    for accelerator_type in dict.fromkeys(place.accelerator_type for place in places):
        reason = request.refusals.get(accelerator_type)
        if reason is not None:
            yield Finding(Severity.ERROR, "does-not-fit", request.name, f"{request.name}: {reason}")


def _unplaced(
    nodes: Sequence[NodeView], request: DeploymentRequest, missing: int, level: Severity
) -> Finding:
    code, why, remedy = why_unplaced(nodes, request)
    who = f"{missing} replica{'s' if missing > 1 else ''} of {request.name}"
    return Finding(level, code, request.name, f"{who} cannot be placed: {why}.", remedy)
