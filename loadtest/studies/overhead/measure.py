"""One alternating run: in each round every system answers some requests at every level, while all
others stand still; figures of repetitions, and intervals of comparisons."""

import asyncio
import contextlib
import random
import statistics
import time
from array import array
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from loadtest.client.chat import Client, chat_body, open_session
from loadtest.client.record import Record
from loadtest.errors import MeasurementError
from loadtest.load.arrivals import times
from loadtest.load.run import on_own_loop
from loadtest.report.statistics import Estimate, bootstrap
from loadtest.scenario import Poisson
from loadtest.servers.processes import cpu_by_part_s, frozen, machine_busy_s
from loadtest.servers.systems import BARE_BESIDE_OURS, MODEL_NAME, OURS_V1, System
from loadtest.studies.overhead.plan import Level, OpenLoop, Plan

REQUEST_TIMEOUT_S = 300.0
# After being thawed, a server first does what it missed.
SETTLE_S = 1.0
QUIET_WAIT_S = 10.0
WARM_UP_TOKENS = 8
PROMPT_WORDS = 24
_MARKS_OF_SHARED_SERVERS = {BARE_BESIDE_OURS: "+", OURS_V1: "-"}
WORDS = ("the", "sea", "and", "a", "ship", "went", "over", "cold", "water", "under", "old", "stars")


@dataclass(frozen=True, slots=True)
class Repetition:
    """One timed run of one system. `chunks`: events with tokens that the client received;
    `foreign_cores`: CPU used by neither server nor client; `cpu_by_part_s`: the server's, by what
    its processes are (`processes.cpu_by_part_s`)."""

    output_tokens: int
    chunks: int
    wall_s: float
    server_cpu_s: float
    client_cpu_s: float
    foreign_cores: float
    ttft_s: Sequence[float]
    itl_s: Sequence[float]
    cpu_by_part_s: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def tokens_per_s(self) -> float:
        return self.output_tokens / self.wall_s

    @property
    def cpu_s_per_ktoken(self) -> float:
        return self.server_cpu_s / self.output_tokens * 1e3

    @property
    def chunks_per_s(self) -> float:
        return self.chunks / self.wall_s

    @property
    def cpu_s_per_kchunk(self) -> float:
        return self.server_cpu_s / self.chunks * 1e3


Pair = tuple[Repetition, Repetition]


def pooled_ms(repetitions: Sequence[Repetition], field: str, percent: int) -> float:
    values = np.concatenate([np.asarray(getattr(each, field)) for each in repetitions])
    return float(np.percentile(values, percent)) * 1e3


def summary(repetitions: Sequence[Repetition]) -> dict[str, float]:
    """The results file's row: rates are medians of repetitions, latencies are pooled."""
    return {
        "tokens_per_s": round(statistics.median(r.tokens_per_s for r in repetitions), 1),
        "ttft_p50_ms": round(pooled_ms(repetitions, "ttft_s", 50), 2),
        "ttft_p95_ms": round(pooled_ms(repetitions, "ttft_s", 95), 2),
        "itl_p50_ms": round(pooled_ms(repetitions, "itl_s", 50), 2),
        "cpu_s_per_ktoken": round(statistics.median(r.cpu_s_per_ktoken for r in repetitions), 3),
    }


def cpu_s_per_ktoken_by_part(repetitions: Sequence[Repetition]) -> dict[str, float]:
    """Medians of the repetitions."""
    parts = sorted({part for each in repetitions for part in each.cpu_by_part_s})
    return {
        part: round(
            statistics.median(
                each.cpu_by_part_s.get(part, 0.0) / each.output_tokens * 1e3 for each in repetitions
            ),
            4,
        )
        for part in parts
    }


def rate_ratio(pairs: Sequence[Pair], rate: str = "tokens_per_s") -> float:
    """Median of `other / base` over the pairs: drift of the machine cancels within a pair."""
    return statistics.median(getattr(other, rate) / getattr(base, rate) for base, other in pairs)


def added_ms(pairs: Sequence[Pair], field: str, percent: int) -> float:
    """Difference of the percentiles that `summary` gives for the two systems."""
    base, other = zip(*pairs, strict=True)
    return pooled_ms(other, field, percent) - pooled_ms(base, field, percent)


