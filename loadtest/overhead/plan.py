"""What a run measures: levels of load, how often, and when a repetition does not count."""

import math
from dataclasses import dataclass, replace

OPEN_LOOP = "open-loop"
# Arrivals of the open loop, as a share of what the bare server answers in its largest closed loop.
OPEN_LOOP_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """So many streams at once: the end of one begins the next, until `requests` have been sent."""

    streams: int
    requests: int

    @property
    def name(self) -> str:
        return str(self.streams)


@dataclass(frozen=True, slots=True)
class OpenLoop:
    """Independent arrivals (Poisson), which wait for no answer."""

    rate_rps: float
    requests: int

    @property
    def name(self) -> str:
        return OPEN_LOOP

    @property
    def streams(self) -> int:
        """How many streams the warm-up has at once."""
        return 8


Level = ClosedLoop | OpenLoop


@dataclass(frozen=True, slots=True)
class Plan:
    """`rounds` of a repetition of each system at each level. A repetition during which other
    programs used more than `max_foreign_cores` is made again, `max_repeats` times in all."""

    rounds: int
    levels: tuple[Level, ...]
    open_loop_requests: int
    output_tokens: int
    max_foreign_cores: float
    max_repeats: int

    @property
    def slots(self) -> int:
        """Streams that a server must take at once."""
        return max(level.streams for level in self.levels)

    @property
    def largest(self) -> Level:
        return max(self.levels, key=lambda level: level.streams)

    def with_open_loop(self, rate_rps: float) -> "Plan":
        level = OpenLoop(rate_rps, self.open_loop_requests)
        return replace(self, levels=(*self.levels, level))


def full_plan() -> Plan:
    return Plan(
        # Each of five systems has each place in the order twice.
        rounds=10,
        levels=(ClosedLoop(1, 8), ClosedLoop(8, 40), ClosedLoop(32, 96)),
        open_loop_requests=80,
        output_tokens=64,
        max_foreign_cores=0.15,
        max_repeats=20,
    )


def quick_plan() -> Plan:
    return replace(
        full_plan(),
        rounds=2,
        levels=(ClosedLoop(1, 4), ClosedLoop(8, 16), ClosedLoop(32, 64)),
        open_loop_requests=40,
        max_foreign_cores=math.inf,
        max_repeats=0,
    )
