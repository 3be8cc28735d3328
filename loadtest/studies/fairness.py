"""`python -m loadtest fairness`: a light key's time to a first token, alone and beside another key.

Three phases take turns, in another order in each round, so that drift of the machine cancels:

| phase | the other key |
|---|---|
| alone | asks nothing |
| busy | has as many streams as fill the batch without a queue (`--busy-streams`) |
| flood | has many clients that ask again as soon as they are answered or refused |

What `busy` costs is the batch's, whose steps are longer: no queue can change it. What `flood` costs
beyond it is the queue's.
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

from loadtest.client.chat import chat_body, open_session
from loadtest.client.first_token import first_token_s
from loadtest.errors import MeasurementError
from loadtest.load.run import on_own_loop
from loadtest.options import base_url, not_negative, positive
from loadtest.report.statistics import Estimate, bootstrap

TIMEOUT_S = 300.0
PHASES = ("alone", "busy", "flood")
# Of a phase, the time in which the other key's load comes to its level.
SETTLES_S = 4.0
# Answers are this much shorter or longer than `--output-tokens`: clients do not march in step.
SPREAD = 0.5
DESCRIPTION = (__doc__ or "").split("\n\n")[0] + " The service runs with `serve --keys`."


@dataclass(slots=True)
class Phase:
    """What the light key met; `other_*` are of the other one."""

    ttft_s: list[float] = field(default_factory=list[float])
    refused: int = 0
    other_served: int = 0
    other_refused: int = 0


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--url", type=base_url, default="http://127.0.0.1:8000/api/chat/v1", help="OpenAI base URL")
    add("--light-key", required=True, help="the key whose first tokens are measured")
    add("--flood-key", required=True, help="the other one; neither may reach a quota")
    add("--rate", type=positive, default=3, help="requests a second of the light key")
    add("--busy-streams", type=positive, default=28, help="streams that fill the batch, not more")
    add("--flood-clients", type=positive, default=120, help="clients of the flood")
    add("--flood-pause-ms", type=not_negative, default=50.0, help="before a refused one asks again")
    add("--output-tokens", type=positive, default=40, help="mean length of the answers")
    add("--phase-s", type=positive, default=20, help="seconds of each phase that count")
    add("--rounds", type=positive, default=2, help="how often each phase is run")
    add("--json", type=Path, metavar="FILE", help="also write what was measured")


def run(options: argparse.Namespace, argv: list[str], console: Console) -> int:
    """Raises MeasurementError where a request is answered neither with tokens nor with a 429."""
    phases = on_own_loop(_measured(options, console))
    console.print(table(phases), highlight=False, markup=False, soft_wrap=True)
    if options.json is not None:
        document = {"argv": argv, "phases": {name: asdict(phase) for name, phase in phases.items()}}
        options.json.write_text(json.dumps(document) + "\n")
    return 0


def table(phases: Mapping[str, Phase]) -> str:
    """In Markdown: milliseconds, and how many times those alone and those of a busy batch."""
    rows = [
        "| light key | requests | refused | p50 ms | p95 ms | p95 / alone | p95 / busy | others |"
    ]
    rows.append("|---|---|---|---|---|---|---|---|")
    for name, phase in phases.items():
        if not phase.ttft_s:
            raise MeasurementError(f"{name}: no request of the light key was answered")
        p50, p95 = np.percentile(phase.ttft_s, (50, 95)) * 1e3
        cells = [
            name,
            str(len(phase.ttft_s)),
            str(phase.refused),
            f"{p50:.0f}",
            f"{p95:.0f}",
            *(_ratio(phase.ttft_s, phases[against].ttft_s) for against in PHASES[:2]),
            f"{phase.other_served} served, {phase.other_refused} refused",
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
    async with (
        open_session(TIMEOUT_S, options.light_key, keep_alive=True) as light,
        open_session(TIMEOUT_S, options.flood_key, keep_alive=True) as other,
    ):
        for number in range(options.rounds):
            for name in rng.sample(PHASES, len(PHASES)):
                await _play(name, options, light, other, phases[name], rng)
                console.print(f"round {number + 1} of {options.rounds}: {name}")
    return phases


async def _play(
    name: str,
    options: argparse.Namespace,
    light: aiohttp.ClientSession,
    other: aiohttp.ClientSession,
    phase: Phase,
    rng: random.Random,
) -> None:
    """One phase; it ends when all that is under way has ended."""
    url = f"{options.url}/chat/completions"
    clients = {"alone": 0, "busy": options.busy_streams, "flood": options.flood_clients}[name]
    ends = asyncio.Event()

    async def ask_again() -> None:
        while not ends.is_set():
            if await first_token_s(other, url, _body(options, rng)) is None:
                phase.other_refused += 1
                await asyncio.sleep(options.flood_pause_ms / 1e3)
            else:
                phase.other_served += 1

    async def ask_once() -> None:
        first_s = await first_token_s(light, url, _body(options, rng))
        if first_s is None:
            phase.refused += 1
        else:
            phase.ttft_s.append(first_s)

    try:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(clients):
                tasks.create_task(ask_again())
            await asyncio.sleep(SETTLES_S)
            for wait_s in _gaps_s(options.rate, options.phase_s, rng):
                await asyncio.sleep(wait_s)
                tasks.create_task(ask_once())
            ends.set()
    except ExceptionGroup as failed:
        # The others are as good.
        raise failed.exceptions[0] from None


def _gaps_s(rate: float, phase_s: float, rng: random.Random) -> Iterator[float]:
    """Of a Poisson process."""
    left_s = phase_s
    while (gap_s := rng.expovariate(rate)) < left_s:
        left_s -= gap_s
        yield gap_s


def _body(options: argparse.Namespace, rng: random.Random) -> bytes:
    tokens = max(1, round(options.output_tokens * rng.uniform(1 - SPREAD, 1 + SPREAD)))
    prompt = f"Count from {rng.randrange(10**6)} on."
    return chat_body("chat", prompt, output_tokens=tokens)
