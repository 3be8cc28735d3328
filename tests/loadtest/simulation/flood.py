"""Several flows at one simulated replica, and what each of them gets.

Light keys alone, beside another load, and beside a flood, some minutes:
`python -m tests.loadtest.simulation.flood`.
"""

import random
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import merge

import numpy as np

from loadtest.simulation.fleet import Fleet
from loadtest.simulation.recorder import Recorder
from loadtest.simulation.replica import Clock
from loadtest.simulation.setup import Setup, tier_plan
from loadtest.simulation.sim_request import SimRequest
from loadtest.simulation.tier_state import TierState
from serve_app.core.admission.capacity import express_slots
from serve_app.core.admission.fairness import Flow
from serve_app.core.tiers import Tier
from tests.loadtest.simulation.gate_promise import (
    MAX_WAIT_S,
    Mix,
    capacity_of,
    exponential,
    fixed,
    log_uniform,
)

TURNS = 30
# Of the load's duration, the first part is the way to its level.
SETTLED_FROM = 0.2


@dataclass(frozen=True, slots=True)
class FlowLoad:
    """`load` is in times of what the whole replica can do of such requests."""

    flow: Flow
    load: float
    mix: Mix


@dataclass(slots=True)
class FlowOutcome:
    """TTFT of those whose client did not have to come back, in seconds. `honest`: share of the
    refused who got in when they came back, None where none was refused. `work_s`: what was done."""

    ttft_s: list[float] = field(default_factory=list[float])
    tpot_s: list[float] = field(default_factory=list[float])
    served: int = 0
    back: int = 0
    refused: int = 0
    refused_again: int = 0
    in_time: int = 0
    work_s: float = 0.0
    duration_s: float = 0.0

    @property
    def honest(self) -> float | None:
        ended = self.back + self.refused_again
        return self.back / ended if ended else None

    def p(self, percent: float) -> float:
        return float(np.percentile(self.ttft_s, percent)) if self.ttft_s else float("nan")


@dataclass(slots=True)
class _Log(Recorder):
    by_flow: dict[str, FlowOutcome] = field(default_factory=dict[str, FlowOutcome])
    from_s: float = 0.0
    until_s: float = 0.0

    def served(self, request: SimRequest, now_s: float) -> None:
        Recorder.served(self, request, now_s)
        own, place, runner = self.by_flow[request.flow.name], request.place, request.runner
        assert place is not None
        assert runner is not None
        assert request.first_token_s is not None
        if self.from_s <= now_s <= self.until_s:
            own.work_s += runner.engine.work_s(
                request.prompt_tokens, request.new_tokens, runner.gate.limits.slots
            )
        if not self.from_s <= request.arrival_s <= self.until_s:
            return
        own.served += 1
        own.back += request.attempts > 0
        ttft_s = request.first_token_s - place.entered_s
        own.in_time += ttft_s <= MAX_WAIT_S * (2 if request.attempts else 1) + 0.35
        own.tpot_s.append((now_s - request.first_token_s) / max(1, request.new_tokens - 1))
        if request.attempts == 0:
            own.ttft_s.append(ttft_s)

    def retried(self, request: SimRequest) -> None:
        Recorder.retried(self, request)
        self.by_flow[request.flow.name].refused += 1

    def refused(self, request: SimRequest, reason: str) -> None:
        Recorder.refused(self, request, reason)
        own = self.by_flow[request.flow.name]
        if request.attempts:
            own.refused_again += 1
        else:
            own.refused += 1