def estimate(pairs: Sequence[Pair], statistic: Callable[[Sequence[Pair]], float]) -> Estimate:
    """Bootstrap over pairs: the requests of one repetition are not independent."""

    def of_each(picks: Any) -> list[float]:
        return [statistic([pairs[place] for place in row]) for row in picks.tolist()]

    return Estimate.of(statistic(pairs), bootstrap(len(pairs), of_each))


Round = Mapping[str, Repetition]


@dataclass(slots=True)
class Measured:
    """Rounds by level, repetitions of a round by system. `disturbed` counts repetitions that were
    thrown away since other programs used the machine; `idle_cores` is by system."""

    rounds: dict[str, list[Round]] = field(default_factory=dict[str, list[Round]])
    disturbed: int = 0
    idle_cores: dict[str, float] = field(default_factory=dict[str, float])

    def repetitions(self, level: str, system: str) -> list[Repetition]:
        return [repetitions[system] for repetitions in self.rounds[level]]

    def pairs(self, level: str, base: str, other: str) -> list[Pair]:
        return [(repetitions[base], repetitions[other]) for repetitions in self.rounds[level]]


def measure(
    systems: Sequence[System],
    plan: Plan,
    numbers: Sequence[int],
    measured: Measured,
    on_repetition: Callable[[Level, System, Repetition], None],
) -> None:
    """Measure the rounds of these numbers; `measured` is filled on the way, so that an
    interrupted run leaves its whole rounds."""
    for system in systems:
        measured.idle_cores[system.name] = idle_cores(system, systems)
    for number in numbers:
        for level in plan.levels:
            done: dict[str, Repetition] = {}
            for system in in_order(systems, number):
                done[system.name] = _undisturbed(system, systems, plan, level, number, measured)
                on_repetition(level, system, done[system.name])
            measured.rounds.setdefault(level.name, []).append(done)


def in_order(systems: Sequence[System], round_number: int) -> list[System]:
    """The order turns by one place each second round and is reversed each second one: in twice as
    many rounds as there are systems each has had each place twice, and steady drift cancels."""
    shift = round_number // 2 % len(systems)
    turned = [*systems[shift:], *systems[:shift]]
    return turned if round_number % 2 == 0 else turned[::-1]


def _undisturbed(
    system: System,
    systems: Sequence[System],
    plan: Plan,
    level: Level,
    round_number: int,
    measured: Measured,
) -> Repetition:
    """A repetition that others left alone; on a machine that is never quiet, one all the same."""
    attempt = 0
    while True:
        repetition = repeat(system, systems, plan, level, Turn(round_number, attempt))
        calm = repetition.foreign_cores <= plan.max_foreign_cores
        if calm or measured.disturbed >= plan.max_repeats:
            return repetition
        measured.disturbed += 1
        attempt += 1


@dataclass(frozen=True, slots=True)
class Turn:
    """Of the same round all systems get requests of the same lengths at the same times; one that is
    made again (`attempt` above 0) gets other prompts, which no cache holds."""

    round_number: int
    attempt: int = 0


def repeat(
    system: System, systems: Sequence[System], plan: Plan, level: Level, turn: Turn
) -> Repetition:
    """A warm-up goes first and is not counted. Raises MeasurementError when a request fails."""
    label = label_of(system, level, turn)
    warm_up = _bodies(
        make_prompts(level.streams, f"{label}/warm-up"), [WARM_UP_TOKENS] * level.streams
    )
    lengths_tokens = level.lengths_tokens(plan.output_tokens, turn.round_number)
    bodies = _bodies(make_prompts(len(lengths_tokens), label), lengths_tokens)
    with frozen(_asleep(system, systems)):
        await_quiet(system, plan)
        try:
            return on_own_loop(_timed(system, level, warm_up, bodies, turn))
        except ExceptionGroup as group:
            # One request's failure ends the others: the first is what is wrong.
            raise MeasurementError(f"{system.name}: {group.exceptions[0]!r}") from group


def _asleep(system: System, systems: Sequence[System]) -> set[str]:
    return {other.run_id for other in systems} - system.awake


