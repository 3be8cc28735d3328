"""Runs loads for real, replays the very same requests in the simulation, and compares the two."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from loadtest.calibration.bars import BARS, THROUGHPUT
from loadtest.calibration.waves import ANSWERS, PROMPTS, Answered, Wave, ask_rounds
from loadtest.load.arrivals import Z_95
from loadtest.load.ask import open_session
from loadtest.load.faults import LoadFault
from loadtest.load.record import Record
from loadtest.load.scenario import Load, Lognormal, Poisson, Scenario
from loadtest.load.server import find_target, tiers_of
from loadtest.load.summary import span_s
from loadtest.simulation.outcome import Percentiles
from loadtest.simulation.profile import GpuProfile as CardProfile
from loadtest.simulation.run import simulate
from loadtest.simulation.setup import Setup
from loadtest.simulation.static_set import AllServing
from loadtest.simulation.trace import Request, Trace
from serve_app.core.tiers import DEFAULT_MAX_NEW_TOKENS, Tier

# Of the load that the simulation says is the most.
SHARES = (0.30, 0.60, 0.85)
# To see what the server makes of a prompt.
ASKED = 4 * (Wave(1, int(PROMPTS.median), 16),)


@dataclass(frozen=True, slots=True)
class Limits:
    """Of the tier's gate, as the server tells them."""

    slots: int
    max_queued_requests: int
    max_wait_s: float


Figures = Mapping[str, float]


def limits_of(base_url: str, tier: Tier, api_key: str | None) -> Limits:
    """Raises LoadFault where the server has no such tier, or not one replica of it."""
    told = asyncio.run(_told(base_url, api_key))
    if told is None or tier not in told:
        raise LoadFault(f"{base_url} does not tell of a {tier} tier: it is to be tierserve.")
    replicas = told[tier]["replicas"]
    if len(replicas) != 1:
        raise LoadFault(f"The {tier} tier has {len(replicas)} replicas; one is to be compared.")
    return Limits(
        slots=replicas[0]["slots"],
        max_queued_requests=replicas[0]["max_queued_requests"],
        max_wait_s=told[tier]["settings"]["admission"]["max_wait_s"],
    )


async def _told(base_url: str, api_key: str | None) -> Mapping[str, Mapping[str, Any]] | None:
    async with open_session(5.0, api_key) as session:
        return await tiers_of(session, base_url)


def template_tokens(base_url: str, tier: Tier, api_key: str | None) -> float:
    """What the server's chat template adds to a prompt, by asking: the load that a card holds is of
    the tokens that the server counts. It also wakes a server that has slept."""
    return asyncio.run(tokens_added(base_url, tier, api_key))


async def tokens_added(base_url: str, tier: Tier, api_key: str | None) -> float:
    known = scenario(base_url, tier, rate=1.0, duration_s=1.0, seed=0)
    answered: list[Answered] = []
    async with open_session(60.0, api_key) as session:
        target = await find_target(session, known, tier, known.loads[0])
        await ask_rounds(
            session, target, tier, ASKED, rounds=1, limit_s=60.0, on_wave=answered.append
        )
    records = [record for wave in answered for record in wave.records]
    added = [r.input_tokens - r.input_tokens_asked for r in records if r.input_tokens is not None]
    return sum(added) / max(len(added), 1)


def most_rps(profile: CardProfile, limits: Limits, *, prompt: float, answer: float) -> float:
    """Requests a second that a card with all its slots busy ends, of these mean lengths.

    As `StepModel.request_s`, with the reading of their contexts.
    """
    token_ms = profile.token_ms(limits.slots, prompt + answer / 2)
    return 1e3 / (answer * token_ms + profile.prompt_ms(prompt))


def mean_tokens(tokens: Lognormal) -> float:
    """Of `loadtest.load.arrivals.draw`."""
    sigma = np.log(tokens.p95 / tokens.median) / Z_95
    return tokens.median * float(np.exp(sigma**2 / 2))


