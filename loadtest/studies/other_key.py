"""The other key's load of `python -m loadtest fairness`, in a process of its own: what it takes of
the CPU is known, and delays neither the measured requests' client nor, with a low priority, the
server.

As a program it reads one line of settings from stdin, says that it is ready, and at the next line,
or at the end, what became of its requests.
"""

import asyncio
import json
import os
import random
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field

import aiohttp

from loadtest.client.chat import chat_body, open_session
from loadtest.client.first_token import first_token_s
from loadtest.errors import MeasurementError

TIMEOUT_S = 300.0
# Answers are this much shorter or longer than the mean: clients do not march in step.
SPREAD = 0.5
READY = "ready"
# Beside as many that were answered.
MOST_BROKEN = 20


@dataclass(frozen=True, slots=True)
class OtherLoad:
    """So many clients, each of which asks again as soon as it is answered or refused, but together
    no faster than `rate` a second; 0: as fast as they are served."""

    url: str
    key: str = field(repr=False)
    clients: int
    rate: float
    output_tokens: int
    seed: int
    niceness: int = 0


@dataclass(slots=True)
class OtherCounts:
    """`broken` are connections that the server closed while a request was on its way: a client asks
    again. `cpu_s` is what the load generator has used itself, in `seconds`."""

    served: int = 0
    refused: int = 0
    broken: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0


def a_body(output_tokens: int, rng: random.Random) -> bytes:
    """A request whose answer has about so many tokens."""
    tokens = max(1, round(output_tokens * rng.uniform(1 - SPREAD, 1 + SPREAD)))
    return chat_body("chat", f"Count from {rng.randrange(10**6)} on.", output_tokens=tokens)


@asynccontextmanager
async def other_load(load: OtherLoad) -> AsyncIterator[OtherCounts]:
    """While the block runs the other key asks; behind it the counts are those of all that it asked,
    to the last answer. Raises MeasurementError where it was neither served nor refused."""
    counts = OtherCounts()
    if not load.clients:
        yield counts
        return
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadtest.studies.other_key"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(asdict(load)).encode() + b"\n")
        if (await process.stdout.readline()).strip() != READY.encode():
            raise MeasurementError("the other key's load did not start")
        yield counts
        process.stdin.write(b"\n")
        said = json.loads(await process.stdout.readline() or b"{}")
        if "error" in said or not said:
            raise MeasurementError(said.get("error", "the other key's load has ended early"))
        for name, value in said.items():
            setattr(counts, name, value)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def main() -> None:
    """The program."""
    load = OtherLoad(**json.loads(sys.stdin.readline()))
    os.nice(load.niceness)
    ended = asyncio.ensure_future(asyncio.to_thread(sys.stdin.readline))
    print(READY, flush=True)
    began_s, before_s = time.monotonic(), time.process_time()
    try:
        counts = await _asked(load, ended)
    except ExceptionGroup as failed:
        # The others are as good.
        error = failed.exceptions[0]
        if not isinstance(error, MeasurementError):
            raise
        print(json.dumps({"error": str(error)}), flush=True)
        return
    counts.seconds = time.monotonic() - began_s
    counts.cpu_s = time.process_time() - before_s
    print(json.dumps(asdict(counts)), flush=True)


async def _asked(load: OtherLoad, ended: asyncio.Future[str]) -> OtherCounts:
    """Until it is to end, and all that is under way has ended."""
    counts, rng = OtherCounts(), random.Random(load.seed)
    apart_s = 1 / load.rate if load.rate else 0.0
    next_s = time.monotonic()

    async def ask_again(session: aiohttp.ClientSession) -> None:
        nonlocal next_s
        while not ended.done():
            now_s = time.monotonic()
            # What was not sent in time is not made up for: the rate is a limit.
            next_s = max(next_s, now_s) + apart_s
            await asyncio.sleep(next_s - apart_s - now_s)
            if ended.done():
                return
            try:
                first_s = await first_token_s(session, load.url, a_body(load.output_tokens, rng))
            except aiohttp.ClientConnectionError as error:
                counts.broken += 1
                if counts.broken > MOST_BROKEN + counts.served + counts.refused:
                    raise MeasurementError(f"the server closes connections: {error}") from error
                continue
            if first_s is None:
                counts.refused += 1
            else:
                counts.served += 1

    session = open_session(TIMEOUT_S, load.key, keep_alive=True)
    async with session, asyncio.TaskGroup() as tasks:
        for _ in range(load.clients):
            tasks.create_task(ask_again(session))
    return counts


if __name__ == "__main__":
    asyncio.run(main())
