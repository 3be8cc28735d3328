"""One repetition: a system answers some requests while all others stand still."""

import asyncio
import random
import time
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from loadtest.load.arrivals import times
from loadtest.load.scenario import Poisson
from loadtest.overhead.plan import Level, OpenLoop, Plan
from loadtest.process_cpu import cpu_by_part_s, frozen, machine_busy_s
from loadtest.sse_client import (
    StreamFailure,
    StreamTimes,
    chat_body,
    run_closed_loop,
    run_open_loop,
)
from loadtest.stats import Repetition
from loadtest.systems import MODEL_NAME, System

# After being thawed, a server first does what it missed.
SETTLE_S = 1.0
QUIET_WAIT_S = 10.0
WARM_UP_TOKENS = 8
PROMPT_WORDS = 24
WORDS = ("the", "sea", "and", "a", "ship", "went", "over", "cold", "water", "under", "old", "stars")


@dataclass(frozen=True, slots=True)
class Turn:
    """Of the same round all systems get requests of the same lengths at the same times; one that is
    made again (`attempt` above 0) gets other prompts, which no cache holds."""

    round_number: int
    attempt: int = 0


def repeat(
    system: System, systems: Sequence[System], plan: Plan, level: Level, turn: Turn
) -> Repetition:
    """A warm-up goes first and is not counted. Raises StreamFailure when a request fails."""
    import uvloop

    label = label_of(system, level, turn)
    warm_up = _bodies(
        make_prompts(level.streams, f"{label}/warm-up"), [WARM_UP_TOKENS] * level.streams
    )
    lengths_tokens = level.lengths_tokens(plan.output_tokens, turn.round_number)
    bodies = _bodies(make_prompts(len(lengths_tokens), label), lengths_tokens)
    with frozen(_asleep(system, systems)):
        await_quiet(system, plan)
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                return runner.run(_timed(system, level, warm_up, bodies, turn))
        except ExceptionGroup as group:
            # One request's failure ends the others: the first is what is wrong.
            raise StreamFailure(f"{system.name}: {group.exceptions[0]!r}") from group


def _asleep(system: System, systems: Sequence[System]) -> set[str]:
    return {other.run_id for other in systems} - system.awake


def label_of(system: System, level: Level, turn: Turn) -> str:
    """Another one, of the same length, for a system that shares its server: its prompts would be
    in that server's cache already."""
    return f"{level.name}{'+' if system.beside else '/'}{turn.round_number}.{turn.attempt}"


def await_quiet(system: System, plan: Plan) -> None:
    """Let the server settle, and other programs end; a machine that is never quiet is used."""
    deadline_s = time.monotonic() + QUIET_WAIT_S
    while True:
        before = _CpuReading.take(system)
        time.sleep(SETTLE_S)
        foreign_cores = _CpuReading.take(system).since(before).foreign_s / SETTLE_S
        if foreign_cores <= plan.max_foreign_cores or time.monotonic() >= deadline_s:
            return


async def _timed(
    system: System, level: Level, warm_up: Sequence[bytes], bodies: Sequence[bytes], turn: Turn
) -> Repetition:
    await run_closed_loop(system.chat_url, warm_up, concurrency=level.streams)
    before = _CpuReading.take(system)
    started_s = time.perf_counter()
    streams = await _loaded(system, level, bodies, turn)
    wall_s = time.perf_counter() - started_s
    used = _CpuReading.take(system).since(before)
    counted = streams[level.run_in :]
    return Repetition(
        output_tokens=sum(stream.output_tokens for stream in streams),
        chunks=sum(len(stream.event_s) for stream in streams),
        wall_s=wall_s,
        server_cpu_s=used.server_s,
        client_cpu_s=used.client_s,
        foreign_cores=used.foreign_s / wall_s,
        ttft_s=array("d", (stream.ttft_s for stream in counted)),
        itl_s=array("d", (gap for stream in counted for gap in stream.itl_s)),
        cpu_by_part_s=used.parts_s,
    )


async def _loaded(
    system: System, level: Level, bodies: Sequence[bytes], turn: Turn
) -> list[StreamTimes]:
    if isinstance(level, OpenLoop):
        due_s = arrivals_s(level, turn.round_number)
        return await run_open_loop(system.chat_url, bodies, due_s=due_s)
    return await run_closed_loop(system.chat_url, bodies, concurrency=level.streams)


def arrivals_s(level: OpenLoop, round_number: int) -> list[float]:
    """When the requests of a round come, in seconds from its beginning."""
    dice = random.Random(f"arrivals/{round_number}")
    return list(islice(times(Poisson(rate=level.rate_rps), dice, None), level.requests))


@dataclass(frozen=True, slots=True)
class _CpuReading:
    """CPU seconds used so far, by whom; `parts_s` are the server's own without those beside it."""

    machine_s: float
    server_s: float
    client_s: float
    parts_s: Mapping[str, float]

    @classmethod
    def take(cls, system: System) -> "_CpuReading":
        awake = {run_id: cpu_by_part_s(run_id) for run_id in system.awake}
        server_s = sum(sum(parts_s.values()) for parts_s in awake.values())
        return cls(machine_busy_s(), server_s, time.process_time(), awake[system.run_id])

    def since(self, before: "_CpuReading") -> "_CpuReading":
        return _CpuReading(
            self.machine_s - before.machine_s,
            self.server_s - before.server_s,
            self.client_s - before.client_s,
            {part: s - before.parts_s.get(part, 0.0) for part, s in self.parts_s.items()},
        )

    @property
    def foreign_s(self) -> float:
        return self.machine_s - self.server_s - self.client_s


def idle_cores(system: System, systems: Sequence[System], seconds: float = 5.0) -> float:
    """Cores that a server without requests uses."""
    with frozen(_asleep(system, systems)):
        time.sleep(SETTLE_S)
        before = _CpuReading.take(system)
        time.sleep(seconds)
        return _CpuReading.take(system).since(before).server_s / seconds


def make_prompts(requests: int, label: str) -> list[str]:
    """Prompts of the same length that no other label has: nothing is found cached."""
    dice = random.Random(label)
    return [
        f"Letter {number} of {label}: " + " ".join(dice.choices(WORDS, k=PROMPT_WORDS))
        for number in range(requests)
    ]


def _bodies(prompts: Sequence[str], lengths_tokens: Sequence[int]) -> list[bytes]:
    return [
        chat_body(MODEL_NAME, prompt, output_tokens=tokens)
        for prompt, tokens in zip(prompts, lengths_tokens, strict=True)
    ]
