"""How many replicas a tier needs, from the work that arrives, runs and waits."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

# Exactly full replicas are enough: 21 over 0.7 is 30.000000000000004 in floating point.
ROUNDING = 1e-6
UNLIKELY_REQUESTS = 0.5
# Of what another tier has to spare: its own load varies too.
LENT_SURELY = 0.8


@dataclass(frozen=True, slots=True)
class ReplicaLoad:
    """What one replica reports of its tier's own requests.

    `running` sequences hold slots, `queue_depth` requests wait. Work is in seconds of this replica
    with all slots busy: `arriving_load` comes in a second, `queued_s` waits, `typical_s` is what a
    typical request of the tier takes here, so 1 / typical_s is the replica's measured speed;
    `token_s` is what a token takes, whoever's it is. Serve stops replicas on a `fallback` card, one
    that the tier did not want first, before the others.
    """

    running: float
    queue_depth: float
    slots: float
    arriving_load: float
    queued_s: float
    typical_s: float
    age_s: float
    token_s: float = 0.0
    fallback: bool = False


@dataclass(frozen=True, slots=True)
class ScalingLaw:
    """Settings of the law.

    `start_s` is how long a new replica takes to serve. Of the work that all slots hold
    `slots_share` is no backlog, and what waits may need `wait_s` to start. A backlog beyond both is
    to be gone `drain_within_s` after the new replicas serve. One replica fewer must stay below
    `utilisation_down`.
    """

    start_s: float
    wait_s: float
    slots_share: float = 1.0
    drain_within_s: float = 30.0
    utilisation_down: float = 0.95
    stale_after_s: float = 5.0


@dataclass(frozen=True, slots=True)
class LentLoad:
    """What a tier's replicas could do for another one: seconds of theirs a second, and what a token
    takes them."""

    load: float
    token_s: float


@dataclass(frozen=True, slots=True)
class Decision:
    """`held` says that reports were missing and the count could not follow the demand. `inputs` are
    the figures that it rests on, by name with unit."""

    replicas: int
    reason: str
    held: bool = False
    inputs: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, slots=True)
class _Demand:
    """All in typical requests, so that cards of different speed add up: each replica's speed and
    the arrivals a second, and the backlog now. `speeds` begins with the replica that stays longest;
    where Serve's choice is not known, that is the slowest."""

    speeds: tuple[float, ...]
    lent_rps: float
    arriving_rps: float
    backlog: float
    slots: float
    occupied: int
    inputs: Mapping[str, float]

    @property
    def reason(self) -> str:
        figures, count = self.inputs, len(self.speeds)
        return (
            f"{count} replica{'s' if count > 1 else ''} at {figures['utilisation']:.0%} of "
            f"{figures['capacity_rps']:.2f} requests/s, running {figures['running']:g} in "
            f"{self.slots:g} slots, queue depth {figures['queue_depth']:g}"
        )


def desired_replicas(
    reports: Sequence[ReplicaLoad],
    law: ScalingLaw,
    *,
    replicas_target: int,
    replicas_running: int,
    lent_load: LentLoad | None = None,
    to_zero: bool = False,
) -> Decision:
    """Look ahead to the moment at which a replica that is ordered now would serve.

    The backlog then is what runs and waits now, plus arrivals, less what the replicas do until
    then. More is ordered when it would exceed what the slots and the tier's wait allow; one
    replica is given back when the others would still keep it well below that, and their
    utilisation too. In between nothing changes, so a load near a threshold does not flap.
    What the other tier can lend puts off an order: slots are lent at once, a card is not.
    Replicas that are starting are part of `replicas_target` and count as capacity to come, so one
    burst is answered once. The count never falls below what runs, and to zero only when `to_zero`
    allows it and not even one request is likely within the time that a start takes.

    Missing reports, or ones older than `stale_after_s`, never read as zero: unless every running
    replica reports, the count may rise but not fall.
    """
    fresh = [r for r in reports if r.age_s <= law.stale_after_s and r.slots > 0 and r.typical_s > 0]
    if not fresh:
        return Decision(replicas_target, "no fresh report: hold", held=replicas_running > 0)
    demand = _demand(fresh, lent_load)
    starting = max(0, replicas_target - len(fresh))
    needed = _to_order(demand, law, starting)
    if needed > replicas_target:
        return Decision(needed, demand.reason, inputs=demand.inputs)
    idle = demand.backlog == 0 and demand.arriving_rps * law.start_s < UNLIKELY_REQUESTS
    if to_zero and idle:
        fewer = 0
    else:
        # What was ordered for this very demand is not sent back at once.
        ordered = min(_to_order(demand, law, 0), replicas_target)
        fewer = max(_enough(demand, law, replicas_target), ordered)
    if fewer < replicas_target and len(fresh) < replicas_running:
        missing = replicas_running - len(fresh)
        reason = f"{demand.reason}; missing reports: {missing}, hold"
        return Decision(replicas_target, reason, held=True, inputs=demand.inputs)
    return Decision(fewer, demand.reason, inputs=demand.inputs)


