"""`python -m loadtest tabs`: what open status tabs take from the chat beside them.

The same streams run all the time; in random turns the tabs ask and do not, so that drift of the
machine cancels. Where the service runs on this machine, the CPU time of its processes is compared
too: it tells a smaller cost from chance than tokens per second do.
"""

import argparse
import asyncio
import contextlib
import random
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import aiohttp
import numpy as np
import psutil
from rich.console import Console

from loadtest.client.chat import chat_body, open_session
from loadtest.errors import MeasurementError
from loadtest.load.run import beside, on_own_loop
from loadtest.options import add_api_key, api_key_of, base_url, positive
from loadtest.report.statistics import bootstrapped_mean
from loadtest.servers.processes import OTHER, role_of

TIMEOUT_S = 120.0
# After the tabs begin to ask, or end, and before what counts.
SETTLE_S = 1.0
ROUND_SEED = 0
CLIENT = "this command"
# The CPU time of these follows the tokens.
RUN_THE_CHAT = frozenset({"engine chat", "replica chat", "haproxy"})
DESCRIPTION = (
    "Keeps chat streams running, opens the questions of status tabs beside them in "
    "every other turn, and compares tokens per second and CPU time."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--url", type=base_url, default="http://127.0.0.1:8000", help="the service")
    add("--tabs", type=positive, default=10, help="tabs that are looked at")
    add("--streams", type=positive, default=8, help="chat streams at a time")
    add("--rounds", type=positive, default=12, help="each with tabs and without")
    add("--round-s", type=positive, default=7, help="seconds of each half of a round")
    add("--output-tokens", type=positive, default=400, help="length of the answers")
    add_api_key(parser)


@dataclass(frozen=True, slots=True)
class Half:
    """Of one half of a round: tokens per second, and CPU ms per second by the process's role."""

    tokens_per_s: float
    cpu_ms_per_s: Mapping[str, float]


@dataclass(slots=True)
class Tokens:
    """Events with text that have come."""

    count: int = 0


def run(options: argparse.Namespace, argv: list[str], console: Console) -> int:
    """Raises MeasurementError where the chat or a tab is not answered."""
    try:
        rounds = on_own_loop(measured(options))
    except aiohttp.ClientConnectionError as error:
        raise MeasurementError(f"{options.url} cannot be reached: {error}") from error
    quiet, asked = zip(*rounds, strict=True)
    without = np.array([half.tokens_per_s for half in quiet])
    ratios = np.array([half.tokens_per_s for half in asked]) / without
    kept = bootstrapped_mean(ratios)
    console.print(
        f"{options.tabs} tabs: {kept.value:.3f} of chat's tokens/s (95 %: {kept.low:.3f} to "
        f"{kept.high:.3f}), {len(ratios)} rounds of {options.round_s} s, {without.mean():.0f} "
        f"tokens/s in {options.streams} streams without them"
    )
    roles = sorted({role for half in (*quiet, *asked) for role in half.cpu_ms_per_s})
    for role in roles:
        _print_cpu(console, role, {role}, quiet, asked)
    _print_cpu(console, "all but what runs the chat", set(roles) - RUN_THE_CHAT, quiet, asked)
    return 0


def _print_cpu(
    console: Console,
    name: str,
    roles: Collection[str],
    quiet: Sequence[Half],
    asked: Sequence[Half],
) -> None:
    before, after = (
        np.array([sum(half.cpu_ms_per_s.get(role, 0.0) for role in roles) for half in halves])
        for halves in (quiet, asked)
    )
    more = bootstrapped_mean(after - before)
    console.print(
        f"  {name}: {before.mean():.1f} ms/s of CPU without, {more.value:+.1f} "
        f"(95 %: {more.low:+.1f} to {more.high:+.1f}) with them",
        highlight=False,
        soft_wrap=True,
    )


async def measured(options: argparse.Namespace) -> list[tuple[Half, Half]]:
    """Of each round the half without tabs and the half with them."""
    rng = random.Random(ROUND_SEED)
    rounds: list[tuple[Half, Half]] = []
    async with open_session(TIMEOUT_S, api_key_of(options), keep_alive=True) as session:
        tokens = Tokens()
        streams = (_stream(session, options, number, tokens) for number in range(options.streams))
        async with beside(*streams) as running:
            while not tokens.count:
                _raise_failure(running)
                await asyncio.sleep(0.05)
            for _ in range(options.rounds):
                halves: dict[bool, Half] = {}
                for with_tabs in rng.sample((False, True), 2):
                    tabs = options.tabs if with_tabs else 0
                    asking = (_tab(session, options.url, number / tabs) for number in range(tabs))
                    async with beside(*asking) as asked:
                        await asyncio.sleep(SETTLE_S)
                        halves[with_tabs] = await _half(tokens, options.round_s)
                        _raise_failure([*running, *asked])
                rounds.append((halves[False], halves[True]))
    return rounds


async def _half(tokens: Tokens, duration_s: float) -> Half:
    cpu_before, before, began_s = _cpu_s(), tokens.count, time.perf_counter()
    await asyncio.sleep(duration_s)
    took_s, cpu = time.perf_counter() - began_s, _cpu_s()
    return Half(
        (tokens.count - before) / took_s,
        {role: 1e3 * (cpu[role] - cpu_before.get(role, 0.0)) / took_s for role in cpu},
    )


def _cpu_s() -> dict[str, float]:
    """CPU seconds since their start of this machine's service, by the role of the process."""
    used: defaultdict[str, float] = defaultdict(float)
    own = psutil.Process().pid
    for process in psutil.process_iter():
        role = CLIENT if process.pid == own else role_of(process)
        if role == OTHER:
            continue
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            used[role] += times.user + times.system
    return used


async def _stream(
    session: aiohttp.ClientSession, options: argparse.Namespace, number: int, tokens: Tokens
) -> None:
    """One answer after the other."""
    while True:
        number += options.streams
        prompt = f"Count to {number}."
        body = chat_body("chat", prompt, output_tokens=options.output_tokens)
        async with session.post(f"{options.url}/v1/chat/completions", data=body) as answer:
            await _expect_200(answer)
            before = tokens.count
            async for piece in answer.content.iter_any():
                tokens.count += piece.count(b'"content":')
            if tokens.count == before:
                raise MeasurementError("a stream ended without a token")


async def _tab(session: aiohttp.ClientSession, url: str, begins_s: float) -> None:
    """What a tab asks while its status is looked at, as the only one of its browser."""
    await asyncio.sleep(begins_s)
    async with session.get(f"{url}/api/history") as answer:
        await _expect_200(answer)
        await answer.read()
    while True:
        async with session.get(f"{url}/api/tiers/events") as answer:
            await _expect_200(answer)
            async for _ in answer.content.iter_any():
                pass


async def _expect_200(answer: aiohttp.ClientResponse) -> None:
    if answer.status != 200:
        text = (await answer.text())[:300]
        raise MeasurementError(f"{answer.url.path}: {answer.status}: {text}")


def _raise_failure(tasks: Iterable["asyncio.Task[None]"]) -> None:
    """Of work that never ends by itself."""
    for task in tasks:
        if task.done():
            task.result()