def label_of(system: System, level: Level, turn: Turn) -> str:
    """Another one, of the same length, for a system that shares its server: its prompts would be
    in that server's cache already."""
    mark = _MARKS_OF_SHARED_SERVERS.get(system.name, "/")
    return f"{level.name}{mark}{turn.round_number}.{turn.attempt}"


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
        output_tokens=sum(stream.output_tokens or 0 for stream in streams),
        chunks=sum(len(stream.token_s) for stream in streams),
        wall_s=wall_s,
        server_cpu_s=used.server_s,
        client_cpu_s=used.client_s,
        foreign_cores=used.foreign_s / wall_s,
        ttft_s=array("d", (stream.ttft_s or 0.0 for stream in counted)),
        itl_s=array("d", (gap for stream in counted for gap in stream.itl_s)),
        cpu_by_part_s=used.parts_s,
    )


async def _loaded(
    system: System, level: Level, bodies: Sequence[bytes], turn: Turn
) -> list[Record]:
    if isinstance(level, OpenLoop):
        due_s = arrivals_s(level, turn.round_number)
        return await run_open_loop(system.chat_url, bodies, due_s=due_s)
    return await run_closed_loop(system.chat_url, bodies, concurrency=level.streams)


def arrivals_s(level: OpenLoop, round_number: int) -> list[float]:
    """When the requests of a round come, in seconds from its beginning."""
    rng = random.Random(f"arrivals/{round_number}")
    return list(islice(times(Poisson(rate=level.rate_rps), rng, None), level.requests))


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
    rng = random.Random(label)
    return [
        f"Letter {number} of {label}: " + " ".join(rng.choices(WORDS, k=PROMPT_WORDS))
        for number in range(requests)
    ]


def _bodies(prompts: Sequence[str], lengths_tokens: Sequence[int]) -> list[bytes]:
    return [
        chat_body(MODEL_NAME, prompt, output_tokens=tokens)
        for prompt, tokens in zip(prompts, lengths_tokens, strict=True)
    ]


async def run_closed_loop(url: str, bodies: Sequence[bytes], *, concurrency: int) -> list[Record]:
    """Send all bodies, `concurrency` at a time; the first error ends the run. In their order."""
    records = [_record(number) for number in range(len(bodies))]
    waiting = iter(zip(records, bodies, strict=True))

    async def one_client(client: Client) -> None:
        for record, body in waiting:
            await _complete(client, url, body, record)

    async with _client() as client, asyncio.TaskGroup() as clients:
        for _ in range(concurrency):
            clients.create_task(one_client(client))
    return records


async def run_open_loop(
    url: str, bodies: Sequence[bytes], *, due_s: Sequence[float]
) -> list[Record]:
    """Send each body at its time, in seconds from now, whatever the others do; the first error
    ends the run. A request counts as sent when it was due: no delay of the client is hidden."""
    records = [_record(number) for number in range(len(bodies))]
    started_s = time.perf_counter()

    async def one_request(client: Client, record: Record, body: bytes, at_s: float) -> None:
        await asyncio.sleep(max(0.0, at_s - time.perf_counter()))
        await _complete(client, url, body, record)
        record.sent_s = at_s

    async with _client() as client, asyncio.TaskGroup() as requests:
        for record, body, at_s in zip(records, bodies, due_s, strict=True):
            requests.create_task(one_request(client, record, body, started_s + at_s))
    return records


@contextlib.asynccontextmanager
async def _client() -> AsyncIterator[Client]:
    async with open_session(REQUEST_TIMEOUT_S, keep_alive=True) as session:
        yield Client(session, time.perf_counter)


def _record(number: int) -> Record:
    return Record(number, 0, "", 0.0, 0, 0)


async def _complete(client: Client, url: str, body: bytes, record: Record) -> None:
    """A complete stream with its usage, or no measurement is made of it."""
    await client.stream(url, body, record)
    if not record.served:
        raise MeasurementError(f"{url}: {record.reason} {record.detail}")
    if record.tokens_from != "usage":
        raise MeasurementError(f"{url} ended its stream without usage")
