"""Runs loads for real, replays the very same requests in the simulation, and compares the two."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from rich.console import Console

from loadtest.calibration.calibrate import Calibrated, CalibrationSettings, fit, measure, profile_of
from loadtest.calibration.waves import ANSWERS, PROMPTS, Answered, Wave, ask_rounds
from loadtest.client.chat import open_session
from loadtest.client.record import Record
from loadtest.client.server_info import only_replica, tiers_of
from loadtest.errors import UserError
from loadtest.load.summary import span_s
from loadtest.load.targets import find_target
from loadtest.report.statistics import Z_95, quantile
from loadtest.scenario import Load, Lognormal, Poisson, Scenario
from loadtest.simulation.outcome import Percentiles
from loadtest.simulation.profile import GpuProfile
from loadtest.simulation.run import simulate
from loadtest.simulation.setup import Setup
from loadtest.simulation.static_set import AllServing
from loadtest.simulation.trace import Request, Trace
from serve_app.core.tiers import DEFAULT_MAX_NEW_TOKENS, Tier

# How far the simulation may be off, as fractions of what was measured.
THROUGHPUT, TTFT = "output_tokens_per_s", "ttft_p50_s"
BARS: Mapping[str, float] = {THROUGHPUT: 0.10, TTFT: 0.20}
# Of the load that the simulation says is the most.
SHARES = (0.30, 0.60, 0.85)
# To see what the server makes of a prompt.
ASKED = 4 * (Wave(1, PROMPTS.median, 16),)


@dataclass(frozen=True, slots=True)
class Limits:
    """Of the tier's gate, as the server reports them."""

    slots: int
    max_queued_requests: int
    max_wait_s: float


Figures = Mapping[str, float]


def limits_of(base_url: str, tier: Tier, api_key: str | None) -> Limits:
    """Raises UserError where the server has no such tier, or not one replica of it."""
    tiers = asyncio.run(_tiers(base_url, api_key))
    if tiers is None or tier not in tiers:
        raise UserError(f"{base_url} reports no {tier} tier: it is to be tierserve.")
    replica = only_replica(tiers, tier)
    return Limits(
        slots=replica["slots"],
        max_queued_requests=replica["max_queued_requests"],
        max_wait_s=tiers[tier]["settings"]["admission"]["max_wait_s"],
    )


async def _tiers(base_url: str, api_key: str | None) -> Mapping[str, Mapping[str, Any]] | None:
    async with open_session(5.0, api_key) as session:
        return await tiers_of(session, base_url)


def template_tokens(base_url: str, tier: Tier, api_key: str | None) -> float:
    """What the server's chat template adds to a prompt, by asking: the load that a GPU sustains
    is of the tokens that the server counts. It also wakes a server that has slept."""
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


def most_rps(profile: GpuProfile, limits: Limits, *, prompt: float, answer: float) -> float:
    """Requests a second that a GPU with all its slots busy ends, of these mean lengths.

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
    """Of a run on the server. Raises UserError where a request failed: it would be in no figure of
    the simulation."""
    failed = [record for record in records if not record.served and not record.refusals]
    if failed:
        raise UserError(f"{len(failed)} requests failed: {failed[0].reason} {failed[0].detail}")
    served = [record for record in records if record.served]
    if not served:
        raise UserError("No request was served.")
    return {
        THROUGHPUT: sum(r.output_tokens or 0 for r in served) / span_s(records),
        **_percentiles("ttft", [r.ttft_s for r in served]),
        **_percentiles("tpot", [r.tpot_s for r in served]),
        **_percentiles("e2e", [r.e2e_s for r in served]),
        "refused": float(len(records) - len(served)),
    }


def simulated(
    records: Sequence[Record], profile: GpuProfile, limits: Limits, tier: Tier
) -> Figures:
    """The same requests, as they were sent, on one simulated replica of the GPU."""
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


def off_by(real: Figures, predicted: Figures) -> dict[str, float]:
    """How far the simulation is above what was measured, as a fraction of it."""
    return {name: predicted[name] / real[name] - 1 for name in real if real[name]}


def kept(off: Mapping[str, float]) -> dict[str, bool]:
    return {name: abs(off[name]) <= bar for name, bar in BARS.items()}


def compare(
    share: float,
    rate: float,
    records: Sequence[Record],
    profile: GpuProfile,
    limits: Limits,
    tier: Tier,
) -> dict[str, Any]:
    """A load in the results file."""
    real, predicted = measured(records), simulated(records, profile, limits, tier)
    off = off_by(real, predicted)
    return {
        "share_of_most": share,
        "rate_rps": round(rate, 4),
        "requests": len(records),
        "measured": {name: round(value, 5) for name, value in real.items()},
        "simulated": {name: round(value, 5) for name, value in predicted.items()},
        "off_by": {name: round(value, 4) for name, value in off.items()},
        "kept": kept(off),
    }


def _percentiles(name: str, values: Sequence[float | None]) -> dict[str, float]:
    return {f"{name}_p{p}_s": quantile(values, p) or 0.0 for p in (50, 95)}


def _of(name: str, found: Percentiles) -> dict[str, float]:
    return {f"{name}_p50_s": found.p50 or 0.0, f"{name}_p95_s": found.p95 or 0.0}


# A piece is of few rounds, and none is left out.
NO_LIMIT_S = float("inf")


class Recalibration:
    """Steps and first tokens are measured in as many pieces as are asked for, and fitted as one."""

    def __init__(self, settings: CalibrationSettings, console: Console) -> None:
        self._settings = settings
        self._console = console
        self._answered: list[Answered] = []
        self._last: Calibrated | None = None

    def measure_piece(self) -> bool:
        """False where Ctrl-C came."""
        self._console.print(f"calibrating, {self._settings.rounds} rounds", highlight=False)
        self._last = measure(self._settings, self._console)
        self._answered.extend(self._last.answered)
        return not self._last.interrupted

    def profile(self, argv: Sequence[str]) -> GpuProfile:
        """Of all pieces together. Raises UserError where they are too little."""
        if self._last is None:
            raise UserError("Nothing was calibrated.")
        whole = replace(self._last, answered=self._answered)
        return profile_of(self._settings, whole, fit(self._answered), argv)


def settings_between(
    given: GpuProfile, *, base_url: str, tier: str, rounds: int, api_key: str | None
) -> CalibrationSettings:
    """What a piece asks: the settings of `given`, and all else of the server."""
    return CalibrationSettings(
        base_url=base_url,
        tier=tier,
        name=given.name,
        rounds=rounds,
        limit_s=NO_LIMIT_S,
        slots=None,
        step_tokens=int(given.step_tokens.value),
        kv_tokens=None,
        start_s=None,
        price_usd_per_hour=None,
        api_key=api_key,
    )
