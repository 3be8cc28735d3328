"""One simulated run: a trace, a cluster and a policy; what became of the requests, and the cost."""

import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from loadtest.simulation.arrivals import TIERS
from loadtest.simulation.cell import Cell, cell_of
from loadtest.simulation.fleet import Fleet
from loadtest.simulation.outcome import Change, Moment, SimulationOutcome
from loadtest.simulation.recorder import Recorder
from loadtest.simulation.replica import Clock, SimulatedReplica
from loadtest.simulation.setup import Setup, tier_plan
from loadtest.simulation.sim_request import SimRequest
from loadtest.simulation.tier_state import TierState
from loadtest.simulation.trace import Trace
from serve_app.core.tiers import Tier

# How often the policy decides; in longer runs less often, which saves more than it changes.
TICK_S = 0.5
LONG_TICK_S = 1.0
LONG_RUN_S = 4 * 3600.0
MOMENTS = 480
# Of the columns, as many become Python objects at a time.
ROWS = 65_536


class GivenUp(Exception):
    """The run was not played to its end: it is beyond its bounds."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """A run that has taken more GPU-hours, or of whose requests a larger share than `bad` has
    missed the SLO, is of no use to a search and is given up."""

    gpu_hours: float = math.inf
    bad: float = 1.0


class Policy(Protocol):
    def targets(self, tiers: Mapping[Tier, TierState], now_s: float) -> Mapping[Tier, float]:
        """Each tier's target at this tick, in replicas of the fleet. A policy with a mapping
        `reasons` by tier has them written down with its changes. One that sees the fleet in parts
        of `unit` replicas begins with one part of each tier: less than that reports nothing."""
        ...


def simulate(trace: Trace, setup: Setup, policy: Policy) -> SimulationOutcome:
    """Run the whole trace, or a cell of it. GPUs are counted while they are allocated, until the
    last arrival; the requests are followed to their ends."""
    return simulate_cell(cell_of(trace, setup), setup, policy)


def simulate_cell(
    cell: Cell, setup: Setup, policy: Policy, bounds: Bounds | None = None
) -> SimulationOutcome:
    """As `simulate`, for a cell that is at hand already. Raises GivenUp."""
    fleet = _fleet(cell, setup, least=getattr(policy, "unit", 1.0))
    run = _Run(cell, setup, policy, fleet, bounds)
    run.arrivals()
    run.rest()
    return run.outcome()


def _fleet(cell: Cell, setup: Setup, *, least: float) -> Fleet:
    present = sorted({int(code) for code in set(cell.arrivals.tier)})
    tiers = {TIERS[code]: TierState(tier_plan(TIERS[code], setup), cell.weight) for code in present}
    fleet = Fleet(
        tiers=tiers,
        free_gpus=Counter(cell.gpus),
        clock=Clock(),
        recorder=Recorder(setup.max_wait_s),
        min_drain_s=setup.min_drain_s,
        retries=setup.retries,
        rng=random.Random(setup.seed),
    )
    for tier, state in tiers.items():
        state.target = max(setup.minimum, setup.initial.get(tier, 0), least)
        fleet.reconcile(tier, 0.0, at_once=True)
    return fleet


@dataclass(slots=True)
class _Run:
    cell: Cell
    setup: Setup
    policy: Policy
    fleet: Fleet
    bounds: Bounds | None = None
    changes: list[Change] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)
    _seen: dict[Tier, tuple[int, int]] = field(default_factory=dict)

    def arrivals(self) -> None:
        """Until the last request has come."""
        fleet, duration_s = self.fleet, self.cell.arrivals.duration_s
        tick_s = LONG_TICK_S if duration_s > LONG_RUN_S else TICK_S
        every = max(1, round(duration_s / MOMENTS / tick_s))
        coming = self._requests()
        upcoming = next(coming, None)
        now_s, tick = 0.0, 0
        while upcoming is not None:
            self._decide(now_s)
            if tick % every == 0:
                self._look(now_s)
                self._check()
            fleet.count_allocated(max(0.0, min(tick_s, duration_s - now_s)))
            tick += 1
            now_s = tick * tick_s
            while upcoming is not None and upcoming.arrival_s < now_s:
                fleet.advance(upcoming.arrival_s)
                fleet.recorder.arrived[upcoming.tier] += 1
                fleet.arrive(upcoming, upcoming.arrival_s)
                upcoming = next(coming, None)
            fleet.advance(now_s)

    def rest(self) -> None:
        """Until all that has come has ended; the targets stay."""
        now_s = self.fleet.clock.now_s
        while self.fleet.busy:
            now_s += TICK_S
            self.fleet.advance(now_s)
            for tier in self.fleet.tiers:
                self.fleet.reconcile(tier, now_s)

    def outcome(self) -> SimulationOutcome:
        fleet, weight = self.fleet, self.cell.weight
        duration_s = self.cell.arrivals.duration_s
        gpu_s = {gpu_type: fleet.allocated_s[gpu_type] * weight for gpu_type in self.setup.gpus}
        prices = {
            gpu_type: self.setup.profiles[gpu_type].price_usd_per_hour
            for gpu_type in self.setup.gpus
        }
        return SimulationOutcome(
            duration_s=duration_s,
            ended_s=max(duration_s, fleet.recorder.ended_s),
            tiers={
                tier: fleet.recorder.outcome(
                    tier,
                    self.setup.slo(tier),
                    weight=weight,
                    duration_s=duration_s,
                    preempted=fleet.preempted(tier),
                )
                for tier in fleet.tiers
            },
            gpu_s=gpu_s,
            busy_s={
                gpu_type: fleet.recorder.busy_s[gpu_type] * weight for gpu_type in self.setup.gpus
            },
            cost_usd={
                gpu_type: gpu_s[gpu_type] / 3600 * price.value
                for gpu_type, price in prices.items()
                if price
            },
            changes=tuple(self.changes),
            timeline=tuple(self.moments),
            weight=weight,
            simulated_requests=len(self.cell.arrivals),
        )

    def _requests(self) -> Iterator[SimRequest]:
        columns, number = self.cell.arrivals, 0
        for start in range(0, len(columns), ROWS):
            part = slice(start, start + ROWS)
            rows = zip(
                columns.tier[part].tolist(),
                columns.arrival_s[part].tolist(),
                columns.prompt_tokens[part].tolist(),
                columns.new_tokens[part].tolist(),
                columns.limit[part].tolist(),
                strict=True,
            )
            for tier, arrival_s, prompt_tokens, new_tokens, limit in rows:
                number += 1
                yield SimRequest(number, TIERS[tier], arrival_s, prompt_tokens, new_tokens, limit)

    def _decide(self, now_s: float) -> None:
        fleet = self.fleet
        targets = self.policy.targets(fleet.tiers, now_s)
        reasons: Mapping[Tier, str] = getattr(self.policy, "reasons", {})
        for tier, target in targets.items():
            state = fleet.tiers[tier]
            if target != state.target:
                self.changes.append(Change(now_s, tier, round(target), reasons.get(tier, "")))
                state.target = target
            fleet.reconcile(tier, now_s)

    def _check(self) -> None:
        """Raises GivenUp. A little beyond counts as within: a search breaks ties by the rest."""
        if self.bounds is None:
            return
        recorder, setup = self.fleet.recorder, self.setup
        gpu_hours = sum(self.fleet.allocated_s.values()) * self.cell.weight / 3600
        bad = sum(recorder.bad_of(tier, setup.slo(tier)) for tier in self.fleet.tiers)
        allowed = self.bounds.bad * len(self.cell.arrivals)
        if gpu_hours > self.bounds.gpu_hours * (1 + 1e-9) or bad > allowed + 1:
            raise GivenUp

    def _look(self, now_s: float) -> None:
        if self.setup.seen is not None:
            self.setup.seen(now_s / max(self.cell.arrivals.duration_s, 1e-9))
        for tier, state in self.fleet.tiers.items():
            arrived = self.fleet.recorder.arrived[tier]
            refused = self.fleet.recorder.refused_of(tier)
            before = self._seen.get(tier, (0, 0))
            self._seen[tier] = (arrived, refused)
            weight = self.cell.weight
            self.moments.append(
                Moment(
                    at_s=now_s,
                    tier=tier,
                    serving=_by_gpu_type(state.serving, weight),
                    held=_by_gpu_type(state.replicas, weight),
                    running=round(state.running * weight),
                    queued=round(state.queue_depth * weight),
                    arrived=round((arrived - before[0]) * weight),
                    refused=round((refused - before[1]) * weight),
                )
            )


def _by_gpu_type(replicas: Iterable[SimulatedReplica], weight: float) -> dict[str, int]:
    sizes: dict[str, float] = {}
    for replica in replicas:
        sizes[replica.gpu_type] = sizes.get(replica.gpu_type, 0.0) + replica.size
    return {gpu_type: round(size * weight) for gpu_type, size in sizes.items()}
