"""Open-loop load on one simulated replica, and what became of the gate's promises.

The whole grid, some minutes: `python -m tests.loadtest.simulation.gate_promise`.
"""

import math
import random
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from loadtest.simulation.fleet import Fleet
from loadtest.simulation.recorder import Recorder
from loadtest.simulation.replica import Clock, SimulatedReplica
from loadtest.simulation.setup import Setup, tier_plan
from loadtest.simulation.sim_request import SimRequest
from loadtest.simulation.tier_state import TierState
from serve_app.core.tiers import DEFAULT_MAX_NEW_TOKENS, Tier

MAX_WAIT_S = 10.0
# A step with a whole chunk of prompts and all slots busy, on the slowest GPU.
STEP_S = 0.35
# Of the load's duration, the first part is the way to its level.
SETTLED_FROM = 0.4
# Times in which every slot has had its turn.
TURNS = 12

Mix = Callable[[random.Random], tuple[int, int]]


def fixed(prompt_tokens: int, new_tokens: int) -> Mix:
    return lambda _: (prompt_tokens, new_tokens)


def log_uniform(least: int, most: int) -> Mix:
    def draw(rng: random.Random) -> int:
        return round(math.exp(rng.uniform(math.log(least), math.log(most))))

    return lambda rng: (draw(rng), draw(rng))


def uniform(most_prompt_tokens: int, most_new_tokens: int) -> Mix:
    """From 10 on."""
    return lambda rng: (rng.randint(10, most_prompt_tokens), rng.randint(10, most_new_tokens))


def tiny_and_huge(huge_share: float, new_tokens: int) -> Mix:
    return lambda rng: (4000 if rng.random() < huge_share else 20, new_tokens)


def exponential(prompt_tokens: int, new_tokens: int) -> Mix:
    def draw(rng: random.Random, mean: int) -> int:
        return max(10, min(4000, round(rng.expovariate(1 / mean))))

    return lambda rng: (draw(rng, prompt_tokens), draw(rng, new_tokens))


@dataclass(slots=True)
class Kept:
    """`in_time`: share of the admitted with their first token within the longest wait and a step,
    or twice that if they came back; `within_wait`: of all within the one. `honest`: share of the
    refused who got in when they came back, None where none was refused. `good_share`: of the
    replica's time, what requests in time took."""

    admitted: int
    in_time: float
    within_wait: float
    refused: int
    honest: float | None
    good_share: float


@dataclass(slots=True)
class _Log(Recorder):
    rows: list[SimRequest] = field(default_factory=list[SimRequest])
    refused_again: int = 0

    def served(self, request: SimRequest, now_s: float) -> None:
        Recorder.served(self, request, now_s)
        assert request.place is not None
        self.rows.append(request)

    def refused(self, request: SimRequest, reason: str) -> None:
        Recorder.refused(self, request, reason)
        self.refused_again += 1


def play(
    mix: Mix, load: float, *, gpu: str = "T4", longest_answer: int = 1024, seed: int = 0,
    most_requests: int = 4000, max_wait_s: float = MAX_WAIT_S, slots: int | None = None,
) -> Kept:  # fmt: skip
    """So many times what the replica can do; the refused retry once, after their Retry-After.
    The tier's limit of new tokens decides on the slots, as the server has it."""
    setup = Setup(gpus={gpu: 1}, retries=1, max_wait_s=max_wait_s, weight=1, slots=slots)
    if slots is None and longest_answer > DEFAULT_MAX_NEW_TOKENS[Tier.CHAT]:
        kv_tokens = int(setup.profiles[gpu].kv_tokens.value)
        setup = Setup(
            gpus={gpu: 1}, retries=1, max_wait_s=max_wait_s, weight=1,
            slots=kv_tokens // (512 + longest_answer),
        )  # fmt: skip
    log = _Log(max_wait_s)
    state = TierState(tier_plan(Tier.CHAT, setup), 1)
    state.target = 1
    fleet = Fleet({Tier.CHAT: state}, Counter({gpu: 1}), Clock(), log, retries=1)
    fleet.reconcile(Tier.CHAT, 0.0, at_once=True)
    capacity_rps, capacity_at_once = capacity_of(mix, state.replicas[0])
    turn_s = capacity_at_once / capacity_rps
    duration_s = min(max(60.0, TURNS * turn_s), most_requests / (load * capacity_rps))
    rng, now_s, number = random.Random(seed), 0.0, 0
    while now_s < duration_s:
        now_s += rng.expovariate(load * capacity_rps)
        number += 1
        fleet.advance(now_s)
        log.arrived[Tier.CHAT] += 1
        request = SimRequest(number, Tier.CHAT, now_s, *mix(rng), longest_answer)
        fleet.arrive(request, now_s)
    while fleet.busy:
        fleet.advance(fleet.clock.now_s + 0.5)
    return _kept(log, duration_s, capacity_at_once, max_wait_s)


