"""One alternating run: in each round every system is measured once at every level."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from loadtest.overhead.plan import Level, Plan
from loadtest.overhead.repetition import Turn, idle_cores, repeat
from loadtest.stats import Pair, Repetition
from loadtest.systems import System

Round = Mapping[str, Repetition]


@dataclass(slots=True)
class Measured:
    """Rounds by level, repetitions of a round by system. `disturbed` counts repetitions that were
    thrown away since other programs used the machine; `idle_cores` is by system."""

    rounds: dict[str, list[Round]] = field(default_factory=dict[str, list[Round]])
    disturbed: int = 0
    idle_cores: dict[str, float] = field(default_factory=dict[str, float])

    def repetitions(self, level: str, system: str) -> list[Repetition]:
        return [repetitions[system] for repetitions in self.rounds[level]]

    def pairs(self, level: str, base: str, other: str) -> list[Pair]:
        return [(repetitions[base], repetitions[other]) for repetitions in self.rounds[level]]


def measure(
    systems: Sequence[System],
    plan: Plan,
    numbers: Sequence[int],
    measured: Measured,
    on_repetition: Callable[[Level, System, Repetition], None],
) -> None:
    """Measure the rounds of these numbers; `measured` is filled on the way, so that an
    interrupted run leaves its whole rounds."""
    for system in systems:
        measured.idle_cores[system.name] = idle_cores(system, systems)
    for number in numbers:
        for level in plan.levels:
            done: dict[str, Repetition] = {}
            for system in in_order(systems, number):
                done[system.name] = _undisturbed(system, systems, plan, level, number, measured)
                on_repetition(level, system, done[system.name])
            measured.rounds.setdefault(level.name, []).append(done)


def in_order(systems: Sequence[System], round_number: int) -> list[System]:
    """The order turns by one place each second round and is reversed each second one: in twice as
    many rounds as there are systems each has had each place twice, and steady drift cancels."""
    shift = round_number // 2 % len(systems)
    turned = [*systems[shift:], *systems[:shift]]
    return turned if round_number % 2 == 0 else turned[::-1]


def _undisturbed(
    system: System,
    systems: Sequence[System],
    plan: Plan,
    level: Level,
    round_number: int,
    measured: Measured,
) -> Repetition:
    """A repetition that others left alone; on a machine that is never quiet, one all the same."""
    attempt = 0
    while True:
        repetition = repeat(system, systems, plan, level, Turn(round_number, attempt))
        calm = repetition.foreign_cores <= plan.max_foreign_cores
        if calm or measured.disturbed >= plan.max_repeats:
            return repetition
        measured.disturbed += 1
        attempt += 1
