"""What a run measures: levels of load, how often, and when a repetition does not count."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

OPEN_LOOP = "open-loop"
# What a repetition takes of the bare server at least: a second of a fast machine is too short for a
# percentile, and too near to the thaw of the server's processes.
REPETITION_S = 4.0
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
    repetition_s: float = REPETITION_S

    @property
    def slots(self) -> int:
        """Streams that a server must take at once."""
        return max(level.streams for level in self.levels)

    @property
    def largest(self) -> Level:
        return max(self.levels, key=lambda level: level.streams)

    def lengthened(self, rate_rps: Mapping[str, float]) -> "Plan":
        """Closed loops, in whole waves, that take the bare server `repetition_s` at least;
        `rate_rps` is what it answers, by level."""
        levels = (
            replace(level, requests=self._requests(level, rate_rps[level.name]))
            for level in self.levels
        )
        return replace(self, levels=tuple(levels))

    def with_open_loop(self, rate_rps: float) -> "Plan":
        requests = max(self.open_loop_requests, math.ceil(rate_rps * self.repetition_s))
        return replace(self, levels=(*self.levels, OpenLoop(rate_rps, requests)))

    def _requests(self, level: Level, rate_rps: float) -> int:
        waves = math.ceil(rate_rps * self.repetition_s / level.streams)
        return max(level.requests, waves * level.streams)


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
        repetition_s=0.0,
    )
