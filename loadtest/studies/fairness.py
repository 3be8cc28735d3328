"""`python -m loadtest fairness`: a light key's time to a first token, alone and beside another key.

Three phases take turns, in another order in each round, so that drift of the machine cancels:

| phase | the other key |
|---|---|
| alone | asks nothing |
| busy | has as many streams as fill the batch without a queue (`--busy-streams`) |
| flood | asks at `--flood-times` the rate at which requests are served when it is busy |

What `busy` costs is the batch's, whose steps are longer: no queue can change it. What `flood` costs
beyond it is the queue's, and what refusing takes of the server's CPU. The first phase is `busy`,
which says how much the flood is; where the flood's clients all wait for an answer it is less, and
the table has what it was.
"""

import argparse
import asyncio
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import aiohttp
import numpy as np
from rich.console import Console

from loadtest.client.chat import open_session
from loadtest.client.first_token import first_token_s
from loadtest.errors import MeasurementError
from loadtest.load.run import on_own_loop
from loadtest.options import base_url, natural, not_negative, positive
from loadtest.report.results_file import META, provenance
from loadtest.report.statistics import Estimate, bootstrap
from loadtest.studies.other_key import TIMEOUT_S, OtherCounts, OtherLoad, a_body, other_load

PHASES = ("alone", "busy", "flood")
# Of a phase, the time in which the other key's load comes to its level.
SETTLES_S = 4.0
DESCRIPTION = (__doc__ or "").split("\n\n")[0] + " The service runs with `serve --keys`."


@dataclass(slots=True)
class Phase:
    """What the light key met, and what became of the other one's requests."""

    ttft_s: list[float] = field(default_factory=list[float])
    refused: int = 0
    other: OtherCounts = field(default_factory=OtherCounts)

    def add(self, other: OtherCounts) -> None:
        """Of another round."""
        mine = self.other
        self.other = OtherCounts(
            mine.served + other.served,
            mine.refused + other.refused,
            mine.broken + other.broken,
            mine.seconds + other.seconds,
            mine.cpu_s + other.cpu_s,
        )


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--url", type=base_url, default="http://127.0.0.1:8000/api/chat/v1", help="OpenAI base URL")
    add("--light-key", required=True, help="the key whose first tokens are measured")
    add("--flood-key", required=True, help="the other one; neither may reach a quota")
    add("--rate", type=not_negative, default=3.0, help="requests a second of the light key")
    add("--busy-streams", type=positive, default=28, help="streams that fill the batch, not more")
    add("--flood-clients", type=positive, default=120, help="clients of the flood")
    add("--flood-times", type=positive, default=20, help="times the capacity, the most it asks")
    add("--flood-niceness", type=natural, default=10, help="of the process that asks for it")
    add("--output-tokens", type=positive, default=40, help="mean length of the answers")
    add("--phase-s", type=positive, default=20, help="seconds of each phase that count")
    add("--rounds", type=positive, default=2, help="how often each phase is run")
    add("--json", type=Path, metavar="FILE", help="also write what was measured")


def run(options: argparse.Namespace, argv: list[str], console: Console) -> int:
    """Raises MeasurementError where a request is answered neither with tokens nor with a 429."""
    phases = on_own_loop(_measured(options, console))
    console.print(table(phases), highlight=False, markup=False, soft_wrap=True)
    if options.json is not None:
        measured = {name: asdict(phase) for name, phase in phases.items()}
        document = {META: provenance(argv), "phases": measured}
        options.json.write_text(json.dumps(document) + "\n")
    return 0


def table(phases: Mapping[str, Phase]) -> str:
    """In Markdown: milliseconds, and how many times those alone and those of a busy batch."""
    rows = [
        "| light key | requests | refused | p50 ms | p95 ms | p95 / alone | p95 / busy "
        "| other key | it asks a second | CPUs for asking |"
    ]
    rows.append("|---|---|---|---|---|---|---|---|---|---|")
    for name, phase in phases.items():
        if not phase.ttft_s:
            raise MeasurementError(f"{name}: no request of the light key was answered")
        p50, p95 = np.percentile(phase.ttft_s, (50, 95)) * 1e3
        other, seconds = phase.other, max(phase.other.seconds, 1e-9)
        cells = [
            name,
            str(len(phase.ttft_s)),
            str(phase.refused),
            f"{p50:.0f}",
            f"{p95:.0f}",
            *(_ratio(phase.ttft_s, phases[against].ttft_s) for against in PHASES[:2]),
            f"{other.served} served, {other.refused} refused, {other.broken} broken",
            f"{(other.served + other.refused) / seconds:.0f}",
            f"{other.cpu_s / seconds:.2f}",
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _ratio(times_s: Sequence[float], against_s: Sequence[float]) -> str:
    """Of the 95th percentiles, with the interval in which 95 % of resamples lie."""
    if times_s is against_s:
        return "1"
    both = np.asarray(times_s), np.asarray(against_s)
    one, other = (
        bootstrap(len(of), lambda rows, of=of: np.percentile(of[rows], 95, axis=1), seed=seed)
        for seed, of in enumerate(both)
    )
    found = Estimate.of(float(np.percentile(both[0], 95) / np.percentile(both[1], 95)), one / other)
    return f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"


async def _measured(options: argparse.Namespace, console: Console) -> dict[str, Phase]:
    phases = {name: Phase() for name in PHASES}
    rng = random.Random(0)
    async with open_session(TIMEOUT_S, options.light_key, keep_alive=True) as light:
        for number in range(options.rounds):
            order = rng.sample(PHASES, len(PHASES))
            if number == 0:
                order = ["busy", *(name for name in order if name != "busy")]
            for name in order:
                load = _load(name, options, phases["busy"].other, rng.randrange(10**6))
                await _play(load, options, light, phases[name], rng)
                console.print(f"round {number + 1} of {options.rounds}: {name}")
    return phases


def _load(name: str, options: argparse.Namespace, busy: OtherCounts, seed: int) -> OtherLoad:
    """Of the other key in this phase. What it was served while it was `busy` is the capacity."""
    clients = {"alone": 0, "busy": options.busy_streams, "flood": options.flood_clients}[name]
    rate = 0.0
    if name == "flood":
        rate = options.flood_times * busy.served / busy.seconds
    url = f"{options.url}/chat/completions"
    tokens, niceness = options.output_tokens, options.flood_niceness
    return OtherLoad(url, options.flood_key, clients, rate, tokens, seed, niceness)


async def _play(
    load: OtherLoad,
    options: argparse.Namespace,
    light: aiohttp.ClientSession,
    phase: Phase,
    rng: random.Random,
) -> None:
    """One phase; it ends when all that is under way has ended."""

    async def ask_once() -> None:
        first_s = await first_token_s(light, load.url, a_body(options.output_tokens, rng))
        if first_s is None:
            phase.refused += 1
        else:
            phase.ttft_s.append(first_s)

    async with other_load(load) as other:
        await asyncio.sleep(SETTLES_S)
        try:
            async with asyncio.TaskGroup() as tasks:
                for wait_s in _gaps_s(options.rate, options.phase_s, rng):
                    await asyncio.sleep(wait_s)
                    tasks.create_task(ask_once())
        except ExceptionGroup as failed:
            # The others are as good.
            raise failed.exceptions[0] from None
    phase.add(other)


def _gaps_s(rate: float, phase_s: float, rng: random.Random) -> Iterator[float]:
    """Of a Poisson process."""
    left_s = phase_s
    while (gap_s := rng.expovariate(rate)) < left_s:
        left_s -= gap_s
        yield gap_s
