"""How many replicas two tiers need together, when each lends the other what it has to spare.

While one grows and the other shrinks, the sum of what each needs alone is more than both need: what
the one has too much of, the other can borrow.
"""

from collections.abc import Mapping

from serve_app.core.scaling.tier_need import TierNeed, lent_by
from serve_app.core.tiers import Tier

TIERS_THAT_LEND = 2


def fewest_together(needs: Mapping[Tier, TierNeed], *, lend_share: float) -> Mapping[Tier, int]:
    """The counts of two tiers with the smallest sum with which both keep their SLO. Whoever borrows
    has nothing to spare, so the other one has what it needs alone. More tiers, or one, borrow
    nothing here."""
    alone = {tier: need.to_keep.fewest() for tier, need in needs.items()}
    if len(needs) != TIERS_THAT_LEND or lend_share <= 0:
        return alone
    first, second = needs
    ways = [alone]
    for lender, borrower in ((first, second), (second, first)):
        lent = lent_by(needs[lender].to_keep, alone[lender], lend_share=lend_share)
        to_keep = needs[borrower].to_keep
        ways.append({**alone, borrower: to_keep.fewest(to_keep.borrowed(lent))})
    return min(ways, key=lambda counts: sum(counts.values()))
