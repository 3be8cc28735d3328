"""A GPU with round figures, and traffic; a test names only what it is about."""

import random
from collections.abc import Mapping

from loadtest.simulation.profile import GpuProfile, ProfileFigure, StepTimeCurve
from loadtest.simulation.setup import Setup
from loadtest.simulation.trace import Request, Trace
from serve_app.core.tiers import Tier


def figure(value: float) -> ProfileFigure:
    return ProfileFigure(value=value, status="derived", source="made up for a test")


def curve(step_ms: Mapping[int, float]) -> StepTimeCurve:
    return StepTimeCurve(step_ms=step_ms, status="derived", source="made up for a test")


def a_gpu(
    name: str = "T4",
    *,
    base_ms: float = 10.0,
    per_sequence_ms: float = 1.0,
    per_prompt_token_ms: float = 0.1,
    per_context_ktoken_ms: float = 0.0,
    step_tokens: int = 2048,
    kv_tokens: int = 100_000,
    overhead_ms: float = 0.0,
    start_s: float = 45.0,
    price_usd_per_hour: float | None = None,
    by_sequences: Mapping[int, float] | None = None,
    per_prompt_mpair_ms: float | None = None,
    per_prompt_ms: float | None = None,
) -> GpuProfile:
    return GpuProfile(
        name=name,
        accelerator_type=name,
        model="a model",
        base_ms=figure(base_ms),
        per_sequence_ms=figure(per_sequence_ms),
        per_prompt_token_ms=figure(per_prompt_token_ms),
        per_context_ktoken_ms=figure(per_context_ktoken_ms),
        by_sequences=None if by_sequences is None else curve(by_sequences),
        per_prompt_mpair_ms=None if per_prompt_mpair_ms is None else figure(per_prompt_mpair_ms),
        per_prompt_ms=None if per_prompt_ms is None else figure(per_prompt_ms),
        step_tokens=figure(step_tokens),
        kv_tokens=figure(kv_tokens),
        max_sequences=figure(256),
        overhead_ms=figure(overhead_ms),
        start_s={"total": figure(start_s)},
        price_usd_per_hour=None if price_usd_per_hour is None else figure(price_usd_per_hour),
    )


def a_setup(*profiles: GpuProfile, gpus: dict[str, int] | None = None, **settings: object) -> Setup:
    """One of each GPU, and nothing lent, if nothing else is said."""
    known = {profile.name: profile for profile in profiles or (a_gpu(),)}
    counts = gpus or dict.fromkeys(known, 1)
    return Setup(**{"gpus": counts, "profiles": known, "lend_share": 0.0, **settings})  # pyright: ignore[reportArgumentType]


def a_request(
    arrival_s: float = 0.0,
    *,
    tier: Tier = Tier.CHAT,
    prompt_tokens: int = 100,
    new_tokens: int = 5,
    limit: int = 1024,
) -> Request:
    return Request(tier, arrival_s, prompt_tokens, new_tokens, limit)


def traffic(
    *parts: tuple[Tier, float, float, float], prompt_tokens: int = 1000, new_tokens: int = 200
) -> Trace:
    """Chance arrivals: (tier, from, until, a second) each."""
    rng, requests = random.Random(11), []
    for tier, from_s, until_s, rate_rps in parts:
        now_s = from_s
        while (now_s := now_s + rng.expovariate(rate_rps)) < until_s:
            requests.append(Request(tier, now_s, prompt_tokens, new_tokens, 1024))
    return Trace(tuple(sorted(requests, key=lambda r: r.arrival_s)))
