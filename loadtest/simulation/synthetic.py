"""Made-up traffic on which a scaling policy is judged beside the recorded one, and all cases
together.

Each kind is a rate over time, a spread of lengths and a number of GPUs. Equal seeds give equal
requests. Arrivals are a Poisson process whose rate changes: candidates come at the highest rate,
and each is kept with the part that the rate has of it then (thinning; Lewis and Shedler 1979).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loadtest.simulation.trace import CONTEXT_TOKENS, Request, Trace
from serve_app.core.tiers import DEFAULT_MAX_NEW_TOKENS, Tier

Floats = NDArray[np.float64]
# Requests a second at each of these times.
Rate = Callable[[Floats], Floats]
SEED = 21


@dataclass(frozen=True, slots=True)
class Lengths:
    """Log-normal lengths in tokens: half are above `median`, and `spread` is the standard deviation
    of their logarithm. 0.8 is about what chat has in recorded traces, 0 is all alike."""

    median: float
    spread: float = 0.5

    def draw(self, count: int, most: int, rng: np.random.Generator) -> NDArray[np.int64]:
        drawn = self.median * np.exp(self.spread * rng.standard_normal(count))
        return np.clip(np.rint(drawn), 1, most).astype(np.int64)


@dataclass(frozen=True, slots=True)
class SyntheticLoad:
    """A tier's requests: at most `peak_rps` a second, `rate` of them at a time."""

    tier: Tier
    rate: Rate
    peak_rps: float
    prompt: Lengths
    answer: Lengths


def synthetic(loads: tuple[SyntheticLoad, ...], duration_s: float, seed: int = SEED) -> Trace:
    """All loads together, clipped as the server clips."""
    requests = [
        request
        for number, load in enumerate(loads)
        for request in _requests(load, duration_s, np.random.default_rng((seed, number)))
    ]
    requests.sort(key=lambda request: request.arrival_s)
    return Trace(tuple(requests))


def _requests(load: SyntheticLoad, duration_s: float, rng: np.random.Generator) -> list[Request]:
    candidates = rng.poisson(load.peak_rps * duration_s)
    at_s = np.sort(rng.uniform(0.0, duration_s, candidates))
    kept = at_s[rng.uniform(0.0, load.peak_rps, candidates) < load.rate(at_s)]
    limit = DEFAULT_MAX_NEW_TOKENS[load.tier]
    prompts = load.prompt.draw(len(kept), CONTEXT_TOKENS - limit, rng)
    answers = load.answer.draw(len(kept), limit, rng)
    return [
        Request(load.tier, *row, limit)
        for row in zip(kept.tolist(), prompts.tolist(), answers.tolist(), strict=True)
    ]


def prompt_heavy(seed: int = SEED) -> Trace:
    """Prompts of 2,000 tokens and answers of 15: 8 a second, and 40 in bursts of 10 s, which come
    every minute or two. All the work is prefill; a burst is over long before a replica starts."""
    duration_s, base_rps, burst_rps = 2400.0, 8.0, 40.0
    begins = np.cumsum(np.random.default_rng((seed, 99)).uniform(50.0, 130.0, 60))

    def rate(at_s: Floats) -> Floats:
        since_s = at_s - begins[np.searchsorted(begins, at_s, side="right") - 1]
        return np.where((since_s >= 0) & (since_s < 10.0), burst_rps, base_rps)

    load = SyntheticLoad(Tier.CHAT, rate, burst_rps, Lengths(2000, 0.2), Lengths(15, 0.4))
    return synthetic((load,), duration_s, seed)


def step_8x(seed: int = SEED) -> Trace:
    """4 requests a second, at once 32 for ten minutes, and back; twice."""

    def rate(at_s: Floats) -> Floats:
        return np.where((at_s % 1500.0 >= 600.0) & (at_s % 1500.0 < 1200.0), 32.0, 4.0)

    load = SyntheticLoad(Tier.CHAT, rate, 32.0, Lengths(500, 0.8), Lengths(200, 0.6))
    return synthetic((load,), 3000.0, seed)


def opposite_phase(seed: int = SEED) -> Trace:
    """Chat and reasoning, each along a wave of 20 minutes, one high while the other is low."""

    def wave(peak_rps: float, sign: int) -> Rate:
        return lambda at_s: peak_rps * (0.55 + sign * 0.45 * np.sin(2 * np.pi * at_s / 1200.0))

    chat = SyntheticLoad(Tier.CHAT, wave(18.0, 1), 18.0, Lengths(600, 0.7), Lengths(350, 0.5))
    reasoning = SyntheticLoad(
        Tier.REASONING, wave(9.0, -1), 9.0, Lengths(300, 0.5), Lengths(900, 0.5)
    )
    return synthetic((chat, reasoning), 2400.0, seed)


def fleet_48(seed: int = SEED) -> Trace:
    """A load that is steady but for a noise of some percent, on 48 GPUs of which it needs a third:
    now and then a replica starts, and its first reports come into the policy's figures."""
    duration_s, mean_rps = 1800.0, 32.0
    levels = np.random.default_rng((seed, 99)).normal(1.0, 0.07, int(duration_s / 60) + 2)

    def rate(at_s: Floats) -> Floats:
        return mean_rps * np.interp(at_s / 60.0, np.arange(len(levels)), levels)

    load = SyntheticLoad(
        Tier.REASONING, rate, 1.3 * mean_rps, Lengths(500, 0.7), Lengths(1200, 0.6)
    )
    return synthetic((load,), duration_s, seed)


def day(seed: int = SEED) -> Trace:
    """A day's curve: a low night, a rise in the morning, a noon and an evening peak. Four hours
    stand for the 24, so that it can be simulated within seconds; starts are as long as they are."""
    hours = (0, 3, 6, 9, 12, 14, 17, 20, 22, 24)
    levels = (0.45, 0.3, 0.35, 0.8, 1.0, 0.85, 0.8, 1.0, 0.7, 0.45)
    duration_s, peak_rps = 4 * 3600.0, 8.0

    def rate(at_s: Floats) -> Floats:
        return peak_rps * np.interp(at_s * 24 / duration_s, hours, levels)

    load = SyntheticLoad(Tier.REASONING, rate, peak_rps, Lengths(1000, 0.5), Lengths(1600, 0.4))
    return synthetic((load,), duration_s, seed)


def threshold_10h(seed: int = SEED) -> Trace:
    """Ten hours at the load at which one replica is just too few and two are half idle."""
    load = SyntheticLoad(
        Tier.REASONING,
        lambda at_s: np.full_like(at_s, 1.25),
        1.25,
        Lengths(1000, 0.5),
        Lengths(1800, 0.5),
    )
    return synthetic((load,), 36_000.0, seed)


# With the GPUs that each is played on.
KINDS: Mapping[str, tuple[Callable[[], Trace], Mapping[str, int]]] = {
    "prompt-heavy": (prompt_heavy, {"T4": 20}),
    "step-8x": (step_8x, {"T4": 10}),
    "opposite-phase": (opposite_phase, {"T4": 6}),
    "fleet-48": (fleet_48, {"T4": 48}),
    "day": (day, {"T4": 10}),
    "threshold-10h": (threshold_10h, {"T4": 2}),
}