def play(
    loads: Sequence[FlowLoad],
    *,
    gpu: str = "T4",
    slots: int | None = None,
    express: int | None = None,
    longest_answer: int = 1024,
    duration_s: float = 0.0,
    retries: int = 1,
    seed: int = 0,
) -> dict[str, FlowOutcome]:
    """Open loops; the refused come back once, after their Retry-After."""
    setup = Setup(gpus={gpu: 1}, retries=retries, max_wait_s=MAX_WAIT_S, weight=1, slots=slots)
    state = TierState(tier_plan(Tier.CHAT, setup), 1)
    state.target = 1
    log = _Log(MAX_WAIT_S)
    fleet = Fleet({Tier.CHAT: state}, Counter({gpu: 1}), Clock(), log, retries=retries)
    fleet.reconcile(Tier.CHAT, 0.0, at_once=True)
    replica = state.replicas[0]
    limits = replica.gate.limits
    limits.express_slots = express_slots(limits.slots) if express is None else express
    duration_s = duration_s or max(
        120.0,
        *(
            TURNS * at_once / rps
            for rps, at_once in (capacity_of(one.mix, replica) for one in loads)
        ),
    )
    log.from_s, log.until_s = SETTLED_FROM * duration_s, duration_s
    log.by_flow = {one.flow.name: FlowOutcome(duration_s=duration_s) for one in loads}
    streams = [
        _requests(one, capacity_of(one.mix, replica)[0], duration_s, longest_answer, seed)
        for one in loads
    ]
    arrivals = merge(*streams, key=lambda request: request.arrival_s)
    for number, request in enumerate(arrivals, start=1):
        request.number = number
        fleet.advance(request.arrival_s)
        log.arrived[Tier.CHAT] += 1
        fleet.arrive(request, request.arrival_s)
    while fleet.busy:
        fleet.advance(fleet.clock.now_s + 0.5)
    return log.by_flow


def _requests(
    one: FlowLoad, capacity_rps: float, duration_s: float, limit: int, seed: int
) -> list[SimRequest]:
    rng, now_s, requests = random.Random(f"{seed} {one.flow.name}"), 0.0, []
    while (now_s := now_s + rng.expovariate(one.load * capacity_rps)) < duration_s:
        requests.append(SimRequest(0, Tier.CHAT, now_s, *one.mix(rng), limit, one.flow))
    return requests


LIGHT, FLOOD, ALL = Flow("light"), Flow("flood"), Flow("")
# By name: what the light key asks for, and the flood.
MIXES: dict[str, tuple[Mix, Mix]] = {
    "100 / 400": (exponential(100, 400), exponential(100, 400)),
    "100 / 400 beside 2000 / 15": (exponential(100, 400), fixed(2000, 15)),
    "10 / 50 beside 500 / 300": (fixed(10, 50), exponential(500, 300)),
    "10 to 1000 / 10 to 1000": (log_uniform(10, 1000), log_uniform(10, 1000)),
    "100 / 400, all of one length": (fixed(100, 400), fixed(100, 400)),
}
HEAD = (
    "light beside                  GPU     alone beside 0.95 one queue | flood no express express |"
    " refused, honest flood, work\n"
)


def main() -> None:
    sys.stdout.write(HEAD)
    for gpu in ("T4", "RTX4090"):
        for name, (light, flood) in MIXES.items():
            sys.stdout.write(f"{name:29s} {gpu:8s}{_row(gpu, light, flood)}\n")
            sys.stdout.flush()


def _row(gpu: str, light: Mix, flood: Mix, *, part: float = 0.2, times: float = 20.0) -> str:
    own, seconds = FlowLoad(LIGHT, part, light), 60.0
    flooding = FlowLoad(FLOOD, times, flood)

    def p95(*loads: FlowLoad, express: int | None = None, name: str = "light") -> float:
        played = play(loads, gpu=gpu, express=express, duration_s=seconds, retries=0)
        return played[name].p(95)

    alone, beside = p95(own), p95(own, FlowLoad(FLOOD, 0.95 - part, flood))
    together = play(
        [FlowLoad(ALL, part, light), FlowLoad(Flow("", 1.0), times, flood)],
        gpu=gpu, express=0, duration_s=seconds, retries=0,
    )[""]  # fmt: skip
    without, with_express = p95(own, flooding, express=0), p95(own, flooding)
    kept = play([own, FlowLoad(FLOOD, 3.0, flood)], gpu=gpu, duration_s=seconds)
    work = sum(one.work_s for one in kept.values()) / ((1 - SETTLED_FROM) * seconds)
    return (
        f"{alone:6.3f} {beside:11.3f} {together.p(95):9.3f} | {without:16.3f} {with_express:7.3f} |"
        f" {kept['light'].refused} {kept['flood'].honest or 1:.0%} {work:.0%}"
    )


if __name__ == "__main__":
    main()
