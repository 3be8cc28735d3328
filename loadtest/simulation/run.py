"""One simulated run: a trace, a fleet and a law; what was started in time and what it cost."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from loadtest.simulation.fleet import CardSpeed, Fleet, TierPlan, TierState
from loadtest.simulation.trace import Request, Trace
from serve_app.core.capacity import derive_limits
from serve_app.core.default_model import DEFAULT_MODEL_CONFIG
from serve_app.core.hardware import RTX_4090, T4, Hardware, model_shape
from serve_app.core.step_time import derived_step_model
from serve_app.core.tiers import DEFAULT_MAX_NEW_TOKENS, Tier
from serve_app.core.work import LearntLengths
from serve_app.load_config import AdmissionConfig

CARDS: Mapping[str, Hardware] = {"T4": T4, "RTX4090": RTX_4090}
# deploy/mixed.yaml.
PREFERENCE: Mapping[Tier, tuple[str, ...]] = {
    Tier.CHAT: ("T4", "RTX4090"),
    Tier.REASONING: ("RTX4090", "T4"),
}
SHAPE = model_shape(DEFAULT_MODEL_CONFIG)
# At utilisation 0.90: (0.90 x visible GiB - 3.34 - 1.3) x 2^30 / 28,672 bytes a token.
KV_TOKENS: Mapping[str, int] = {"T4": 320_000, "RTX4090": 610_000}
TICK_S = 0.5


class Policy(Protocol):
    def targets(self, tiers: Mapping[Tier, TierState], now_s: float) -> Mapping[Tier, int]:
        """Each tier's target at this tick."""
        ...


@dataclass(frozen=True, slots=True)
class Setup:
    """The cluster that is simulated, and how quickly it follows."""

    gpus: Mapping[str, int]
    max_wait_s: float
    cold_start_s: float
    min_drain_s: float
    lend_share: float
    downscale_delay_s: float = 60.0
    wait_share: float = 0.8
    minimum: int = 1

    @property
    def gpu_count(self) -> int:
        return sum(self.gpus.values())


@dataclass(frozen=True, slots=True)
class Outcome:
    requests: int
    started_in_time: int
    refused: int
    lent: int
    gpu_hours: float
    scale_actions: int
    by_tier: Mapping[Tier, float]
    changes: tuple[tuple[float, Tier, int], ...]

    @property
    def attainment(self) -> float:
        """Share of the requests that began within their tier's longest wait."""
        return self.started_in_time / self.requests


def simulate(trace: Trace, setup: Setup, policy: Policy) -> Outcome:
    """Run the whole trace. Cards are counted while they are held, until the last arrival."""
    fleet = _fleet(trace.tiers, setup)
    for tier, state in fleet.tiers.items():
        state.target = setup.minimum
        fleet.reconcile(tier, 0.0, cold_start_s=0.0)
    requests = trace.fresh()
    changes: list[tuple[float, Tier, int]] = []
    coming = iter(requests)
    upcoming = next(coming, None)
    now_s = 0.0
    while upcoming is not None:
        for tier, target in policy.targets(fleet.tiers, now_s).items():
            if target != fleet.tiers[tier].target:
                changes.append((now_s, tier, target))
                fleet.tiers[tier].target = target
            fleet.reconcile(tier, now_s)
            fleet.dispatch(tier, now_s)
        fleet.hold(min(TICK_S, trace.duration_s - now_s))
        now_s += TICK_S
        while upcoming is not None and upcoming.arrival_s < now_s:
            fleet.advance(upcoming.arrival_s)
            fleet.arrive(upcoming, upcoming.arrival_s)
            upcoming = next(coming, None)
        fleet.advance(now_s)
    _run_out(fleet, now_s, setup.max_wait_s)
    return _outcome(requests, fleet, setup.max_wait_s, changes)


def _fleet(tiers: tuple[Tier, ...], setup: Setup) -> Fleet:
    states = {tier: TierState(tier_plan(tier, setup)) for tier in tiers}
    return Fleet(
        tiers=states,
        free_cards=Counter(setup.gpus),
        cold_start_s=setup.cold_start_s,
        min_drain_s=setup.min_drain_s,
        lend_share=setup.lend_share,
    )


def tier_plan(tier: Tier, setup: Setup) -> TierPlan:
    admission = AdmissionConfig()
    limit = DEFAULT_MAX_NEW_TOKENS[tier]
    lengths = LearntLengths(
        admission.expected_prompt_tokens, min(admission.expected_new_tokens, limit)
    )
    cards = {}
    for name in setup.gpus:
        limits = derive_limits(
            CARDS[name],
            SHAPE,
            kv_tokens=KV_TOKENS[name],
            prompt_tokens=admission.expected_prompt_tokens,
            max_new_tokens=limit,
            expected_new_tokens=admission.expected_new_tokens,
            min_stream_tokens_per_s=admission.min_stream_tokens_per_s,
            max_wait_s=setup.max_wait_s,
        )
        cards[name] = CardSpeed(derived_step_model(CARDS[name], SHAPE), limits.slots)
    preference = [name for name in PREFERENCE[tier] if name in setup.gpus]
    preference += [name for name in setup.gpus if name not in preference]
    return TierPlan(preference, setup.max_wait_s, cards, lengths)


def _run_out(fleet: Fleet, now_s: float, max_wait_s: float) -> None:
    """Until all that was accepted has started or has waited too long."""
    end_s = now_s + max_wait_s + TICK_S
    while now_s < end_s:
        now_s += TICK_S
        fleet.advance(now_s)
        for tier in fleet.tiers:
            fleet.dispatch(tier, now_s)


def _outcome(
    requests: list[Request],
    fleet: Fleet,
    max_wait_s: float,
    changes: list[tuple[float, Tier, int]],
) -> Outcome:
    def in_time(request: Request) -> bool:
        return request.started_s is not None and request.started_s - request.arrival_s <= max_wait_s

    by_tier = {}
    for tier in fleet.tiers:
        own = [request for request in requests if request.tier is tier]
        by_tier[tier] = sum(map(in_time, own)) / len(own)
    return Outcome(
        requests=len(requests),
        started_in_time=sum(map(in_time, requests)),
        refused=sum(state.refused for state in fleet.tiers.values()),
        lent=sum(state.lent_out for state in fleet.tiers.values()),
        gpu_hours=fleet.held_s / 3600,
        scale_actions=len(changes),
        by_tier=by_tier,
        changes=tuple(changes),
    )
