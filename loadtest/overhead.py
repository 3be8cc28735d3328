"""One alternating run: what serving adds to a bare vLLM server, as the client sees it."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from loadtest.process_cpu import frozen, machine_busy_s, server_cpu_s
from loadtest.sse_client import chat_body, run_closed_loop
from loadtest.stats import Pair, Repetition
from loadtest.systems import MODEL_NAME, System

# After being thawed, a server first does what it missed.
SETTLE_S = 1.0
QUIET_WAIT_S = 60.0
WARM_UP_TOKENS = 8
PROMPT_WORDS = 24
WORDS = ("the", "sea", "and", "a", "ship", "went", "over", "cold", "water", "under", "old", "stars")


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured. `requests` is per repetition, by concurrency."""

    rounds: int
    requests: dict[int, int]
    output_tokens: int
    max_foreign_cores: float
    max_repeats: int


@dataclass(slots=True)
class Measured:
    """Pairs by concurrency; `disturbed` counts pairs thrown away since others used the machine."""

    pairs: dict[int, list[Pair]] = field(default_factory=dict)
    disturbed: int = 0
    idle_cores: dict[str, float] = field(default_factory=dict)


def full_plan() -> Plan:
    return Plan(12, {1: 8, 8: 40, 32: 96}, 64, max_foreign_cores=0.15, max_repeats=20)


def quick_plan() -> Plan:
    return Plan(2, {1: 4, 8: 16, 32: 64}, 64, max_foreign_cores=1.0, max_repeats=0)


def measure(
    base: System, other: System, plan: Plan, on_pair: Callable[[int, Pair], None]
) -> Measured:
    """Pairs in the order A B, B A, A B ..., so that drift favours neither."""
    measured = Measured(idle_cores={s.name: idle_cores(s, [base, other]) for s in (base, other)})
    round_number = 0
    while any(len(measured.pairs.get(c, ())) < plan.rounds for c in plan.requests):
        for concurrency in plan.requests:
            if len(measured.pairs.get(concurrency, ())) >= plan.rounds:
                continue
            pair = measure_pair(base, other, plan, concurrency, round_number)
            if is_disturbed(pair, plan) and measured.disturbed < plan.max_repeats:
                measured.disturbed += 1
                continue
            measured.pairs.setdefault(concurrency, []).append(pair)
            on_pair(concurrency, pair)
        round_number += 1
    return measured


def measure_pair(
    base: System, other: System, plan: Plan, concurrency: int, round_number: int
) -> Pair:
    order = (base, other) if round_number % 2 == 0 else (other, base)
    prompts = make_prompts(plan.requests[concurrency], round_number)
    done = {
        system.name: repeat(system, (base, other), plan, concurrency, prompts) for system in order
    }
    return done[base.name], done[other.name]


def is_disturbed(pair: Pair, plan: Plan) -> bool:
    return any(repetition.foreign_cores > plan.max_foreign_cores for repetition in pair)


def repeat(
    system: System,
    systems: Sequence[System],
    plan: Plan,
    concurrency: int,
    prompts: Sequence[str],
) -> Repetition:
    """One repetition: the other servers stand still, a warm-up goes first and is not counted."""
    warm_up = _bodies(make_prompts(concurrency, -1), WARM_UP_TOKENS)
    bodies = _bodies(prompts, plan.output_tokens)
    with frozen(s.run_id for s in systems if s.run_id != system.run_id):
        await_quiet(system, plan)
        return asyncio.run(_timed(system, concurrency, warm_up, bodies))


def await_quiet(system: System, plan: Plan) -> None:
    """Let the server settle, and other programs end; a machine that is never quiet is used."""
    deadline_s = time.monotonic() + QUIET_WAIT_S
    foreign_cores = plan.max_foreign_cores + 1
    while foreign_cores > plan.max_foreign_cores and time.monotonic() < deadline_s:
        before = _CpuReading.take(system)
        time.sleep(SETTLE_S)
        foreign_cores = _CpuReading.take(system).since(before).foreign_s / SETTLE_S


async def _timed(
    system: System, concurrency: int, warm_up: Sequence[bytes], bodies: Sequence[bytes]
) -> Repetition:
    await run_closed_loop(system.chat_url, warm_up, concurrency=concurrency)
    before = _CpuReading.take(system)
    started_s = time.perf_counter()
    streams = await run_closed_loop(system.chat_url, bodies, concurrency=concurrency)
    wall_s = time.perf_counter() - started_s
    used = _CpuReading.take(system).since(before)
    return Repetition(
        output_tokens=sum(stream.output_tokens for stream in streams),
        wall_s=wall_s,
        server_cpu_s=used.server_s,
        client_cpu_s=used.client_s,
        foreign_cores=used.foreign_s / wall_s,
        ttft_s=[stream.ttft_s for stream in streams],
        itl_s=[gap for stream in streams for gap in stream.itl_s],
    )


@dataclass(frozen=True, slots=True)
class _CpuReading:
    """CPU seconds used so far, by whom."""

    machine_s: float
    server_s: float
    client_s: float

    @classmethod
    def take(cls, system: System) -> "_CpuReading":
        return cls(machine_busy_s(), server_cpu_s(system.run_id), time.process_time())

    def since(self, before: "_CpuReading") -> "_CpuReading":
        return _CpuReading(
            self.machine_s - before.machine_s,
            self.server_s - before.server_s,
            self.client_s - before.client_s,
        )

    @property
    def foreign_s(self) -> float:
        return self.machine_s - self.server_s - self.client_s


def idle_cores(system: System, systems: Sequence[System], seconds: float = 5.0) -> float:
    """Cores that a server without requests uses."""
    with frozen(s.run_id for s in systems if s.run_id != system.run_id):
        time.sleep(SETTLE_S)
        before = _CpuReading.take(system)
        time.sleep(seconds)
        return _CpuReading.take(system).since(before).server_s / seconds


def make_prompts(requests: int, round_number: int) -> list[str]:
    """Prompts that no earlier round had, the same for both systems: nothing is found cached."""
    return [
        f"Round {round_number}, letter {number}: "
        + " ".join(
            WORDS[(number * 7 + i * (round_number + 3)) % len(WORDS)] for i in range(PROMPT_WORDS)
        )
        for number in range(requests)
    ]


def _bodies(prompts: Sequence[str], output_tokens: int) -> list[bytes]:
    return [chat_body(MODEL_NAME, prompt, output_tokens=output_tokens) for prompt in prompts]
