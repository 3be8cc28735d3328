"""The cluster that is simulated: its GPUs, a tier's replica on each, how quickly it follows."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from loadtest.scenario import Slo
from loadtest.simulation.profile import GpuProfile, known_profiles
from serve_app.api.gate import GateLimits
from serve_app.config.admission import AdmissionConfig
from serve_app.config.scaling import SloConfig
from serve_app.core.admission.capacity import derive_limits
from serve_app.core.admission.queue_drain import ServiceTime
from serve_app.core.default_model import DEFAULT_MODEL_CONFIG
from serve_app.core.placement.hardware import Hardware, model_shape
from serve_app.core.scaling.workload import LearntLengths
from serve_app.core.tiers import DEFAULT_MAX_NEW_TOKENS, Tier

# deploy/mixed.yaml: label_selector and fallback_strategy of each tier, the cheapest token first
# (serve_app/core/placement/token_cost.py).
PREFERENCE: Mapping[Tier, tuple[str, ...]] = {
    Tier.CHAT: ("RTX4090", "T4"),
    Tier.REASONING: ("RTX4090", "T4"),
}
DEFAULT_SLO = Slo(ttft=SloConfig().ttft_s, tpot=SloConfig().tpot_s)


@dataclass(frozen=True, slots=True)
class Setup:
    """`gpus` are counts by the name of a profile. Times in seconds.

    `cold_start_s` None: each GPU's own, from its profile. `initial`: replicas that serve at the
    beginning, the minimum if a tier is not named. `slots` and `max_queued_requests` None: derived,
    as the server does. `weight`: each simulated replica stands for so many; None: as many as keep
    the simulated requests below `most_requests`. `retries`: refused clients come back when they
    were asked to, so many times. `seen` is called now and then which part of a run is done, from 0.
    """

    gpus: Mapping[str, int]
    max_wait_s: float = AdmissionConfig().max_wait_s
    cold_start_s: float | None = None
    min_drain_s: float = 5.0
    lend_share: float = AdmissionConfig().lend_share
    downscale_delay_s: float = 5.0
    minimum: int = 1
    initial: Mapping[Tier, int] = field(default_factory=dict[Tier, int])
    profiles: Mapping[str, GpuProfile] = field(default_factory=known_profiles)
    slos: Mapping[Tier, Slo] = field(default_factory=dict[Tier, Slo])
    slots: int | None = None
    max_queued_requests: int | None = None
    retries: int = 0
    weight: int | None = None
    most_requests: int = 2_000_000
    seed: int = 0
    seen: Callable[[float], None] | None = None

    def __post_init__(self) -> None:
        unknown = ", ".join(sorted(self.gpus.keys() - self.profiles.keys()))
        if unknown:
            known = ", ".join(sorted(self.profiles))
            raise ValueError(f"gpus: {unknown} has no profile; known here: {known}")
        if self.minimum < 1:
            raise ValueError("minimum: scale to zero is not simulated; 1 or more")

    @property
    def gpu_count(self) -> int:
        return sum(self.gpus.values())

    @property
    def longest_start_s(self) -> float:
        """Of the GPUs that there are."""
        return max(self.start_s(gpu_type) for gpu_type in self.gpus)

    def start_s(self, gpu_type: str) -> float:
        """From the order of a replica on this GPU to its first request."""
        own = self.cold_start_s
        return self.profiles[gpu_type].start_total_s if own is None else own

    def slo(self, tier: Tier) -> Slo:
        return self.slos.get(tier, DEFAULT_SLO)


@dataclass(frozen=True, slots=True)
class GpuPlan:
    """What a tier's replica is on a GPU."""

    profile: GpuProfile
    limits: GateLimits
    service: ServiceTime
    start_s: float


@dataclass(frozen=True, slots=True)
class TierPlan:
    """How a tier runs: GPUs in order of preference, and its replica on each of them."""

    tier: Tier
    preference: tuple[str, ...]
    gpu_plans: Mapping[str, GpuPlan]
    lengths: LearntLengths
    max_wait_s: float
    expected_new_tokens: int


def tier_plan(tier: Tier, setup: Setup) -> TierPlan:
    """The tier with the defaults of `serve_app/config` on this cluster's GPUs."""
    admission = AdmissionConfig()
    expected = min(admission.expected_new_tokens, DEFAULT_MAX_NEW_TOKENS[tier])
    known = [name for name in PREFERENCE[tier] if name in setup.gpus]
    return TierPlan(
        tier=tier,
        preference=(*known, *(name for name in setup.gpus if name not in known)),
        gpu_plans={name: _gpu_plan(tier, name, setup) for name in setup.gpus},
        lengths=LearntLengths(admission.expected_prompt_tokens, expected),
        max_wait_s=setup.max_wait_s,
        expected_new_tokens=admission.expected_new_tokens,
    )


def _gpu_plan(tier: Tier, gpu_type: str, setup: Setup) -> GpuPlan:
    """The gate's limits as `RunningTier` derives them, from the profile's figures."""
    admission, profile, slo = AdmissionConfig(), setup.profiles[gpu_type], setup.slo(tier)
    limit = DEFAULT_MAX_NEW_TOKENS[tier]
    derived = derive_limits(
        _hardware(profile),
        model_shape(DEFAULT_MODEL_CONFIG),
        kv_tokens=int(profile.kv_tokens.value),
        prompt_tokens=admission.expected_prompt_tokens,
        max_new_tokens=limit,
        expected_new_tokens=min(admission.expected_new_tokens, limit),
        min_stream_tokens_per_s=admission.min_stream_tokens_per_s,
        max_wait_s=setup.max_wait_s,
    )
    queued = setup.max_queued_requests
    limits = GateLimits(
        slots=setup.slots or derived.slots,
        max_queued_requests=derived.max_queued_requests if queued is None else queued,
        max_wait_s=setup.max_wait_s,
        batch_cost=derived.batch_cost,
        lend_share=setup.lend_share,
        slo_ttft_s=math.inf if slo.ttft is None else slo.ttft,
        slo_tpot_s=math.inf if slo.tpot is None else slo.tpot,
        kv_tokens=int(profile.kv_tokens.value),
    )
    return GpuPlan(profile, limits, ServiceTime(derived.service_s), setup.start_s(gpu_type))


def _hardware(profile: GpuProfile) -> Hardware:
    """The GPU as production's arithmetic takes it: all that a step costs beside its sequences is
    overhead here, for the profile does not say how much of it reads the weights."""
    return Hardware(
        name=profile.name,
        accelerator_type=profile.accelerator_type,
        memory_bytes=0,
        bandwidth_bytes_per_s=math.inf,
        dtype="auto",
        attention_backend=None,
        step_overhead_ms=profile.base_ms.value,
        step_per_sequence_ms=max(profile.per_sequence_ms.value, 1e-6),
        prefill_tokens_per_s=1e3 / max(profile.per_prompt_token_ms.value, 1e-9),
        max_sequences=int(profile.max_sequences.value),
        status="profile",
    )
