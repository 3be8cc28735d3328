"""What a run measures: levels of load, how often, and when a repetition does not count."""

import itertools
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace

OPEN_LOOP = "open-loop"
UNEQUAL = "-unequal"
# What a repetition takes of the bare server at least: a second of a fast machine is too short for a
# percentile, and too near to the thaw of the server's processes.
REPETITION_S = 4.0
# Arrivals of the open loop, over what the bare server answers in its largest closed loop.
OPEN_LOOP_SHARE = 0.5
# Answers of unequal length have this much less or more than `output_tokens`, each length as likely.
LENGTH_SPREAD = 0.5


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """So many streams at once: the end of one begins the next, until `requests` have been sent.

    Streams of one length that begin together end together, and all prompts come at once, again and
    again. With `unequal` lengths, and a first answer of each stream that only takes the streams
    apart, prompts come one by one, as users' do.
    """

    streams: int
    requests: int
    unequal: bool = False

    @property
    def name(self) -> str:
        return f"{self.streams}{UNEQUAL if self.unequal else ''}"

    @property
    def run_in(self) -> int:
        """Requests before the others, whose times do not count."""
        return self.streams if self.unequal else 0

    def lengths_tokens(self, mean_tokens: int, round_number: int) -> list[int]:
        """Of each answer, the run-in's first: the same for every server in the same round."""
        if not self.unequal:
            return [mean_tokens] * self.requests
        rng = random.Random(f"lengths/{round_number}")
        least, most = (max(1, round(mean_tokens * (1 + way * LENGTH_SPREAD))) for way in (-1, 1))
        run_in = [rng.randint(1, most) for _ in range(self.run_in)]
        return run_in + [rng.randint(least, most) for _ in range(self.requests)]


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

    @property
    def run_in(self) -> int:
        return 0

    def lengths_tokens(self, mean_tokens: int, round_number: int) -> list[int]:
        return [mean_tokens] * self.requests


Level = ClosedLoop | OpenLoop


@dataclass(frozen=True, slots=True)
class Plan:
    """`rounds` of a repetition of each system at each level, shared among `starts` of the servers.
    A repetition during which other programs used more than `max_foreign_cores` is made again,
    `max_repeats` times in all."""

    rounds: int
    levels: tuple[Level, ...]
    open_loop_requests: int
    output_tokens: int
    max_foreign_cores: float
    max_repeats: int
    repetition_s: float = REPETITION_S
    starts: int = 1

    @property
    def slots(self) -> int:
        """Streams that a server must take at once."""
        return max(level.streams for level in self.levels)

    @property
    def largest(self) -> Level:
        return max(self.levels, key=lambda level: level.streams)

    def rounds_by_start(self) -> list[range]:
        """The numbers of each start's rounds; no start is without."""
        starts = min(self.starts, self.rounds)
        firsts = [self.rounds * start // starts for start in range(starts + 1)]
        return [range(*ends) for ends in itertools.pairwise(firsts)]

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


def place_of(level_name: str) -> str:
    """Where a figure is from, for a sentence."""
    if level_name == OPEN_LOOP:
        return "in the open loop"
    streams, unequal, _ = level_name.partition(UNEQUAL)
    return f"at {streams} of unequal length" if unequal else f"at {streams}"


def full_plan() -> Plan:
    return Plan(
        # Each of six systems has each place in the order twice.
        rounds=12,
        levels=(
            ClosedLoop(1, 8),
            ClosedLoop(8, 40),
            ClosedLoop(32, 96),
            ClosedLoop(32, 96, unequal=True),
        ),
        open_loop_requests=80,
        output_tokens=64,
        max_foreign_cores=0.15,
        max_repeats=20,
        # What a start happens upon, such as where its memory lies, is not all there is.
        starts=2,
    )


def quick_plan() -> Plan:
    return replace(
        full_plan(),
        rounds=2,
        levels=(
            ClosedLoop(1, 4),
            ClosedLoop(8, 16),
            ClosedLoop(32, 64),
            ClosedLoop(32, 32, unequal=True),
        ),
        open_loop_requests=40,
        max_foreign_cores=math.inf,
        max_repeats=0,
        repetition_s=0.0,
        starts=1,
    )
