"""Traffic whose load can be set: independent arrivals with given lengths, or a recorded trace."""

import math
import random
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from loadtest.errors import UserError
from loadtest.scenario import Uniform
from loadtest.simulation.trace import CONTEXT_TOKENS, Request, Trace
from serve_app.core.tiers import DEFAULT_MAX_NEW_TOKENS, Tier

# Answers of thousands of tokens take minutes: less than this shows no steady state.
SHORTEST_S = 600.0
# Heavier traffic is copies of so much, each shifted in time: together they are independent again.
MOST_WRITTEN = 60_000
SAMPLE = 4000


@dataclass(frozen=True, slots=True)
class MeanRequest:
    """Means of a tier's requests. `context_tokens` is that of the tokens of answers: how long the
    context is when one of them is made."""

    prompt_tokens: float
    new_tokens: float
    context_tokens: float


class ScalableTraffic(Protocol):
    @property
    def shares(self) -> Mapping[Tier, float]:
        """Each tier's part of the requests."""
        ...

    def at(self, load_rps: float, seed: int) -> Trace:
        """The traffic at this mean rate of all its tiers together."""
        ...

    def mean_request(self, tier: Tier) -> MeanRequest: ...

    def only(self, tier: Tier) -> "ScalableTraffic":
        """This tier's part of it alone."""
        ...

    def description(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Independent:
    """Poisson arrivals, lengths all as likely between two bounds, `requests` of each tier at least.

    The same seed gives the same requests at every load, closer together.
    """

    shares: Mapping[Tier, float]
    prompt_tokens: Mapping[Tier, Uniform]
    new_tokens: Mapping[Tier, Uniform]
    requests: int

    def __post_init__(self) -> None:
        for tier in self.shares:
            limit = DEFAULT_MAX_NEW_TOKENS[tier]
            for option, lengths, most in (
                ("--input-tokens", self.prompt_tokens, CONTEXT_TOKENS - limit),
                ("--output-tokens", self.new_tokens, limit),
            ):
                if tier not in lengths:
                    raise UserError(f"{option} says nothing of {tier}: add {tier}=100-400")
                if lengths[tier].high > most:
                    text = f"{option}: {lengths[tier].high} is above the {most} tokens of {tier}"
                    raise UserError(text)

    def at(self, load_rps: float, seed: int) -> Trace:
        copies = math.ceil(load_rps * SHORTEST_S / MOST_WRITTEN)
        rate_rps = load_rps / copies
        length_s = max(SHORTEST_S, self.requests / (rate_rps * min(self.shares.values())))
        requests = [
            request
            for tier, part in self.shares.items()
            for request in self._arrivals(tier, rate_rps * part, length_s, seed)
        ]
        requests.sort(key=lambda request: request.arrival_s)
        return Trace(tuple(requests), times=copies)

    def mean_request(self, tier: Tier) -> MeanRequest:
        return _mean_request(self._arrivals(tier, 1.0, SAMPLE, seed=0))

    def only(self, tier: Tier) -> "Independent":
        return replace(self, shares={tier: 1.0})

    def description(self) -> str:
        parts = [
            f"{part:.0%} {tier} (prompts of {_range(self.prompt_tokens[tier])} tokens, answers of "
            f"{_range(self.new_tokens[tier])})"
            for tier, part in self.shares.items()
        ]
        return f"independent arrivals, {', '.join(parts)}"

    def _arrivals(
        self, tier: Tier, rate_rps: float, length_s: float, seed: int
    ) -> Iterable[Request]:
        times, sizes = random.Random(f"{seed}/{tier}/times"), random.Random(f"{seed}/{tier}/sizes")
        prompt, answer = self.prompt_tokens[tier], self.new_tokens[tier]
        now_s = 0.0
        while (now_s := now_s + times.expovariate(1.0) / rate_rps) < length_s:
            yield Request(
                tier,
                now_s,
                sizes.randint(prompt.low, prompt.high),
                sizes.randint(answer.low, answer.high),
                DEFAULT_MAX_NEW_TOKENS[tier],
            )


@dataclass(frozen=True, slots=True)
class ReplayedTraffic:
    """A recorded trace at another load: copies of it, each shifted in time, or a part of it
    (`loadtest/simulation/arrivals.py`)."""

    name: str
    trace: Trace

    def __post_init__(self) -> None:
        if not self.trace.recorded_s:
            raise UserError(f"{self.name}: all requests come at once, which is no load a second")

    @property
    def load_rps(self) -> float:
        """As recorded."""
        return len(self.trace.requests) / self.trace.recorded_s

    @property
    def shares(self) -> Mapping[Tier, float]:
        counts = Counter(request.tier for request in self.trace.requests)
        whole = len(self.trace.requests)
        return {tier: counts[tier] / whole for tier in self.trace.tiers}

    def at(self, load_rps: float, seed: int) -> Trace:
        # Which copies and which requests: the simulation's seed says it.
        return replace(self.trace, times=load_rps / self.load_rps)

    def mean_request(self, tier: Tier) -> MeanRequest:
        return _mean_request(request for request in self.trace.requests if request.tier is tier)

    def only(self, tier: Tier) -> "ReplayedTraffic":
        own = tuple(request for request in self.trace.requests if request.tier is tier)
        return replace(self, trace=replace(self.trace, requests=own))

    def description(self) -> str:
        parts = ", ".join(f"{part:.0%} {tier}" for tier, part in self.shares.items())
        return f"{self.name} ({parts}), its load multiplied without squeezing its time"


def _mean_request(requests: Iterable[Request]) -> MeanRequest:
    rows = [(request.prompt_tokens, request.new_tokens) for request in requests]
    answers = sum(answer for _, answer in rows)
    contexts = sum(answer * (prompt + answer / 2) for prompt, answer in rows)
    return MeanRequest(
        prompt_tokens=sum(prompt for prompt, _ in rows) / len(rows),
        new_tokens=answers / len(rows),
        context_tokens=contexts / answers,
    )


def _range(lengths: Uniform) -> str:
    return f"{lengths.low}" if lengths.low == lengths.high else f"{lengths.low} to {lengths.high}"
