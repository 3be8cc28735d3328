"""A fixed number of GPUs for all tiers: each keeps its minimum, and who queues gets what idles."""

from collections.abc import Mapping
from dataclasses import dataclass

from serve_app.core.tiers import Tier

# Half a GPU each is one GPU: 0.1 + 0.2 is not 0.3 in floating point.
ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class GpuDemand:
    """The replicas that a tier's own decision asks for, and the target that it has. `needed` of
    them are for the load that there is; the rest is kept for `hold_s` in case load returns, unless
    another tier needs it. `starting` do not serve yet."""

    wanted: int
    target: int
    minimum: int
    gpus_per_replica: float = 1.0
    needed: int | None = None
    hold_s: float = 0.0
    starting: int = 0

    @property
    def least(self) -> int:
        """What is needed, as far as it is wanted."""
        needed = self.wanted if self.needed is None else min(self.needed, self.wanted)
        return max(needed, self.minimum)


@dataclass(frozen=True, slots=True)
class GpuAllocation:
    """`reason` is empty where the tier gets what it wants."""

    replicas: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class NeededGpus:
    """How many GPUs all tiers together needed, as pairs of time and count: of those that are within
    the hold, only such as no later one exceeds."""

    peaks: tuple[tuple[float, float], ...] = ()

    @property
    def most(self) -> float:
        """The most that was needed within the hold."""
        return self.peaks[0][1] if self.peaks else 0.0


def observe_needed(
    needed: NeededGpus,
    demands: Mapping[Tier, GpuDemand],
    *,
    now_s: float,
    together: Mapping[Tier, int] | None = None,
) -> NeededGpus:
    """With what the tiers need now, or have at the beginning. The longest hold counts. `together`
    are counts that are enough when each borrows what the other has to spare."""
    if needed.peaks:
        counts = {tier: demand.least for tier, demand in demands.items()}
        if together is not None and together.keys() == demands.keys():
            counts = min(counts, together, key=lambda c: _gpus(c, demands))
    else:
        counts = {tier: max(demand.least, demand.target) for tier, demand in demands.items()}
    total = _gpus(counts, demands)
    since_s = now_s - max((demand.hold_s for demand in demands.values()), default=0.0)
    peaks = [(at_s, count) for at_s, count in needed.peaks if at_s >= since_s and count > total]
    return NeededGpus((*peaks, (now_s, total)))


def allocate_gpus(
    demands: Mapping[Tier, GpuDemand], *, gpus: float, kept: float | None = None
) -> dict[Tier, GpuAllocation]:
    """Divide `gpus` GPUs among the tiers, or the `kept` ones of them: what load that returns may
    need is kept for all tiers together, since one grows while another shrinks.

    Each tier's fair part is its minimum, then GPU by GPU to whoever has the smallest part of what
    it needs, and then of what it wants; at a tie, to the one that holds the GPU already. A tier
    above its part scales down. A tier below it takes what is free now, and the rest when the others
    have scaled down.

    The answer depends on the demands alone, so asking twice changes nothing; that an imbalance must
    last before a GPU moves is Serve's downscale delay, which runs for whoever is to scale down.
    """
    if kept is not None:
        # What is needed now is not given back for what both together will need, nor anything for
        # a replica that does not serve yet.
        least = {tier: demand.least for tier, demand in demands.items()}
        starting = {tier: demand.starting for tier, demand in demands.items()}
        kept = max(kept, _gpus(least, demands)) + _gpus(starting, demands)
    # One tier alone keeps what its own decision says.
    fair = _fair_parts(demands, gpus if kept is None or len(demands) < 2 else min(gpus, kept))
    replicas = {tier: min(fair[tier], demand.target) for tier, demand in demands.items()}
    # A tier above its part holds its GPUs until it has scaled down.
    free = gpus - sum(demand.target * demand.gpus_per_replica for demand in demands.values())
    while (tier := _furthest_below(demands, replicas, fair, free)) is not None:
        replicas[tier] += 1
        free -= demands[tier].gpus_per_replica
    return {
        tier: GpuAllocation(replicas[tier], _reason(demand, replicas[tier], fair[tier]))
        for tier, demand in demands.items()
    }


def _gpus(counts: Mapping[Tier, int], demands: Mapping[Tier, GpuDemand]) -> float:
    return sum(count * demands[tier].gpus_per_replica for tier, count in counts.items())


def _fair_parts(demands: Mapping[Tier, GpuDemand], gpus: float) -> dict[Tier, int]:
    parts = {tier: demand.minimum for tier, demand in demands.items()}
    needed = {tier: demand.least for tier, demand in demands.items()}
    wanted = {tier: max(demand.wanted, demand.minimum) for tier, demand in demands.items()}
    free = gpus - sum(demand.minimum * demand.gpus_per_replica for demand in demands.values())
    for bounds in (needed, wanted):
        while (tier := _furthest_below(demands, parts, bounds, free)) is not None:
            parts[tier] += 1
            free -= demands[tier].gpus_per_replica
    return parts


def _furthest_below(
    demands: Mapping[Tier, GpuDemand],
    parts: Mapping[Tier, int],
    bounds: Mapping[Tier, int],
    free: float,
) -> Tier | None:
    """The tier that gets the next GPU: below its bound, with the smallest part of its demand."""
    below = [
        tier
        for tier, demand in demands.items()
        if parts[tier] < bounds[tier] and demand.gpus_per_replica <= free + ROUNDING
    ]
    return min(
        below,
        key=lambda tier: (
            parts[tier] / max(demands[tier].wanted, 1),
            parts[tier] >= demands[tier].target,
            tier,
        ),
        default=None,
    )


def _reason(demand: GpuDemand, replicas: int, fair: int) -> str:
    if replicas >= demand.wanted:
        return ""
    if replicas < min(demand.target, demand.wanted):
        return f"wants {demand.wanted}, hands a GPU to the tier that has less of its demand"
    if fair > replicas:
        return f"wants {demand.wanted}, waits for a GPU until another tier scales down"
    return f"wants {demand.wanted}, and all GPUs of this cluster are allocated"
