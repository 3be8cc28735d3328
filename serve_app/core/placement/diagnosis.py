"""What a cluster can run of what is asked for, and why a replica finds no place.

Ray places a replica on a node whose labels match one of its selectors, in their order, and that has
the GPUs, CPUs and memory free. The same search here tells which of them is missing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from serve_app.core.placement.labels import matches
from serve_app.core.placement.nodes import NodeView, TierWish, short_of, with_replica
from serve_app.core.placement.pending_reasons import why_unplaced


class Severity(StrEnum):
    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Place:
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
    places: list[Place]
    findings: list[Finding]


def diagnose(nodes: Sequence[NodeView], wishes: Sequence[TierWish]) -> Diagnosis:
    """Place what is not placed yet, tier by tier, and explain what has no place."""
    places: list[Place] = []
    findings: list[Finding] = []
    left = list(nodes)
    for wish in wishes:
        for number in range(wish.placed, wish.target):
            found = _find_place(left, wish)
            if found is None:
                severity = Severity.ERROR if number < wish.minimum else Severity.WARNING
                findings.append(_unplaced(left, wish, wish.target - number, severity))
                break
            index, choice = found
            node = left[index]
            places.append(Place(wish.name, node.name, node.accelerator_type, choice))
            left[index] = with_replica(node, wish)
        findings += _refused(wish, [p for p in places if p.tier == wish.name])
    return Diagnosis(places, findings)


def _find_place(nodes: Sequence[NodeView], wish: TierWish) -> tuple[int, int] | None:
    for choice, selector in enumerate(wish.selectors or ({},), start=1):
        for index, node in enumerate(nodes):
            if matches(node.labels, selector) and not short_of(node, wish):
                return index, choice
    return None


def _refused(wish: TierWish, places: Sequence[Place]) -> Iterator[Finding]:
    for accelerator_type in dict.fromkeys(place.accelerator_type for place in places):
        reason = wish.refusals.get(accelerator_type)
        if reason is not None:
            yield Finding(Severity.ERROR, "does-not-fit", wish.name, f"{wish.name}: {reason}")


def _unplaced(nodes: Sequence[NodeView], wish: TierWish, missing: int, level: Severity) -> Finding:
    code, why, remedy = why_unplaced(nodes, wish)
    who = f"{missing} replica{'s' if missing > 1 else ''} of {wish.name}"
    return Finding(level, code, wish.name, f"{who} cannot be placed: {why}.", remedy)
