"""A set of GPUs that all serve, nothing scaled: what it can compute, and how a load goes on it."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from loadtest.simulation.outcome import SimulationOutcome
from loadtest.simulation.profile import GpuProfile
from loadtest.simulation.setup import Setup, tier_plan
from loadtest.simulation.traffic import ScalableTraffic
from serve_app.core.tiers import Tier

Split = Mapping[Tier, int]
# Of the ways to divide a set among the tiers, the best by the bound; the others are not simulated.
MOST_SPLITS = 3


@dataclass(frozen=True, slots=True)
class AllServing:
    """The policy that keeps what there is at the beginning."""

    split: Split

    def targets(self, tiers: Mapping[Tier, Any], now_s: float) -> Split:
        return self.split


@dataclass(frozen=True, slots=True)
class Bench:
    """Sets of GPUs on one kind of traffic. `goodput` is the share of each tier's requests that
    must meet the SLO; `ran` is called after each simulation."""

    traffic: ScalableTraffic
    setup: Setup
    goodput: float
    ran: Callable[[], None] = lambda: None
    _bounds: dict[tuple[str, Tier], float] = field(init=False, repr=False, default_factory=dict)

    def run(
        self, gpus: Mapping[str, int], split: Split, load_rps: float, seed: int
    ) -> SimulationOutcome:
        from loadtest.simulation.run import simulate

        present = {name: count for name, count in gpus.items() if count}
        setup = replace(self.setup, gpus=present, initial=split, seed=seed)
        outcome = simulate(self.traffic.at(load_rps, seed), setup, AllServing(split))
        self.ran()
        return outcome

    def sustains(self, outcome: SimulationOutcome) -> bool:
        return all(tier.goodput_share >= self.goodput for tier in outcome.tiers.values())

    def splits(self, gpus: Mapping[str, int]) -> Sequence[Split]:
        """The ways to divide the GPUs that leave each tier one, those with most room first."""
        tiers, gpu_count = list(self.traffic.shares), sum(gpus.values())
        if len(tiers) == 1:
            return [{tiers[0]: gpu_count}] if gpu_count else []
        first, second = tiers
        ways = [{first: number, second: gpu_count - number} for number in range(1, gpu_count)]
        ways.sort(key=lambda split: -self._separate_rps(gpus, split))
        return ways[:MOST_SPLITS]

    def bound_rps(self, gpus: Mapping[str, int]) -> float:
        """Above this load no set can keep the SLO, however its GPUs are divided among the tiers.

        The load fits while some division of each GPU's time serves all tiers. With weights on the
        tiers a GPU is worth at most its best tier; the dual of that linear program has its optimum
        at a weight where some GPU is worth the same in both tiers, or at either end.
        """
        rates = {gpu_type: self._rates(gpu_type) for gpu_type in gpus}
        shares = self.traffic.shares
        if len(shares) == 1:
            (tier,) = shares
            return sum(count * rates[gpu_type][tier] for gpu_type, count in gpus.items())
        first, second = shares
        weights = [(1.0, 0.0), (0.0, 1.0)]
        weights += [(rates[gpu_type][second], rates[gpu_type][first]) for gpu_type in gpus]
        return min(
            sum(
                count * max(a * rates[gpu_type][first], b * rates[gpu_type][second])
                for gpu_type, count in gpus.items()
            )
            / (a * shares[first] + b * shares[second])
            for a, b in weights
            if a or b
        )

    def gpu_bound_rps(self, gpu_type: str, tier: Tier) -> float:
        """Requests of this tier that the GPU computes a second with the largest batch that the
        SLO on TPOT and its slots allow, which shares the cost of reading the weights best."""
        key = gpu_type, tier
        if key not in self._bounds:
            self._bounds[key] = self._gpu_bound_rps(gpu_type, tier)
        return self._bounds[key]

    def _gpu_bound_rps(self, gpu_type: str, tier: Tier) -> float:
        plan = tier_plan(tier, replace(self.setup, gpus={gpu_type: 1})).gpu_plans[gpu_type]
        mean = self.traffic.mean_request(tier)
        profile = plan.profile
        limit_s = self.setup.slo(tier).tpot
        limit_ms = float("inf") if limit_s is None else 1e3 * limit_s
        token_ms = _least_token_ms(profile, mean.context_tokens, plan.limits.slots, limit_ms)
        if token_ms is None:
            return 0.0
        whole_ms = mean.new_tokens * token_ms + profile.prompt_ms(mean.prompt_tokens)
        return 1e3 / whole_ms / self.goodput

    def _rates(self, gpu_type: str) -> Mapping[Tier, float]:
        return {tier: self.gpu_bound_rps(gpu_type, tier) for tier in self.traffic.shares}

    def _separate_rps(self, gpus: Mapping[str, int], split: Split) -> float:
        """The load that fits when each tier has only its own GPUs."""
        placed = self.placed(gpus, split)
        return min(
            sum(count * self.gpu_bound_rps(gpu_type, tier) for gpu_type, count in own.items())
            / self.traffic.shares[tier]
            for tier, own in placed.items()
        )

    def placed(self, gpus: Mapping[str, int], split: Split) -> Mapping[Tier, Mapping[str, int]]:
        """The GPUs that each tier gets, as production places replicas: the preferred one first."""
        free = Counter(gpus)
        placed: dict[Tier, Counter[str]] = {}
        for tier, count in split.items():
            placed[tier] = Counter()
            for gpu_type in tier_plan(tier, replace(self.setup, gpus=gpus)).preference:
                taken = min(free[gpu_type], count - placed[tier].total())
                free[gpu_type] -= taken
                placed[tier][gpu_type] += taken
        return placed


def _least_token_ms(
    profile: GpuProfile, context_tokens: float, slots: int, limit_ms: float
) -> float | None:
    """A token's part of the batch that shares a step best, of those with no longer step than this.
    On a straight line that is the largest one. None: not even one sequence is quick enough."""
    if profile.by_sequences is not None:
        found = [profile.token_ms(batch, context_tokens) for batch in range(1, slots + 1)]
        return min((ms for n, ms in enumerate(found, 1) if n * ms <= limit_ms), default=None)
    base_ms, own_ms = profile.base_ms.value, profile.token_ms(1, context_tokens)
    token_ms = own_ms - base_ms
    batch = min(slots, (limit_ms - base_ms) / token_ms) if token_ms else float(slots)
    return None if batch < 1 else base_ms / batch + token_ms
