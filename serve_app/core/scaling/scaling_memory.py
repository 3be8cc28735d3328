"""What a tier's scaling policy remembers: how soon load returned, and how much of a rush stays.

Two questions have no answer in the load of this moment, and one in what came before. *How long is
a GPU kept that is not needed now?* As long as giving it back would have cost more: the lulls that
ended lately say so. *Is a rush worth a GPU that serves only a start later?* As far as earlier ones
were still there by then, or came back.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from serve_app.core.scaling.slo_misses import MissSample

# A lull that ended costs its own length if the GPU was kept. If it was not, it costs the hold, the
# start, and what is served too late meanwhile: this many starts in all.
RETURN_COSTS_STARTS = 3.5
LULLS_KEPT = 24
# When a replica was needed that was not needed again within the longest lull.
NEVER_S = -math.inf
# Until lulls have ended, the hold is what a return costs: never more than twice the best choice in
# hindsight, whatever comes (the ski-rental rule; Karlin et al., Algorithmica 1988).
EXPECTED_LULLS = 4
# A hold ends a little after the lull that it is for.
HOLD_MARGIN = 1.1
# A rush is looked at so often, and what came of it is compared when it can be known.
SAMPLE_S = 2.0
EXPECTED_PERSISTENCE = 0.5
EXPECTED_COUNTS_AS = 3.0
# Of each rush that is compared, older ones count so much less.
FORGETTING = 0.97


@dataclass(frozen=True, slots=True)
class Rush:
    """How far arrivals were above their slow mean at a moment, and the most that they were above
    that same mean from a start later on."""

    at_s: float
    level_rps: float
    excess_rps: float
    again_rps: float = 0.0


@dataclass(frozen=True, slots=True)
class Orders:
    """How many replicas were ordered last, None before that; for the first replica, the second, ...
    when it was given back; and which of them, counted from 0, were ordered again so soon that
    giving them back has lost more than it saved."""

    target: int | None = None
    given_back_s: tuple[float, ...] = ()
    regretted: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class ScalingMemory:
    """`needed_s` has for the first replica, the second, ... when it was needed last. `lulls_s` are
    the times between that and when it was needed again, the newest last, `vain_s` those after which
    it was not, as far as they were waited for. `rushes` wait to be compared; `stayed` and `rushed`
    are the sums of those that were. `misses` are what fewer replicas would have missed of the
    latest load, and `surely_s` is as `needed_s`, by more than chance."""

    needed_s: tuple[float, ...] = ()
    lulls_s: tuple[float, ...] = ()
    vain_s: tuple[float, ...] = ()
    rushes: tuple[Rush, ...] = ()
    stayed: float = EXPECTED_PERSISTENCE * EXPECTED_COUNTS_AS
    rushed: float = EXPECTED_COUNTS_AS
    misses: tuple[MissSample, ...] = ()
    surely_s: tuple[float, ...] = ()
    orders: Orders = Orders()

    @property
    def persistence(self) -> float:
        """The part of a rush that is there a start later, or again within the hold."""
        return min(1.0, self.stayed / self.rushed)


def hold_s(memory: ScalingMemory, *, start_s: float, least_s: float, most_s: float) -> float:
    """How long a replica that is not needed is kept: what would have cost least for the lulls that
    are remembered and a few of the length at which keeping and giving back cost the same."""
    return_s = RETURN_COSTS_STARTS * start_s
    lulls = [*memory.lulls_s, *memory.vain_s, *[return_s / HOLD_MARGIN] * EXPECTED_LULLS]
    candidates = sorted({least_s, *(min(max(HOLD_MARGIN * x, least_s), most_s) for x in lulls)})
    return min(candidates, key=lambda hold: _cost_s(hold, lulls, return_s))


def held_replicas(times_s: Sequence[float], now_s: float, hold: float) -> int:
    """As many as have one of these times within the hold."""
    return sum(1 for time_s in times_s if now_s - time_s <= hold)


def remember_target(
    memory: ScalingMemory, now_s: float, target: int, *, start_s: float
) -> ScalingMemory:
    """The tier has been given so many replicas since. What was ordered was needed, however few
    moments the need has lasted; a start that is broken off has cost as much as one that ends."""
    orders, before = memory.orders, memory.orders.target
    if before is None or target == before:
        return replace(memory, orders=replace(orders, target=target))
    given_back_s = [*orders.given_back_s, *[NEVER_S] * (max(target, before))][: max(target, before)]
    if target < before:
        given_back_s[target:before] = [now_s] * (before - target)
        regretted = frozenset(at for at in orders.regretted if at < target)
        return replace(memory, orders=Orders(target, tuple(given_back_s), regretted))
    since_s = now_s - RETURN_COSTS_STARTS * start_s
    again = {at for at in range(before, target) if given_back_s[at] >= since_s}
    surely_s = [*memory.surely_s, *[NEVER_S] * target][: max(target, len(memory.surely_s))]
    surely_s[before:target] = [now_s] * (target - before)
    return replace(
        memory,
        orders=Orders(target, tuple(given_back_s), orders.regretted | again),
        surely_s=tuple(surely_s),
    )


def remember_sure(memory: ScalingMemory, now_s: float, count: int) -> ScalingMemory:
    """So many are needed now by more than chance."""
    return replace(memory, surely_s=(*[now_s] * count, *memory.surely_s[count:]))


def remember_need(
    memory: ScalingMemory,
    now_s: float,
    needed: int,
    *,
    target: int,
    shortest_s: float,
    longest_s: float,
) -> ScalingMemory:
    """`needed` replicas are needed now; of those above the `target` the tier has none. One that it
    has had, and that is needed again, ends a lull. A lull that was shorter than any hold teaches
    nothing, and what comes after more than `longest_s` is a new load: what was kept in that lull
    was kept in vain."""
    needed = min(needed, max(target, 1))
    times = list(memory.needed_s)
    # What is there at the beginning was needed by whoever asked for it.
    times += [now_s] * (max(needed, target) - len(times))
    ended = [
        now_s - since_s for since_s in times[:needed] if shortest_s < now_s - since_s <= longest_s
    ]
    times[:needed] = [now_s] * needed
    vain = [at for at, since_s in enumerate(times) if now_s - longest_s > since_s > NEVER_S]
    for at in vain:
        times[at] = NEVER_S
    return replace(
        memory,
        needed_s=tuple(times),
        lulls_s=(*memory.lulls_s, *ended)[-LULLS_KEPT:],
        vain_s=(*memory.vain_s, *[longest_s] * len(vain))[-LULLS_KEPT:],
    )


def remember_arrivals(
    memory: ScalingMemory,
    now_s: float,
    *,
    level_rps: float,
    excess_rps: float,
    start_s: float,
    within_s: float,
) -> ScalingMemory:
    """Arrivals are `excess_rps` above their slow mean. A rush is compared once a start and then
    `within_s` have passed, by what was above its level in that time."""
    rate_rps = level_rps + excess_rps
    rushes: list[Rush] = []
    stayed, rushed = memory.stayed, memory.rushed
    for rush in memory.rushes:
        age_s = now_s - rush.at_s
        if age_s >= start_s:
            again_rps = min(rush.excess_rps, max(rush.again_rps, rate_rps - rush.level_rps))
            rush = replace(rush, again_rps=again_rps)
        if age_s < start_s + within_s:
            rushes.append(rush)
            continue
        # By their size, so that a tremble says little of a flood.
        part = rush.excess_rps / max(rush.level_rps + rush.excess_rps, 1e-9)
        stayed = FORGETTING * stayed + part * rush.again_rps / rush.excess_rps
        rushed = FORGETTING * rushed + part
    if excess_rps > 0 and _is_due(rushes, now_s):
        rushes.append(Rush(now_s, level_rps, excess_rps))
    return replace(memory, rushes=tuple(rushes), stayed=stayed, rushed=rushed)


def _is_due(rushes: Sequence[Rush], now_s: float) -> bool:
    return not rushes or now_s - rushes[-1].at_s >= SAMPLE_S


def _cost_s(hold: float, lulls: Sequence[float], return_s: float) -> float:
    """Seconds of a GPU, for a replica that is kept so long in each of these lulls."""
    return sum(lull if lull <= hold else hold + return_s for lull in lulls)
