"""How many replicas a tier needs for what it expects: alone, with what another tier lends it, and
while it lends itself."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from statistics import fmean

from serve_app.core.scaling.slo_capacity import Capacity, RequestShape, Slo, miss_share
from serve_app.core.scaling.slo_misses import MissShares
from serve_app.core.scaling.tier_demand import Replica

# Of what another tier has to spare: its own load varies too.
LENT_SURELY = 0.8
# Where the TPOT limits a replica, a tier's own serve the steady part of its load up to here: beyond
# it they are slow before a slot is borrowed. Where the slots do, borrowed ones are as good.
MOST_OF_OWN = 0.87
# One replica is looked for at a time up to here; beyond any cluster.
MOST_REPLICAS = 4096
# Shares of misses beyond these are as good as none and all.
FEWEST_MISSED, MOST_MISSED = 1e-4, 0.999


@dataclass(frozen=True, slots=True)
class LentLoad:
    """What a tier's replicas could do for another one beside their own load: so many replicas'
    whole time, and what a token takes them."""

    replicas: float
    token_s: float


@dataclass(frozen=True, slots=True)
class TierNeed:
    """What a tier expects a start from now: `rate_rps` arrivals of this shape, `level_rps` of them
    steady, `backlog` requests of them waiting already. `capacities` are those of its replicas in
    the order in which they stay, `target` is how many it has or has ordered. It keeps what carries
    the same at `utilisation_down` of that load."""

    capacities: Sequence[Capacity]
    rate_rps: float
    level_rps: float
    shape: RequestShape
    slo: Slo
    token_s: float
    target: int
    backlog: float = 0.0
    utilisation_down: float = 1.0

    @property
    def to_keep(self) -> "TierNeed":
        """A little more than what it needs, by which it keeps replicas."""
        return replace(self, rate_rps=self.rate_rps / self.utilisation_down, utilisation_down=1.0)

    @property
    def sustained_rps(self) -> float:
        """Of the replicas that there are."""
        return together(self.capacities).sustained_rps

    @property
    def joining(self) -> Capacity:
        """A replica that is not there yet, as the middle one of those that are."""
        ranked = sorted(self.capacities, key=lambda capacity: capacity.sustained_rps)
        return ranked[len(ranked) // 2]

    def fewest(self, lent: float = 0.0) -> int:
        """The smallest count that keeps the SLO, with `lent` replicas' time of another tier. Found
        by bisection: with one more replica it is kept at a higher rate."""
        low, high = 0, len(self.capacities)
        allowed = 1 - self.slo.goodput

        def enough(count: int) -> bool:
            return self._missed(count, lent) <= allowed

        while not enough(high) and high < MOST_REPLICAS:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if enough(middle) else (middle, high)
        return high

    def misses(self) -> MissShares:
        """What fraction of the requests misses the SLO with fewer replicas and with more, without
        what is lent."""
        if self.rate_rps <= 0:
            return MissShares(1, ())
        first = end = self.fewest()
        shares: list[float] = []
        while first > 1 and (missed := self._missed(first - 1)) < MOST_MISSED:
            shares.insert(0, missed)
            first -= 1
        while end < MOST_REPLICAS and (missed := self._missed(end)) > FEWEST_MISSED:
            shares.append(missed)
            end += 1
        return MissShares(first, tuple(shares))

    def borrowed(self, lent: LentLoad) -> float:
        """What is lent, in replicas of this tier: a token of the lender's against one of ours."""
        return LENT_SURELY * lent.replicas * self.token_s / lent.token_s

    def _missed(self, count: int, lent: float = 0.0) -> float:
        """The fraction of the requests that misses the SLO with so many replicas. A slot is
        borrowed only when the own ones are full, so with all of them busy they have to keep the
        TPOT, or never come near to that by their steady load."""
        joining = self.joining
        more = joining.times(max(0, count - len(self.capacities)))
        own = together(self.capacities[:count], more)
        alone = miss_share(self.rate_rps, own, shape=self.shape, slo=self.slo)
        most_rps = MOST_OF_OWN * own.tpot_rps
        if not lent or min(self.rate_rps, self.level_rps, own.slots_rps) > most_rps:
            return alone
        both = own.plus(joining.times(lent))
        return min(alone, miss_share(self.rate_rps, both, shape=self.shape, slo=self.slo))


def kept_to_lend(
    lender: TierNeed, borrower: TierNeed | None, *, least: int, lend_share: float
) -> int:
    """How many of its replicas a tier keeps that needs `least` itself.

    If one that is given back has to be started for the borrower, nothing is won and a start is
    lost. So as many are kept as make the fewest replicas of both tiers and starts of the borrower
    together: a start costs about what a replica does that is kept for the hold. None is ordered.
    """
    if borrower is None or least >= lender.target or borrower.fewest() <= borrower.target:
        return least

    def cost(count: int) -> int:
        lent = lent_by(lender, count, lend_share=lend_share)
        starts = max(0, borrower.fewest(borrower.borrowed(lent)) - borrower.target)
        return count + 2 * starts

    return min(range(lender.target, least - 1, -1), key=cost)


def lent_by(lender: TierNeed, count: int, *, lend_share: float) -> LentLoad:
    """What a tier could lend with so many replicas."""
    own_rps = max(lender.sustained_rps / len(lender.capacities), 1e-9)
    spare = count - lender.rate_rps / own_rps
    return LentLoad(max(0.0, min(lend_share * count, spare)), lender.token_s)


def together(capacities: Sequence[Capacity], more: Capacity | None = None) -> Capacity:
    """Of replicas that divide their requests."""
    parts = [*([more] if more else []), *capacities]
    return reduce(Capacity.plus, parts)


def token_s(replicas: Sequence[Replica], *, beside: float = math.inf, part: float = 1.0) -> float:
    """What a token takes of a replica's time, on average: with all slots busy, or with this part of
    them `beside` so many others. A step with a smaller batch is shorter, so that half of the slots
    of one that is idle make more than half of the tokens."""
    return fmean(
        r.model.step_ms(min(r.slots, beside + part * r.slots)) / max(r.slots, 1) / 1e3
        for r in replicas
    )