def capacity_of(mix: Mix, replica: SimulatedReplica) -> tuple[float, int]:
    """Requests a second, and how many at once: as many as the KV pool holds."""
    rng = random.Random(1)
    drawn = [mix(rng) for _ in range(1000)]
    tokens = sum(new for _, new in drawn)
    held = sum((prompt + new / 2) * new for prompt, new in drawn) / tokens
    at_once = max(1, min(replica.gate.limits.slots, int(replica.gate.limits.kv_tokens / held)))
    work_s = sum(replica.engine.work_s(*one, at_once) for one in drawn) / len(drawn)
    return 1 / work_s, at_once


def _kept(log: _Log, duration_s: float, at_once: int, max_wait_s: float) -> Kept:
    in_time = back = within_wait = 0
    good_s = 0.0
    from_s = SETTLED_FROM * duration_s
    for request in log.rows:
        place, runner = request.place, request.runner
        assert place is not None
        assert runner is not None
        assert request.first_token_s is not None
        returned = request.attempts > 0
        took_s = request.first_token_s - place.entered_s
        kept = took_s <= max_wait_s * (2 if returned else 1) + STEP_S
        in_time += kept
        within_wait += took_s <= max_wait_s + STEP_S
        if kept and from_s < request.first_token_s <= duration_s:
            good_s += runner.engine.work_s(request.prompt_tokens, request.new_tokens, at_once)
        back += returned
    refused = back + log.refused_again
    return Kept(
        admitted=len(log.rows),
        in_time=in_time / max(1, len(log.rows)),
        within_wait=within_wait / max(1, len(log.rows)),
        refused=refused,
        honest=back / refused if refused else None,
        good_share=good_s / (duration_s - from_s),
    )


# By name: the mix, and the tier's limit of new tokens.
MIXES: dict[str, tuple[Mix, int]] = {
    "10 / 10": (fixed(10, 10), 1024),
    "10 / 400": (fixed(10, 400), 1024),
    "10 / 4000": (fixed(10, 4000), 4000),
    "500 / 300, exponential": (exponential(500, 300), 4000),
    "2000 / 15": (fixed(2000, 15), 1024),
    "2000 / 50, exponential": (exponential(2000, 50), 1024),
    "2000 / 400": (fixed(2000, 400), 1024),
    "4000 / 10": (fixed(4000, 10), 1024),
    "4000 / 4000": (fixed(4000, 4000), 4000),
    "20 or 4000 / 50": (tiny_and_huge(0.05, 50), 1024),
    "20 or 4000 / 200": (tiny_and_huge(0.3, 200), 1024),
    "10 to 1000 / 10 to 1000": (log_uniform(10, 1000), 1024),
    "10 to 4000 / 10 to 4000": (log_uniform(10, 4000), 4000),
}


HEAD = "prompt / answer          load in time  within  honest goodput, of that at 1.0\n"


def main() -> None:
    sys.stdout.write(HEAD)
    for name, (mix, longest_answer) in MIXES.items():
        at_capacity: Kept | None = None
        for load in (1.0, 0.5, 1.5, 2.0, 3.0):
            kept = play(mix, load, longest_answer=longest_answer, most_requests=20_000)
            at_capacity = at_capacity or kept
            honest = "" if kept.honest is None else f"{kept.honest:.1%}"
            share = kept.good_share / at_capacity.good_share
            times = f"{kept.in_time:7.2%} {kept.within_wait:7.2%}"
            sys.stdout.write(f"{name:24s} {load:4g} {times} {honest:>7s} {share:7.1%}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
