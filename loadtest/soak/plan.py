"""How a soak's time is divided, and which fault comes when. No clock is read."""

from collections.abc import Sequence
from dataclasses import dataclass

HOUR_S = 3600.0
DEFAULT_HOURS = 1 / 6
# Below it there is no room for a baseline before and after a fault.
LEAST_HOURS = 1 / 30


@dataclass(frozen=True, slots=True)
class Fault:
    """What is done to the server. It is to be over `within_s` after it was done.

    `cuts`: answers that run may end with it; of any other fault none may. `needs_processes`: it
    is done to a process of the server, or through its cluster, so a server elsewhere is spared it.
    """

    name: str
    within_s: float
    cuts: bool
    needs_processes: bool
    meaning: str


# In this order, so that a short run has had one of each kind when it ends. The limits are what
# loadtest/results/faults.json has, with room for a machine that is busy.
FAULTS = (
    Fault("disconnects", 30, False, False, "many clients that leave at once"),
    Fault("engine", 150, True, True, "the engine process of a replica is killed"),
    Fault("burst", 60, False, False, "more requests at once than slots and queue take"),
    Fault("haproxy", 30, True, True, "HAProxy is killed"),
    Fault("settings", 60, False, True, "the live settings change, and change back"),
    Fault("replica", 150, True, True, "a replica's process is killed"),
    Fault("slow-readers", 90, False, False, "clients that read a few hundred bytes a second"),
    Fault("controller", 60, False, True, "Serve's controller is killed"),
)


@dataclass(frozen=True, slots=True)
class Plan:
    """Seconds. A cycle is a baseline, a fault, the time until it is over, and `settle_s`."""

    duration_s: float
    calibration_s: float
    warm_up_s: float
    baseline_s: float
    settle_s: float
    sample_every_s: float


def plan_for(hours: float) -> Plan:
    """Ten minutes have baselines of 25 s; from eight hours on they take 20 minutes."""
    duration_s = hours * HOUR_S
    return Plan(
        duration_s=duration_s,
        calibration_s=_between(10, duration_s / 40, 60),
        warm_up_s=_between(20, duration_s / 20, 600),
        baseline_s=_between(15, duration_s / 24, 1200),
        settle_s=_between(5, duration_s / 120, 120),
        sample_every_s=5.0 if duration_s <= 2 * HOUR_S else 15.0,
    )


@dataclass(frozen=True, slots=True)
class Turn:
    """The `round_number`-th time of a fault; both from 0."""

    fault: Fault
    round_number: int


def next_turn(plan: Plan, faults: Sequence[Fault], done: int, now_s: float) -> Turn | None:
    """What comes after `done` faults; None if a baseline is all that there is still time for.

    A round after the first begins only if all of it fits, so that no fault is the rarer one and
    what comes last is a long baseline.
    """
    if not faults:
        return None
    round_number, place = divmod(done, len(faults))
    left_s = plan.duration_s - now_s
    coming = faults if place == 0 and round_number > 0 else faults[place : place + 1]
    needed_s = sum(fault.within_s + plan.settle_s + plan.baseline_s for fault in coming)
    return Turn(faults[place], round_number) if left_s >= needed_s else None


def _between(low: float, value: float, high: float) -> float:
    return max(low, min(high, value))
