"""`python -m loadtest eval` end to end, against a fake server."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from loadtest.__main__ import main
from loadtest.errors import UserError
from loadtest.evaluation import command
from loadtest.evaluation.ask import DIRECTIVE
from tests.loadtest.evaluation.fake_openai import FakeOpenAI, GraderHere, Reply, options_of, sums

QUIET = Console(quiet=True)


@pytest.fixture(autouse=True)
def _grade_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "Grader", GraderHere)


async def evaluate(fake: FakeOpenAI, folder: Path, *more: object, runs: int = 2) -> dict[str, Any]:
    """The summary of four sums."""
    words = ("--dataset", sums(folder), "--out", folder / "out", "--runs", runs, *more)
    options = options_of("eval", "--base-url", fake.url, *words)
    assert await command.evaluate(options, QUIET) == 0
    return json.loads((folder / "out" / "summary.json").read_text())


def four_at_first(body: dict[str, Any], number: int) -> Reply:
    """`1 + 3` is always right; `2 + 3` in the second run (seed 1) only; the others are wrong."""
    text, run = body["messages"][0]["content"], body["seed"]
    if text.startswith("2 + 3"):
        return Reply(answer=r"\boxed{5}" if run == 1 else r"\boxed{9}")
    return Reply()


async def test_accuracy_tokens_and_thoughts_of_two_runs(tmp_path: Path) -> None:
    async with FakeOpenAI(four_at_first) as fake:
        summary = await evaluate(fake, tmp_path)

    assert len(fake.bodies) == 8
    accuracy, total = summary["accuracy"], summary["total"]
    assert accuracy["pass_at_1"] == 3 / 8
    assert [run["accuracy"] for run in summary["by_run"]] == [0.25, 0.5]
    assert accuracy["cons_at_k"] == 0.25  # a tie of 9 and 5 goes to the first seen
    assert accuracy["over_problems"]["low"] < 3 / 8 < accuracy["over_problems"]["high"]
    assert total["reasoning_tokens"] == {"total": 24, "mean": 3.0}
    assert total["thought_ends"] == {"complete": 8}
    assert (total["thought_cut_share"], total["empty_share"], total["no_result_share"]) == (0, 0, 0)
    assert total["ttft_p50_s"] <= total["ttfo_p50_s"]
    assert total["failed_requests"] == {}
    assert summary["complete"]
    page = (tmp_path / "out" / "summary.md").read_text()
    assert "- pass@1: **37.5%** (4 problems, 2 runs)" in page
    assert len((tmp_path / "out" / "answers.jsonl").read_text().splitlines()) == 8


async def test_what_the_server_reports_of_itself_is_the_tiers_own(tmp_path: Path) -> None:
    async with FakeOpenAI() as fake:
        summary = await evaluate(fake, tmp_path)

    assert summary["server"] == {"load_s": 8.2, "memory_peak_bytes": 3e9}


async def test_what_a_server_does_not_tell_is_not_reported(tmp_path: Path) -> None:
    def plain(body: dict[str, Any], number: int) -> Reply:
        return Reply(usage=False, end=None)

    async with FakeOpenAI(plain, reports_of_itself=False) as fake:
        summary = await evaluate(fake, tmp_path)

    assert summary["server"] == {"load_s": None, "memory_peak_bytes": None}
    assert summary["total"]["completion_tokens"] == {"total": None, "mean": None}
    assert summary["total"]["tokens_per_s"] is None
    page = (tmp_path / "out" / "summary.md").read_text()
    assert "| reasoning | not reported | not reported |" in page


async def test_thoughts_without_an_answer_are_cut_and_empty(tmp_path: Path) -> None:
    def half(body: dict[str, Any], number: int) -> Reply:
        if number % 2:
            return Reply(answer="", end=None, finish_reason="length")
        return Reply(answer="I cannot say.", end="cut")

    async with FakeOpenAI(half) as fake:
        total = (await evaluate(fake, tmp_path))["total"]

    assert (total["thought_cut_share"], total["empty_share"]) == (1.0, 0.5)
    assert total["no_result_share"] == 1.0
    assert total["thought_ends"] == {"cut": 4, "unfinished": 4}


async def test_the_request_is_worded_as_the_options_say(tmp_path: Path) -> None:
    words = ("--seed", 7, "--max-tokens", 99, "--thinking-token-budget", 0, "--limit", 1)
    async with FakeOpenAI() as fake:
        await evaluate(fake, tmp_path, *words, "--reasoning-effort", "low", "--api-key", "secret")
        task = options_of(
            *("eval", "--base-url", fake.url, "--task", "math", "--dataset", sums(tmp_path)),
            *("--out", tmp_path / "task", "--runs", 1),
        )
        await command.evaluate(task, QUIET)

    body = fake.bodies[0]
    assert body["messages"] == [{"role": "user", "content": body["messages"][0]["content"]}]
    assert body["messages"][0]["content"].endswith("\n" + DIRECTIVE)
    assert [body["seed"] for body in fake.bodies[:2]] == [7, 8]
    assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0.6, 0.95, 99)
    assert (body["thinking_token_budget"], body["reasoning_effort"]) == (0, "low")
    assert body["stream_options"] == {"include_usage": True}
    assert "task" not in body
    assert fake.bodies[-1]["task"] == "math"
    assert DIRECTIVE not in fake.asked[-1]
    assert "max_tokens" not in fake.bodies[-1]


async def test_a_429_that_says_when_is_waited_for(tmp_path: Path) -> None:
    def full_at_first(body: dict[str, Any], number: int) -> Reply:
        return Reply(status=429, headers={"Retry-After": "0"}) if number <= 3 else Reply()

    async with FakeOpenAI(full_at_first) as fake:
        summary = await evaluate(fake, tmp_path, runs=1)

    assert len(fake.bodies) == 7
    assert summary["total"]["told_to_wait"] == 3
    assert summary["total"]["failed_requests"] == {}


async def test_other_failures_are_counted_and_asked_again_if_wanted(tmp_path: Path) -> None:
    def second_fails(body: dict[str, Any], number: int) -> Reply:
        if number == 2:
            return Reply(status=429)
        return Reply(finish_reason=None) if number == 4 else Reply()

    async with FakeOpenAI(second_fails) as fake:
        failed = await evaluate(fake, tmp_path, "--concurrency", 1, runs=1)
        again = await evaluate(fake, tmp_path, "--concurrency", 1, runs=1)

    assert failed["total"]["failed_requests"] == {"429": 1, "stream": 1}
    assert failed["total"]["answers"] == 2
    assert again["total"]["failed_requests"] == {}
    assert len(fake.bodies) == 6


async def test_retries_are_those_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadtest.evaluation.ask.FIRST_PAUSE_S", 0.0)

    def always_broken(body: dict[str, Any], number: int) -> Reply:
        return Reply(status=500)

    async with FakeOpenAI(always_broken) as fake:
        summary = await evaluate(fake, tmp_path, "--retries", 2, runs=1)

    assert len(fake.bodies) == 4 * 3
    assert summary["total"]["failed_requests"] == {"500": 4}
    assert summary["accuracy"]["pass_at_1"] == 0


async def test_an_interrupted_evaluation_goes_on_where_it_stopped(tmp_path: Path) -> None:
    running: list[asyncio.Task[dict[str, Any]]] = []

    def stopped_at_the_sixth(body: dict[str, Any], number: int) -> Reply:
        if number == 6:
            running[0].cancel()
        return Reply()

    async with FakeOpenAI(stopped_at_the_sixth) as fake:
        running.append(asyncio.create_task(evaluate(fake, tmp_path, "--concurrency", 1)))
        with pytest.raises(asyncio.CancelledError):
            await running[0]
        kept = len((tmp_path / "out" / "answers.jsonl").read_text().splitlines())
        fake.bodies = fake.bodies[:kept]
        fake.bodies += [{}] * (10 - kept)  # past the sixth
        summary = await evaluate(fake, tmp_path, "--concurrency", 1)

    assert 4 <= kept <= 5
    assert len(fake.bodies) == 10 + 8 - kept
    assert summary["complete"]


async def test_other_settings_in_the_same_folder_are_refused(tmp_path: Path) -> None:
    async with FakeOpenAI() as fake:
        await evaluate(fake, tmp_path)
        with pytest.raises(UserError, match=r"temperature is 0\.6 there and 0\.3 here"):
            await evaluate(fake, tmp_path, "--temperature", 0.3)


async def test_a_server_that_refuses_everything_is_not_asked_everything(tmp_path: Path) -> None:
    def refuses(body: dict[str, Any], number: int) -> Reply:
        return Reply(status=400)

    async with FakeOpenAI(refuses) as fake:
        with pytest.raises(UserError, match=r"every request: 400 .*the fake refuses"):
            await evaluate(fake, tmp_path, "--concurrency", 1, runs=5)

    assert len(fake.bodies) <= 7


async def test_a_server_that_goes_away_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FakeOpenAI() as fake:
        url = fake.url

        async def leave(*_: object) -> str:
            await fake.__aexit__()
            return "fake"

        monkeypatch.setattr(command, "choose_model", leave)
        with pytest.raises(UserError, match=url):
            await evaluate(fake, tmp_path)


async def test_a_wrong_model_is_one_sentence_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with FakeOpenAI(models=("one", "two")) as fake:
        words = ["eval", "--base-url", fake.url, "--dataset", str(sums(tmp_path))]
        code = await asyncio.to_thread(main, [*words, "--model", "three"])

    assert code == 2
    assert "has no model 'three'; it serves one, two." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--dataset", "gsm9k"], "There is no file or dataset 'gsm9k'"),
        (["--base-url", "http://127.0.0.1:9/v1"], "http://127.0.0.1:9/v1 cannot be reached"),
        (["--k", "9"], "cons@9 needs 9 runs; --runs is 5."),
        (["--task", "math", "--directive"], "--task and --directive exclude each other"),
    ],
)
def test_faults_of_the_user_are_one_sentence_and_exit_code_2(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", *words]) == 2
    assert sentence in capsys.readouterr().out
