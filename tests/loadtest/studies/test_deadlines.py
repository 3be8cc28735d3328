"""Right answers in time, before a server whose answers and refusals are known."""

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from loadtest.errors import MeasurementError, UserError
from loadtest.evaluation.ask import Answer, Asker, Sampling, open_evaluation_session
from loadtest.evaluation.datasets import Problem
from loadtest.studies import deadlines
from loadtest.studies.deadlines import DEADLINE, LEFT, Due, Outcome, Way
from tests.loadtest.evaluation.fake_openai import FakeOpenAI, GraderHere, Reply, options_of, sums

# Real servers and real seconds.
pytestmark = pytest.mark.slow
GRADER: Any = GraderHere()
TWO_BUDGETS = ("--ways", DEADLINE, "truncate:4", "truncate:8")


@pytest.fixture(autouse=True)
def _grade_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadlines, "Grader", GraderHere)


def in_time_if_it_may_think(body: dict[str, Any], number: int) -> Reply:
    """With a deadline: refused below 10 s, else right. Right with a budget of 8, too."""
    if body.get("deadline_ms", 10_000) < 10_000:
        return Reply(status=429)
    right = int(body["messages"][0]["content"].split()[0]) + 3
    wrong = body.get("thinking_token_budget", 8) < 8
    return Reply(rf"\boxed{{{right + wrong}}}", end="cut" if wrong else "complete")


async def measured(folder: Path, server: FakeOpenAI, *more: object) -> tuple[dict[str, Any], str]:
    console, file = Console(file=io.StringIO(), width=300), folder / "found.json"
    words = ("--base-url", server.url, "--dataset", sums(folder), "--loads", 1, "--json", file)
    short = ("--phase-s", 1, "--clients", 2, "--deadline-s", 2, 60, *more)
    options = options_of("deadlines", *words, *short)
    assert await deadlines.measure(options, ["deadlines"], console) == 0
    assert isinstance(console.file, io.StringIO)
    return json.loads(file.read_text()), console.file.getvalue()


async def test_all_ways_meet_the_same_requests_and_one_names_its_deadline(tmp_path: Path) -> None:
    async with FakeOpenAI(in_time_if_it_may_think) as server:
        found, table = await measured(
            tmp_path, server, "--ways", DEADLINE, "truncate:4", "truncate:8"
        )
    (ways,) = found["loads"].values()
    assert list(ways) == [DEADLINE, "truncate:4", "truncate:8"]
    asked = {len(outcomes) for outcomes in ways.values()}
    assert len(asked) == 1
    assert asked.pop() > 5
    refused = [each["refused"] for each in ways[DEADLINE]]
    assert any(refused)
    assert [each["right"] for each in ways[DEADLINE]] == [not each for each in refused]
    assert not any(each["right"] for each in ways["truncate:4"])
    assert all(each["reasoning_cut"] for each in ways["truncate:4"])
    assert all(each["right"] and each["in_time"] for each in ways["truncate:8"])
    named = [body["deadline_ms"] for body in server.bodies if "deadline_ms" in body]
    assert len(named) == len(ways[DEADLINE])
    assert all(2_000 <= deadline_ms <= 60_000 for deadline_ms in named)
    assert "no right one" in table
    assert "| 1 | truncate:8 |" in table


async def test_a_client_with_a_budget_leaves_at_its_deadline() -> None:
    class Stalled(Asker):
        async def attempt(self, body: bytes, answer: Answer) -> float | None:
            assert json.loads(body)["thinking_token_budget"] == 64
            await asyncio.sleep(60)
            return None

    due = Due(0.0, 0.01, Problem("one", "1 + 3", "4"))
    async with open_evaluation_session(None) as http:
        asker = Stalled(http, "http://x/v1", "m", Sampling(0.6, 0.95, 0))
        answer = await deadlines._ask_in_time(asker, due, Way.read("truncate:64"), 0)
    assert answer.error == LEFT
    outcome = await deadlines._outcome(answer, due, GRADER)
    assert outcome == Outcome(
        refused=False, in_time=False, whole=False, right=False, reasoning_cut=False
    )


async def test_an_answer_that_comes_late_is_not_right_in_time() -> None:
    due = Due(0.0, 2.0, Problem("one", "1 + 3", "4"))
    answer = Answer("one", 0, text="4", finish_reason="stop", started_s=10.0, ended_s=12.1)
    outcome = await deadlines._outcome(answer, due, GRADER)
    assert outcome.whole
    assert not outcome.in_time
    assert not outcome.right


async def test_a_stream_that_ends_for_its_deadline_was_let_in_and_is_late() -> None:
    due = Due(0.0, 2.0, Problem("one", "1 + 3", "4"))
    answer = Answer("one", 0, error="stream", error_text="The deadline of 2000 ms leaves no answer")
    outcome = await deadlines._outcome(answer, due, GRADER)
    assert not outcome.refused
    assert not outcome.in_time


async def test_a_broken_answer_ends_the_measurement(tmp_path: Path) -> None:
    def broken(body: dict[str, Any], number: int) -> Reply:
        return Reply(status=500) if "deadline_ms" in body else Reply()

    async with FakeOpenAI(broken) as server:
        with pytest.raises(MeasurementError, match="500"):
            await measured(tmp_path, server, "--ways", DEADLINE, "truncate:8")


async def test_deadlines_go_upwards(tmp_path: Path) -> None:
    async with FakeOpenAI() as server:
        with pytest.raises(UserError, match="shorter one first"):
            await measured(tmp_path, server, "--deadline-s", 60, 2)


def test_the_ratio_is_of_the_same_requests() -> None:
    right, wrong = (Outcome(False, True, True, is_right, False) for is_right in (True, False))
    ways = {DEADLINE: [right, right, wrong] * 40, "truncate:8": [right, wrong, wrong] * 40}
    last = deadlines.table({1.0: ways}, 10.0).splitlines()[-1]
    assert "| 4.00 | 2.00 (1." in last


@pytest.mark.parametrize("name", ["deadline", "direct", "truncate:64", "deadline+early_exit:24"])
def test_a_way_is_written_as_it_is_read(name: str) -> None:
    assert str(Way.read(name)) == name