def scenario(base_url: str, tier: str, rate: float, duration_s: float, seed: int) -> Scenario:
    load = Load(tier=tier, arrivals=Poisson(rate=rate), input_tokens=PROMPTS, output_tokens=ANSWERS)
    return Scenario(
        name=f"validate-{rate:.2f}",
        base_url=base_url,
        duration=duration_s,
        loads=(load,),
        seed=seed,
    )


def measured(records: Sequence[Record]) -> Figures:
    """Of a run on the server. Raises LoadFault where a request failed: it would be in no figure of
    the simulation."""
    failed = [record for record in records if not record.served and not record.refusals]
    if failed:
        raise LoadFault(f"{len(failed)} requests failed: {failed[0].reason} {failed[0].detail}")
    served = [record for record in records if record.served]
    if not served:
        raise LoadFault("No request was served.")
    return {
        THROUGHPUT: sum(r.output_tokens or 0 for r in served) / span_s(records),
        **_percentiles("ttft", [r.ttft_s for r in served]),
        **_percentiles("tpot", [r.tpot_s for r in served]),
        **_percentiles("e2e", [r.e2e_s for r in served]),
        "refused": float(len(records) - len(served)),
    }


def simulated(
    records: Sequence[Record], profile: CardProfile, limits: Limits, tier: Tier
) -> Figures:
    """The same requests, as they were sent, on one simulated replica of the card."""
    setup = Setup(
        gpus={profile.name: 1},
        profiles={profile.name: profile},
        slots=limits.slots,
        max_queued_requests=limits.max_queued_requests,
        max_wait_s=limits.max_wait_s,
        lend_share=0.0,
        weight=1,
    )
    trace = trace_of(records, tier)
    outcome = simulate(trace, setup, AllServing({tier: 1}))
    found = outcome.tiers[tier]
    return {
        THROUGHPUT: found.output_tokens / outcome.ended_s,
        **_of("ttft", found.ttft_s),
        **_of("tpot", found.tpot_s),
        **_of("e2e", found.e2e_s),
        "refused": float(found.refused_total),
    }


def trace_of(records: Sequence[Record], tier: Tier) -> Trace:
    """When each was sent and how long it was, as the server counted it, from the first one on."""
    sent = [(r.first_sent_s, r) for r in records if r.first_sent_s is not None]
    begin_s = min(at_s for at_s, _ in sent)
    limit = DEFAULT_MAX_NEW_TOKENS[tier]
    requests = [
        Request(
            tier,
            at_s - begin_s,
            record.input_tokens or record.input_tokens_asked,
            record.output_tokens or record.output_tokens_asked,
            limit,
        )
        for at_s, record in sent
    ]
    return Trace(tuple(sorted(requests, key=lambda request: request.arrival_s)), 0)


def off_by(real: Figures, foretold: Figures) -> dict[str, float]:
    """How far the simulation is above what was measured, as a share of it."""
    return {name: foretold[name] / real[name] - 1 for name in real if real[name]}


def kept(off: Mapping[str, float]) -> dict[str, bool]:
    return {name: abs(off[name]) <= bar for name, bar in BARS.items()}


def compare(
    share: float,
    rate: float,
    records: Sequence[Record],
    profile: CardProfile,
    limits: Limits,
    tier: Tier,
) -> dict[str, Any]:
    """A load in the results file."""
    real, foretold = measured(records), simulated(records, profile, limits, tier)
    off = off_by(real, foretold)
    return {
        "share_of_most": share,
        "rate_rps": round(rate, 4),
        "requests": len(records),
        "measured": {name: round(value, 5) for name, value in real.items()},
        "simulated": {name: round(value, 5) for name, value in foretold.items()},
        "off_by": {name: round(value, 4) for name, value in off.items()},
        "kept": kept(off),
    }


def _percentiles(name: str, values: Sequence[float | None]) -> dict[str, float]:
    told = [value for value in values if value is not None]
    return {f"{name}_p{p}_s": float(np.percentile(told, p)) for p in (50, 95)}


def _of(name: str, found: Percentiles) -> dict[str, float]:
    return {f"{name}_p50_s": found.p50 or 0.0, f"{name}_p95_s": found.p95 or 0.0}
