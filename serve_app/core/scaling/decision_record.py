"""What the autoscaling policy decided lately, as a tier's status and metrics show it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

DECISIONS_KEPT = 20


@dataclass(frozen=True, slots=True)
class Logged:
    """One change of mind, in seconds since the epoch."""

    at_s: float
    replicas_target: int
    replicas_wanted: int
    reason: str


@dataclass(frozen=True, slots=True)
class ScalingRecord:
    """The newest decision with its inputs, the last changes, and how often reports were missing."""

    at_s: float
    replicas_target: int
    replicas_wanted: int
    reason: str
    inputs: Mapping[str, float]
    decisions_total: int = 0
    held_total: int = 0
    holding: bool = False
    last: tuple[Logged, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, the newest decision first."""
        return {**asdict(self), "last": [asdict(entry) for entry in reversed(self.last)]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ScalingRecord":
        last = tuple(Logged(**entry) for entry in reversed(values["last"]))
        fields: dict[str, Any] = {**values, "last": last}
        return cls(**fields)


def record_decision(
    previous: ScalingRecord | None, newest: ScalingRecord, *, held: bool
) -> ScalingRecord:
    """The record with one more decision. Only a change of the desired count is kept as one; Serve
    asks several times a second. A hold counts once, however long it lasts."""
    if previous is None:
        kept, total, held_total, holding, wanted = (), 0, 0, False, newest.replicas_target
    else:
        kept, total = previous.last, previous.decisions_total
        held_total, holding = previous.held_total, previous.holding
        wanted = previous.replicas_wanted
    if newest.replicas_wanted != wanted:
        logged = Logged(newest.at_s, newest.replicas_target, newest.replicas_wanted, newest.reason)
        kept, total = (*kept, logged)[-DECISIONS_KEPT:], total + 1
    return replace(
        newest,
        decisions_total=total,
        held_total=held_total + (held and not holding),
        holding=held,
        last=kept,
    )
