"""Short soaks of a fake server: what is sent, what is written, and how it is judged."""

import asyncio
import dataclasses
import signal
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from loadtest.client.chat import Client, RunClock, open_session
from loadtest.client.record import Outcome, Record
from loadtest.load.targets import Target
from loadtest.report.run_folder import read_lines
from loadtest.scenario import Slo
from loadtest.soak import traffic
from loadtest.soak.command import faults_of
from loadtest.soak.judge import judge
from loadtest.soak.observations import EVENTS, REQUESTS, read
from loadtest.soak.plan import Plan
from loadtest.soak.run import SoakSettings, soak
from loadtest.soak.traffic import BY_NAME, KINDS
from loadtest.soak.verdicts import Row, Verdict
from tests.loadtest.soak.fake_server import FakeServer

QUIET = Console(quiet=True)
SENT = {kind.name for kind in KINDS if kind.fraction}
QUICK = Plan(
    duration_s=600,
    calibration_s=0.2,
    warm_up_s=0.1,
    baseline_s=0.5,
    settle_s=0.05,
    sample_every_s=0.05,
)


async def soaked(fake: FakeServer, path: Path, faults: str = "none") -> dict[str, Row]:
    """Until each fault was once, or for three baselines and each kind; then Ctrl-C."""
    chosen = faults_of(faults, own_server=False)
    demand = SoakSettings(QUICK, chosen, None, None, 0.3, Slo(ttft=20.0), 0, ("soak",))
    task = asyncio.create_task(soak(demand, path, QUIET, fake.url, None))
    wanted = "fault" if chosen else "baseline"
    while events(path)[wanted] < (len(chosen) or 3) or not (chosen or kinds(path) >= SENT):
        await asyncio.sleep(0.02)
        assert not task.done()
    signal.raise_signal(signal.SIGINT)
    await task
    return {row.name: row for row in judge(path, read(path))}


def kinds(path: Path) -> set[str]:
    return {line["kind"] for line in read_lines(path, REQUESTS)}


def events(path: Path) -> Counter[str]:
    return Counter(line["event"] for line in read_lines(path, EVENTS))


async def test_every_kind_is_sent_and_gets_what_it_is_to_get(tmp_path: Path) -> None:
    async with FakeServer() as fake:
        rows = await soaked(fake, tmp_path)
    assert kinds(tmp_path) == SENT
    assert rows["answers lost outside of faults"].verdict is Verdict.PASS
    assert rows["counts after the last client"].verdict is Verdict.PASS
    assert rows["running and waiting beyond what clients have open"].verdict is Verdict.PASS
    assert [row.name for row in rows.values() if row.verdict is Verdict.FAIL] == []
    assert [events(tmp_path)[once] for once in ("calibration", "warm-up", "idle")] == [1, 1, 1]


async def test_a_burst_is_refused_and_over_and_leavers_are_no_errors(tmp_path: Path) -> None:
    async with FakeServer(places=8) as fake:
        rows = await soaked(fake, tmp_path, "disconnects,burst")
    assert fake.most == 8
    assert rows["fault burst: over"].verdict is Verdict.PASS
    assert rows["fault disconnects: over"].verdict is Verdict.PASS
    assert rows["answers lost during faults that cut nothing"].value == "0"
    lines = list(read_lines(tmp_path, REQUESTS))
    assert sum(line["kind"] == "burst" for line in lines) == 12
    assert Outcome.REFUSED in {line["outcome"] for line in lines}


async def test_a_slot_that_is_never_given_back_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loadtest.soak.phases.IDLE_WITHIN_S", 2.0)
    async with FakeServer(leaks=True) as fake:
        rows = await soaked(fake, tmp_path)
    assert rows["counts after the last client"].value == "chat running: 1"
    assert rows["counts after the last client"].verdict is Verdict.FAIL


async def test_json_that_does_not_parse_is_a_lost_answer(tmp_path: Path) -> None:
    async with FakeServer(json_text="no JSON") as fake:
        rows = await soaked(fake, tmp_path)
    lost = rows["answers lost outside of faults"]
    assert lost.verdict is Verdict.FAIL
    assert "json of chat: not_json" in lost.reason


async def asked(fake: FakeServer, kind: str) -> tuple[Record, str | None]:
    target = Target(f"{fake.url}/api/chat/v1/chat/completions", "chat", 64, 4096)
    record = Record(0, 0, "chat", 0.0, 8, 8)
    body = b'{"max_tokens": 8, "messages": [1], "n": 1, "stream": true}'
    async with open_session(20) as session:
        client = Client(session, RunClock())
        wrong = await traffic.behave(client, target, BY_NAME[kind], body, record)
    return record, wrong


async def test_a_slow_reader_reads_slowly_and_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic, "SLOW_EVERY_S", 0.01)
    monkeypatch.setattr(traffic, "SLOW_FOR_S", 0.1)
    async with FakeServer() as fake:
        record, wrong = await asked(fake, "slow")
    assert (record.outcome, wrong) == (Outcome.SERVED, None)
    assert (record.ended_s or 0) - (record.sent_s or 0) >= 0.08


async def test_a_slow_reader_that_is_refused_is_not_wrong() -> None:
    async with FakeServer(places=0) as fake:
        record, wrong = await asked(fake, "slow")
    assert (record.outcome, wrong) == (Outcome.REFUSED, None)


async def test_a_wrong_body_that_is_served_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    async with FakeServer() as fake:
        kind = dataclasses.replace(BY_NAME["whole"], wrong=True)
        target = Target(f"{fake.url}/api/chat/v1/chat/completions", "chat", 64, 4096)
        record = Record(0, 0, "chat", 0.0, 8, 8)
        body = b'{"max_tokens": 8, "messages": [1], "n": 1, "stream": false}'
        async with open_session(20) as session:
            client = Client(session, RunClock())
            assert await traffic.behave(client, target, kind, body, record) == "served"
