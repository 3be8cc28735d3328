"""The client: sends each request at its time, whatever the others do, and records the outcome.

It runs in a process of its own, and reads time on the machine's clock, so that what another process
sees of the cluster can be laid beside it.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from loadtest.client.chat import Client, chat_body, open_session
from loadtest.client.record import Record
from loadtest.errors import MeasurementError
from loadtest.load.lag import LoopLag, report
from loadtest.simulation.trace import Request

# As the fake engine counts (serve_app/engine/fake/app.py).
CHARACTERS_PER_TOKEN = 4
TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Replay:
    """`records` in order of the requests; `generator` says whether the client kept up."""

    records: Sequence[Record]
    generator: dict[str, Any]


def play(base_url: str, requests: Sequence[Request], start_at_s: float) -> Replay:
    """Send all of them from `start_at_s`, in seconds of `time.time`. Raises MeasurementError."""
    late_s = time.time() - start_at_s
    if late_s > 0:
        raise MeasurementError(
            f"the client was ready {late_s:.1f} s after the first request's time"
        )
    return asyncio.run(_play(base_url, requests, start_at_s))


async def _play(base_url: str, requests: Sequence[Request], start_at_s: float) -> Replay:
    # The machine's clock may be set while this runs; it is read once.
    offset_s = time.time() - time.perf_counter() - start_at_s

    def clock() -> float:
        return time.perf_counter() + offset_s

    lag = LoopLag(clock)
    measuring = asyncio.create_task(lag.run())
    async with open_session(TIMEOUT_S) as session, asyncio.TaskGroup() as group:
        client = Client(session, clock)
        tasks = [
            group.create_task(_ask(client, base_url, number, request, clock))
            for number, request in enumerate(requests)
        ]
    measuring.cancel()
    records = [task.result() for task in tasks]
    lags = lag.between(0.0, requests[-1].arrival_s)
    return Replay(records, report(lags, (record.late_s for record in records), lag.cpu()))


async def _ask(client: Client, base_url: str, number: int, request: Request, clock: Any) -> Record:
    record = Record(
        number, 0, request.tier, request.arrival_s, request.prompt_tokens, request.new_tokens
    )
    await asyncio.sleep(max(0.0, request.arrival_s - clock()))
    url = f"{base_url}{request.tier.route_prefix}/v1/chat/completions"
    await client.stream(url, body(number, request), record)
    return record


def body(number: int, request: Request) -> bytes:
    """The gate knows the tier's limit only, as from most clients; the fake engine makes as many
    tokens as `min_tokens` says, where its mean length is 1."""
    characters = CHARACTERS_PER_TOKEN * (request.prompt_tokens - 1)
    # No message may be empty.
    prompt = f"{number} ".ljust(characters, "x")[:characters] or "x"
    return chat_body(
        request.tier.value,
        prompt,
        output_tokens=request.limit,
        ignore_eos=False,
        more={"min_tokens": request.new_tokens},
    )
