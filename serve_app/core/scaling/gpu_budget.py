"""A fixed number of cards for all tiers: each keeps its minimum, and who queues gets what idles."""

from collections.abc import Mapping
from dataclasses import dataclass

from serve_app.core.tiers import Tier

# Half a card each is one card: 0.1 + 0.2 is not 0.3 in floating point.
ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class TierWish:
    """What a tier's own law wants, and the target that it has. `needed` of them are for the load
    that there is; the rest is kept for `hold_s` in case it comes back, unless another tier needs
    it."""

    wanted: int
    target: int
    minimum: int
    gpus_per_replica: float = 1.0
    needed: int | None = None
    hold_s: float = 0.0

    @property
    def least(self) -> int:
        """What is needed, as far as it is wanted."""
        needed = self.wanted if self.needed is None else min(self.needed, self.wanted)
        return max(needed, self.minimum)


@dataclass(frozen=True, slots=True)
class GpuShare:
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
    needed: NeededGpus, wishes: Mapping[Tier, TierWish], *, now_s: float
) -> NeededGpus:
    """With what the tiers need now, or have at the beginning. The longest hold counts."""
    if needed.peaks:
        counts = {tier: wish.least for tier, wish in wishes.items()}
    else:
        counts = {tier: max(wish.least, wish.target) for tier, wish in wishes.items()}
    total = sum(count * wishes[tier].gpus_per_replica for tier, count in counts.items())
    since_s = now_s - max((wish.hold_s for wish in wishes.values()), default=0.0)
    peaks = [(at_s, count) for at_s, count in needed.peaks if at_s >= since_s and count > total]
    return NeededGpus((*peaks, (now_s, total)))


def share_gpus(
    wishes: Mapping[Tier, TierWish], *, gpus: float, kept: float | None = None
) -> dict[Tier, GpuShare]:
    """Divide `gpus` GPUs among the tiers, or the `kept` ones of them: what load that comes back may
    need is kept for all tiers together, since one grows while another shrinks.

    Each tier's fair part is its minimum, then GPU by GPU to whoever has the smallest part of what
    it needs, and then of what it wants; at a tie, to the one that holds the GPU already. A tier
    above its part gives back. A tier below it takes what is free now, and the rest when the others
    have given back.

    The answer depends on the wishes alone, so asking twice changes nothing; that an imbalance must
    last before a card moves is Serve's downscale delay, which runs for whoever is to give back.
    """
    # One tier alone keeps what its own law says.
    fair = _fair_parts(wishes, gpus if kept is None or len(wishes) < 2 else min(gpus, kept))
    replicas = {tier: min(fair[tier], wish.target) for tier, wish in wishes.items()}
    # A tier above its part holds its cards until it has given them back.
    free = gpus - sum(wish.target * wish.gpus_per_replica for wish in wishes.values())
    while (tier := _furthest_below(wishes, replicas, fair, free)) is not None:
        replicas[tier] += 1
        free -= wishes[tier].gpus_per_replica
    return {
        tier: GpuShare(replicas[tier], _reason(wish, replicas[tier], fair[tier]))
        for tier, wish in wishes.items()
    }


def _fair_parts(wishes: Mapping[Tier, TierWish], gpus: float) -> dict[Tier, int]:
    parts = {tier: wish.minimum for tier, wish in wishes.items()}
    needed = {tier: wish.least for tier, wish in wishes.items()}
    wanted = {tier: max(wish.wanted, wish.minimum) for tier, wish in wishes.items()}
    free = gpus - sum(wish.minimum * wish.gpus_per_replica for wish in wishes.values())
    for bounds in (needed, wanted):
        while (tier := _furthest_below(wishes, parts, bounds, free)) is not None:
            parts[tier] += 1
            free -= wishes[tier].gpus_per_replica
    return parts


def _furthest_below(
    wishes: Mapping[Tier, TierWish],
    parts: Mapping[Tier, int],
    bounds: Mapping[Tier, int],
    free: float,
) -> Tier | None:
    """The tier that gets the next card: below its bound, with the smallest part of its wish."""
    below = [
        tier
        for tier, wish in wishes.items()
        if parts[tier] < bounds[tier] and wish.gpus_per_replica <= free + ROUNDING
    ]
    return min(
        below,
        key=lambda tier: (
            parts[tier] / max(wishes[tier].wanted, 1),
            parts[tier] >= wishes[tier].target,
            tier,
        ),
        default=None,
    )


def _reason(wish: TierWish, replicas: int, fair: int) -> str:
    if replicas >= wish.wanted:
        return ""
    if replicas < min(wish.target, wish.wanted):
        return f"wants {wish.wanted}, gives a GPU to the tier that has less of its wish"
    if fair > replicas:
        return f"wants {wish.wanted}, waits for a GPU that another tier gives back"
    return f"wants {wish.wanted}, and the GPUs of this cluster are shared out"
