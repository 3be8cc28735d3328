"""Ctrl-C during `python -m loadtest run`, as a terminal sends it."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from loadtest.load.command import INTERRUPTED
from loadtest.load.report import NAME
from loadtest.load.run import REQUESTS, SUMMARY
from tests.loadtest.load.fake_openai import FakeOpenAI, Reply

WITHIN_S = 60


async def interrupted(
    folder: Path, times: int, number: signal.Signals = signal.SIGINT
) -> tuple[int | None, str]:
    """The exit code and the output of a run whose two answers never end by themselves."""
    async with FakeOpenAI(lambda body, n: Reply(answer=1000, pause_s=0.2)) as fake:
        run = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "loadtest", "run", "--base-url", fake.url),
            *("--tier", "chat=2/s", "--duration", "50s", "--out", str(folder)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        while len(fake.bodies) < 2:
            await asyncio.sleep(0.05)
            assert run.returncode is None
        for _ in range(times):
            run.send_signal(number)
            # The first one has ended the requests; the report is drawn now.
            while not _has_lines(folder / REQUESTS):
                await asyncio.sleep(0.01)
                assert run.returncode is None
        output, _ = await asyncio.wait_for(run.communicate(), WITHIN_S)
    return run.returncode, output.decode()


def _has_lines(file: Path) -> bool:
    return file.exists() and file.stat().st_size > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_first_ends_the_run_with_what_it_has(
    tmp_path: Path, number: signal.Signals
) -> None:
    code, output = await interrupted(tmp_path / "run", 1, number)
    assert code == INTERRUPTED, output
    assert (tmp_path / "run" / NAME).exists()
    assert "Traceback" not in output


async def test_the_second_ends_it_at_once_and_says_what_there_is(tmp_path: Path) -> None:
    # Nobody reads it, so that writing the summary lasts until the second one.
    (tmp_path / "run").mkdir()
    os.mkfifo(tmp_path / "run" / SUMMARY)
    code, output = await interrupted(tmp_path / "run", 2)
    assert code == INTERRUPTED, output
    assert "there is no summary" in output
    assert "Traceback" not in output
