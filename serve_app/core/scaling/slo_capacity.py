"""How many requests a second replicas serve within their tier's SLO.

A step decodes a token for each running sequence beside a part of the prompts that wait, so with
arrivals at `rate` of requests with `P` prompt and `N` new tokens a replica settles (Little's law)
where a token takes

    tpot = base / (1 - rate * (P * per_prompt_token + N * per_sequence))

which gives the rate at which the TPOT, or the slots, are used up on the average. Around it load
varies by chance; the two margins below are the textbook's: the normal approximation of a Poisson
count over the time that a request runs, and the exponential tail of the wait in an M/G/n queue
(Kingman's formula with Halfin and Whitt's probability of waiting).
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

from serve_app.core.scaling.step_time import StepModel

LEAST_DEVIATION_RPS = 1e-9
_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Slo:
    """What a tier promises: time to the first token, and between tokens. `goodput` is the fraction
    of requests that are to have both."""

    ttft_s: float
    tpot_s: float
    goodput: float = 0.99


@dataclass(frozen=True, slots=True)
class RequestShape:
    """A tier's mean request. `variation` is the squared coefficient of variation of its work."""

    prompt_tokens: float
    new_tokens: float
    variation: float = 1.0


@dataclass(frozen=True, slots=True)
class Capacity:
    """Of one replica, or of several together, in requests a second: the rates at which the mean
    TPOT is the SLO's, at which slots are freed when all are busy, and at which prompts are worked
    off. `token_s` is a token's time under load."""

    tpot_rps: float
    slots_rps: float
    prefill_rps: float
    token_s: float
    slots: float
    replicas: float = 1.0

    @property
    def sustained_rps(self) -> float:
        """What lasts, if nothing varied."""
        return min(self.tpot_rps, self.slots_rps)

    def times(self, count: float) -> "Capacity":
        return Capacity(
            self.tpot_rps * count,
            self.slots_rps * count,
            self.prefill_rps * count,
            self.token_s,
            self.slots * count,
            self.replicas * count,
        )

    def plus(self, other: "Capacity") -> "Capacity":
        """Of replicas that divide their requests; a token's time stays this one's."""
        return Capacity(
            self.tpot_rps + other.tpot_rps,
            self.slots_rps + other.slots_rps,
            self.prefill_rps + other.prefill_rps,
            self.token_s,
            self.slots + other.slots,
            self.replicas + other.replicas,
        )


def replica_capacity(model: StepModel, *, slots: float, shape: RequestShape, slo: Slo) -> Capacity:
    """A replica's capacity for requests of this shape."""
    prompt_s = shape.prompt_tokens * model.per_prompt_token_ms / 1e3
    sequence_s = shape.new_tokens * model.per_sequence_ms / 1e3
    base_s = model.base_ms / 1e3
    own_s = max(prompt_s + sequence_s, 1e-9)
    # Where not even one sequence keeps the SLO nothing can; half of a step is as good as any then.
    by_tpot = max(1 - base_s / slo.tpot_s, 0.5) / own_s
    by_slots = 1 / (own_s + shape.new_tokens * base_s / max(slots, 1))
    token_s = base_s / max(1 - min(by_tpot, by_slots) * own_s, 1e-3)
    return Capacity(by_tpot, by_slots, 1 / max(prompt_s, 1e-6), token_s, max(slots, 1))


def miss_share(rate_rps: float, capacity: Capacity, *, shape: RequestShape, slo: Slo) -> float:
    """The fraction of the requests that miss the SLO where arrivals stay at this rate.

    (1) TPOT: the fraction of all cases in which chance brings more arrivals than that rate over the
    time that a request runs. (2) TTFT: the fraction whose wait for a slot, or for prefill, is
    longer than the SLO's. The largest of them counts: they come together.
    """
    if rate_rps <= 0:
        return 0.0
    spread = 1 + shape.variation
    # (1)
    request_s = max(shape.new_tokens * capacity.token_s, slo.ttft_s)
    # Of a rate that is next to nothing the quotient is 0.
    deviation_rps = max(math.sqrt(rate_rps * spread / request_s), LEAST_DEVIATION_RPS)
    slow = _NORMAL.cdf((rate_rps - capacity.tpot_rps) / deviation_rps)
    # (2)
    stations = (
        (capacity.slots_rps, capacity.slots),
        (capacity.prefill_rps, capacity.replicas),
    )
    late = (
        _late_share(rate_rps, served_rps, servers=servers, spread=spread, slo=slo)
        for served_rps, servers in stations
    )
    return max(slow, *late)


def _late_share(
    rate_rps: float, served_rps: float, *, servers: float, spread: float, slo: Slo
) -> float:
    """P(wait > t) = P(wait > 0) * exp(-2 * (served - rate) * t / spread), with the first factor as
    Halfin and Whitt (1981) approximate Erlang's: with many servers few wait at all."""
    if rate_rps >= served_rps:
        return 1.0
    beta = (1 - rate_rps / served_rps) * math.sqrt(servers)
    waits = 1 / (1 + beta * _NORMAL.cdf(beta) / max(_NORMAL.pdf(beta), 1e-300))
    return waits * math.exp(-(served_rps - rate_rps) * 2 * slo.ttft_s / spread)
