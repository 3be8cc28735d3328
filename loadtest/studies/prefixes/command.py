"""`python -m loadtest prefixes`: conversations over several replicas of chat, with and without
forwarding a turn to the replica that has its prefix.

The command starts the service itself, with each number of replicas. The setting changes live from
phase to phase, in the order on, off, off, on, so that drift of the machine cancels; each phase has
conversations that nobody has had before. One replica, where all prefixes are, is what the hit rate
is compared with. Without `--model` the fake engine runs with the figures of a GPU's profile, whose
prefix cache is simulated; with `--model smollm2` vLLM runs on the CPU.
"""

import argparse
import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import aiohttp
from rich.console import Console

from loadtest.client.chat import open_session
from loadtest.errors import MeasurementError
from loadtest.load.run import on_own_loop
from loadtest.options import not_negative, positive
from loadtest.report.results_file import META, provenance
from loadtest.simulation.profile import known_profiles
from loadtest.studies.prefixes.cluster import Seen, Served, application, replicas_of
from loadtest.studies.prefixes.conversations import Conversations, Talk
from loadtest.studies.prefixes.results import Phases, table
from serve_app.local.cluster import LocalCluster

DESCRIPTION = (__doc__ or "").split("\n\n")[0]
LOOK_EVERY_S = 0.5
READY_LIMIT_S = 400.0
TIMEOUT_S = 300.0
SETTING_LIMIT_S = 60.0


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--replicas", type=positive, nargs="+", default=[1, 2, 4], help="of chat, in turn")
    add("--model", help="a model for vLLM on the CPU; without it the fake engine runs")
    add("--profile", choices=sorted(known_profiles()), default="T4", help="the fake engine's GPU")
    add("--slots", type=positive, default=16, help="sequences at a time of a replica")
    add("--users", type=positive, default=12, help="conversations at a time")
    add("--turns", type=positive, default=5, help="of a conversation, two more or less")
    add("--prompt-tokens", type=positive, default=1500, help="of the first prompt, about")
    add("--more-tokens", type=positive, default=60, help="of each further message, about")
    add("--output-tokens", type=positive, default=40, help="length of the answers")
    add("--think-s", type=not_negative, default=1.0, help="mean time before the next turn")
    add("--settle-s", type=not_negative, default=15.0, help="of each phase, before what counts")
    add("--phase-s", type=positive, default=45, help="of each phase, what counts")
    add("--rounds", type=positive, default=1, help="of four phases each")
    add("--json", type=Path, metavar="FILE", help="also write what was measured")


def run(options: argparse.Namespace, argv: list[str], console: Console) -> int:
    """Raises MeasurementError where a request is answered neither with tokens nor with a 429."""
    profile = None if options.model else known_profiles()[options.profile]
    served = Served(options.model or "smollm2", profile, options.slots)
    talk = Talk(
        options.users,
        options.turns,
        options.prompt_tokens,
        options.more_tokens,
        options.output_tokens,
        max(options.think_s, 1e-3),
    )
    measured: list[Phases] = []
    with LocalCluster() as cluster:
        for replicas in options.replicas:

            def deploy(*, forward: bool, replicas: int = replicas) -> None:
                config = application(served, replicas, forward=forward)
                cluster.deploy(config, timeout_s=READY_LIMIT_S)

            deploy(forward=True)
            study = Study(cluster.base_url, served, talk, replicas, deploy, options, console)
            measured += on_own_loop(study.measured())
            console.print(table(measured), highlight=False, markup=False, soft_wrap=True)
    if options.json is not None:
        document = {META: provenance(argv), "phases": [asdict(each) for each in measured]}
        options.json.write_text(json.dumps(document) + "\n")
    return 0


@dataclass(frozen=True, slots=True)
class Study:
    """One number of replicas; `deploy` sets the setting."""

    url: str
    served: Served
    talk: Talk
    replicas: int
    deploy: Callable[..., None]
    options: argparse.Namespace
    console: Console

    async def measured(self) -> Sequence[Phases]:
        """With forwarding, and without; of one replica it is the same."""
        order = [True, False, False, True] * self.options.rounds
        if self.replicas == 1:
            order = [True] * self.options.rounds
        phases = {forward: Phases(self.replicas, forward) for forward in dict.fromkeys(order)}
        async with open_session(TIMEOUT_S) as session:
            for number, forward in enumerate(order):
                await asyncio.to_thread(lambda forward=forward: self.deploy(forward=forward))
                await self._until_all(session, forward=forward)
                await self._play(session, phases[forward], number)
                self.console.print(
                    f"{self.replicas} replicas, phase {number + 1} of {len(order)}: "
                    f"forwarding {'on' if forward else 'off'}, hit rate so far "
                    f"{phases[forward].hit_rate:.3f}"
                )
        return [*phases.values()]

    async def _until_all(self, session: aiohttp.ClientSession, *, forward: bool) -> None:
        """Wait until each replica is there and has the setting."""
        deadline_s = time.monotonic() + SETTING_LIMIT_S
        seen: Mapping[str, Seen] = {}
        while time.monotonic() < deadline_s:
            seen = await replicas_of(session, self.url)
            if len(seen) == self.replicas and all(
                each.forwards is forward and not each.running for each in seen.values()
            ):
                return
            await asyncio.sleep(LOOK_EVERY_S)
        raise MeasurementError(f"not {self.replicas} replicas with the setting: {seen}")

    async def _play(self, session: aiohttp.ClientSession, phases: Phases, number: int) -> None:
        conversations = Conversations(
            self.talk,
            session,
            f"{self.url}/api/chat/v1/chat/completions",
            "chat",
            seed=self.replicas * 1000 + number,
        )
        talking = asyncio.create_task(conversations.run())
        try:
            await _while(talking, self.options.settle_s)
            before, began_s = await self._all(session), time.perf_counter()
            looks: list[Mapping[str, Seen]] = []
            while time.perf_counter() - began_s < self.options.phase_s:
                await _while(talking, LOOK_EVERY_S)
                looks.append(await replicas_of(session, self.url))
            after, ended_s = await self._all(session), time.perf_counter()
            conversations.end()
            await talking
        finally:
            talking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await talking
        turns = [turn for turn in conversations.turns if began_s <= turn.sent_s < ended_s]
        phases.add(turns, conversations.refused, before, after, looks)

    async def _all(self, session: aiohttp.ClientSession) -> Mapping[str, Seen]:
        """Of all replicas; one that is late is waited for."""
        while len(seen := await replicas_of(session, self.url)) < self.replicas:  # noqa: ASYNC110 - it is asked over HTTP
            await asyncio.sleep(LOOK_EVERY_S)
        return seen


async def _while(talking: asyncio.Task[None], seconds: float) -> None:
    """Let so much time pass. Raises what the conversations raise."""
    await asyncio.wait({talking}, timeout=seconds)
    if talking.done():
        talking.result()
        raise MeasurementError("all conversations have ended")
