"""When requests come and how long they are: seeded, nothing is sent and no clock is read."""

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from loadtest.errors import UserError
from loadtest.report.statistics import Z_95
from loadtest.scenario import (
    Burst,
    Closed,
    Constant,
    Load,
    Lognormal,
    Poisson,
    Ramp,
    Scenario,
    Tokens,
    TraceFile,
    Uniform,
)
from loadtest.simulation.trace import recorded
from serve_app.core.tiers import Tier


@dataclass(frozen=True, slots=True)
class Due:
    """A request to come, `due_s` after the run's beginning; `load`: its place in the scenario."""

    load: int
    tier: str
    due_s: float
    input_tokens: int
    output_tokens: int


def schedule(scenario: Scenario) -> list[Due]:
    """All arrivals of the scenario but those of its closed loops, in order."""
    dues = [
        due
        for number, load in enumerate(scenario.loads)
        if not isinstance(load.arrivals, Closed)
        for due in itertools.islice(_of_load(scenario, number), load.requests)
    ]
    dues.sort(key=lambda due: due.due_s)
    return dues


def lengths(scenario: Scenario, number: int) -> Iterator[tuple[int, int]]:
    """Endlessly: input and output tokens of a load's requests, apart from when they come."""
    load, rng = scenario.loads[number], _rng(scenario, number, "lengths")
    while True:
        yield draw(load.input_tokens, rng), draw(load.output_tokens, rng)


def draw(tokens: Tokens, rng: random.Random) -> int:
    if isinstance(tokens, Uniform):
        return rng.randint(tokens.low, tokens.high)
    if isinstance(tokens, Lognormal):
        sigma = math.log(tokens.p95 / tokens.median) / Z_95
        return max(1, round(rng.lognormvariate(math.log(tokens.median), sigma)))
    return tokens


def _of_load(scenario: Scenario, number: int) -> Iterator[Due]:
    load, length_s = scenario.loads[number], scenario.length_s(scenario.loads[number])
    if isinstance(load.arrivals, TraceFile):
        yield from _of_trace(load, load.arrivals, number, length_s)
        return
    sizes = lengths(scenario, number)
    for at_s in times(load.arrivals, _rng(scenario, number, "times"), length_s):
        yield Due(number, load.tier, load.start + at_s, *next(sizes))


def times(
    arrivals: Poisson | Constant | Ramp | Burst | Closed,
    rng: random.Random,
    length_s: float | None,
) -> Iterator[float]:
    """Arrival times from 0, below `length_s`; endless where it is None."""
    end_s = math.inf if length_s is None else length_s
    return itertools.takewhile(lambda at_s: at_s < end_s, _times(arrivals, rng, end_s))


def _times(
    arrivals: Poisson | Constant | Ramp | Burst | Closed, rng: random.Random, end_s: float
) -> Iterator[float]:
    match arrivals:
        case Constant(rate=rate):
            return (number / rate for number in itertools.count())
        case Poisson(rate=rate):
            return (work / rate for work in _unit_arrivals(rng))
        case Ramp(rate=rate, to=to):
            return (_ramp_time(work, rate, to, end_s) for work in _unit_arrivals(rng))
        case Burst():
            return (_burst_time(work, arrivals) for work in _unit_arrivals(rng))
        case Closed():
            raise ValueError("a closed loop has no arrivals")


def _unit_arrivals(rng: random.Random) -> Iterator[float]:
    """A Poisson process of rate 1; warped by the inverse of the summed rate it has any rate."""
    return itertools.accumulate(rng.expovariate(1.0) for _ in itertools.repeat(None))


def _ramp_time(arrivals: float, rate: float, to: float, length_s: float) -> float:
    """When so many have come: `rate * t + slope * t**2 / 2 = arrivals` solved for t."""
    slope = (to - rate) / length_s
    root = rate * rate + 2 * slope * arrivals
    # A falling ramp never brings so many; the form that divides keeps its digits near slope 0.
    return math.inf if root < 0 else 2 * arrivals / (rate + math.sqrt(root))


def _burst_time(arrivals: float, burst: Burst) -> float:
    quiet_s = burst.every - burst.length
    calm, wild = burst.rate * quiet_s, burst.burst_rate * burst.length
    rounds, rest = divmod(arrivals, calm + wild)
    within_s = rest / burst.rate if rest < calm else quiet_s + (rest - calm) / burst.burst_rate
    return rounds * burst.every + within_s


def _of_trace(load: Load, trace: TraceFile, number: int, length_s: float | None) -> Iterator[Due]:
    # A file without a column `tier` has the load's requests, whatever its tier is called.
    stand_in = Tier(load.tier) if load.tier in set(Tier) else Tier.CHAT
    try:
        lines = sorted(
            recorded(trace.file, tier=stand_in, rate=trace.speed),
            key=lambda line: line.arrival_s,
        )
    except UserError as error:
        raise UserError(f"loads.{number}.arrivals.file: {error}") from None
    if not lines:
        raise UserError(f"loads.{number}.arrivals.file: {trace.file} has no requests")
    for line in lines:
        if length_s is not None and line.arrival_s >= length_s:
            return
        tier = load.tier if line.tier is stand_in else line.tier.value
        yield Due(
            number,
            tier,
            load.start + line.arrival_s,
            max(1, line.input_tokens),
            max(1, line.output_tokens),
        )


def _rng(scenario: Scenario, number: int, purpose: str) -> random.Random:
    """Of its own for each load and purpose: a change of one leaves the others as they are."""
    return random.Random(f"{scenario.seed}/{number}/{purpose}")
