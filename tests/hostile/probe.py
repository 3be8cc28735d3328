"""A harmless client in a process of its own: asks every tier a tiny question once a second.

`python -m tests.hostile.probe URL FILE` writes a line for each question to FILE, until its standard
input is closed. In another process than the attackers, so that none of their work delays it.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp

from serve_app.core.tiers import Tier
from tests.e2e.machine_clock import clock_s

EVERY_S = 1.0
LIMIT_S = 90.0
TINY = {"max_tokens": 1, "temperature": 0}
# A schema that the server knows after the first second, answered without thinking about it.
KNOWN_SCHEMA = {
    "max_tokens": 16,
    "temperature": 0,
    "reasoning_effort": "none",
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "yes", "schema": {"type": "boolean"}},
    },
}
QUESTIONS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "chat": ("/api/chat", {"prompt": "Hello", **TINY}),
    "reasoning": ("/api/reasoning", {"prompt": "Hello", **TINY}),
    "/v1": (
        "/v1/chat/completions",
        {"model": "chat", "messages": [{"role": "user", "content": "Hello"}], **TINY},
    ),
    "chat JSON": ("/api/chat", {"prompt": "Yes?", **KNOWN_SCHEMA}),
    "reasoning JSON": ("/api/reasoning", {"prompt": "Yes?", **KNOWN_SCHEMA}),
}


@dataclass(frozen=True, slots=True)
class Asked:
    """One question. `at_s` on the machine's monotonic clock, which all processes share; `wait_s`
    without pauses of the whole machine."""

    what: str
    at_s: float
    wait_s: float
    status: int
    error: str = ""

    @property
    def tier(self) -> Tier:
        return Tier.REASONING if self.what.startswith(Tier.REASONING) else Tier.CHAT

    @property
    def until_s(self) -> float:
        return self.at_s + self.wait_s

    @property
    def served(self) -> bool:
        return self.status == 200 and not self.error


class Probe:
    """The running probe, and what it has seen so far."""

    def __init__(self, process: "subprocess.Popen[bytes]", file: Path) -> None:
        self._process = process
        self._file = file

    def since(self, start_s: float) -> Sequence[Asked]:
        """Questions that were asked from then on and have ended."""
        assert self._process.poll() is None, "the probe has ended"
        lines = self._file.read_text().splitlines()
        asked = (Asked(**json.loads(line)) for line in lines if line.endswith("}"))
        return [question for question in asked if question.at_s >= start_s]


@contextmanager
def probing(url: str, file: Path) -> Iterator[Probe]:
    file.touch()
    command = [sys.executable, "-m", "tests.hostile.probe", url, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        try:
            yield Probe(process, file)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(timeout=10)


async def _ask(session: aiohttp.ClientSession, url: str, what: str) -> Asked:
    path, body = QUESTIONS[what]
    at_s, started_s, status, error = time.monotonic(), clock_s(), 0, ""
    try:
        async with session.post(url + path, json=body) as response:
            status = response.status
            text = await response.text()
            if status != 200 or '"choices"' not in text:
                error = text[:300]
    except (aiohttp.ClientError, OSError, TimeoutError) as failed:
        error = f"{failed!r} from {failed.__cause__!r}"
    return Asked(what, at_s, clock_s() - started_s, status, error)


async def _probe(url: str, file: Path) -> None:
    reading = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    timeout = aiohttp.ClientTimeout(total=LIMIT_S)
    asking: set[asyncio.Task[None]] = set()
    with file.open("a", buffering=1) as lines:
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

            async def ask(what: str) -> None:
                lines.write(json.dumps(asdict(await _ask(session, url, what))) + "\n")

            while not reading.done():
                for what in QUESTIONS:
                    task = asyncio.create_task(ask(what))
                    asking.add(task)
                    task.add_done_callback(asking.discard)
                await asyncio.wait({reading}, timeout=EVERY_S)
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(_probe(sys.argv[1], Path(sys.argv[2])))