def spare_load(
    reports: Sequence[ReplicaLoad], *, lend_share: float, stale_after_s: float
) -> LentLoad | None:
    """What a tier can lend: the part of its replicas' time that its own arrivals leave, at most
    `lend_share` of it, and nothing while any request of its own waits."""
    fresh = [r for r in reports if r.age_s <= stale_after_s and r.token_s > 0]
    if not fresh or any(report.queue_depth for report in fresh):
        return None
    load = sum(min(lend_share, max(0.0, 1 - report.arriving_load)) for report in fresh)
    return LentLoad(LENT_SURELY * load, fmean(report.token_s for report in fresh))


def _demand(reports: Sequence[ReplicaLoad], lent: LentLoad | None) -> _Demand:
    staying = sorted(reports, key=lambda report: (report.fallback, 1 / report.typical_s))
    speeds = tuple(1 / report.typical_s for report in staying)
    arriving_rps = sum(report.arriving_load / report.typical_s for report in reports)
    running = sum(report.running for report in reports)
    waiting = sum(report.queued_s / report.typical_s for report in reports)
    slots = sum(report.slots for report in reports)
    lent_rps = _lent_rps(reports, lent)
    inputs = {
        "arriving_rps": arriving_rps,
        "capacity_rps": sum(speeds),
        "utilisation": arriving_rps / sum(speeds),
        "running": running,
        "queue_depth": sum(report.queue_depth for report in reports),
        "lent_rps": lent_rps,
        "backlog_requests": running / 2 + waiting,
        "reports": float(len(reports)),
    }
    return _Demand(
        speeds=speeds,
        lent_rps=lent_rps,
        arriving_rps=arriving_rps,
        # What runs is half done on average.
        backlog=running / 2 + waiting,
        slots=slots,
        occupied=_ceil(running / (slots / len(reports))),
        inputs=inputs,
    )


def _lent_rps(reports: Sequence[ReplicaLoad], lent: LentLoad | None) -> float:
    """Typical requests a second that the lender can do: its token against ours."""
    own_token_s = fmean(report.token_s for report in reports)
    if lent is None or not own_token_s:
        return 0.0
    return lent.load / (fmean(r.typical_s for r in reports) * lent.token_s / own_token_s)


def _to_order(demand: _Demand, law: ScalingLaw, starting: int) -> int:
    """Replicas that clear the backlog ahead in time; 0 if it is allowed. One that joins may be the
    slowest card. Those that are starting serve for half of the time ahead: nothing tells when
    they began."""
    serving_rps, slowest_rps = sum(demand.speeds) + demand.lent_rps, min(demand.speeds)
    ahead = demand.backlog + (demand.arriving_rps - serving_rps) * law.start_s
    excess = ahead - _allowed(demand.slots, sum(demand.speeds), law)
    if excess - starting * slowest_rps * law.start_s / 2 <= 0:
        return 0
    missing_rps = demand.arriving_rps + excess / law.drain_within_s - serving_rps
    return len(demand.speeds) + max(_ceil(missing_rps / slowest_rps), 0)


def _enough(demand: _Demand, law: ScalingLaw, replicas_target: int) -> int:
    """The count without those that could go. What is lent does not replace a replica: it comes only
    once the own slots are full, which is where a replica would be ordered again."""
    count = replicas_target
    while count > max(1, demand.occupied):
        kept = demand.speeds[: count - 1]
        left_rps = sum(kept) + (count - 1 - len(kept)) * min(demand.speeds)
        left_slots = demand.slots * (count - 1) / len(demand.speeds)
        ahead = demand.backlog + (demand.arriving_rps - left_rps) * law.start_s
        if demand.arriving_rps > left_rps * law.utilisation_down:
            return count
        if ahead > _allowed(left_slots, left_rps, law) / 2:
            return count
        count -= 1
    return count


def _allowed(slots: float, rps: float, law: ScalingLaw) -> float:
    return law.slots_share * slots / 2 + rps * law.wait_s


def _ceil(replicas: float) -> int:
    return math.ceil(replicas - ROUNDING)
