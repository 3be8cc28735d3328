"""Whole runs against a fake OpenAI server: what comes there, what is written, and the report."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from loadtest.client.record import Outcome
from loadtest.errors import UserError
from loadtest.load import compare, run
from loadtest.load import run as run_dir
from loadtest.load.arrivals import schedule
from loadtest.scenario import Scenario
from tests.loadtest.load.fake_openai import FakeOpenAI, Reply

CHAT = {"tier": "chat", "arrivals": {"kind": "constant", "rate": 40}, "requests": 6}
REASONING = {"tier": "reasoning", "arrivals": {"kind": "poisson", "rate": 40}, "requests": 4}
FEW = {"input_tokens": 8, "output_tokens": 4}


def a_scenario(base_url: str, *loads: dict[str, Any], **more: Any) -> Scenario:
    given = [{**FEW, **load} for load in loads or (CHAT, REASONING)]
    document = {"base_url": base_url, "loads": given, "drain": 5, **more}
    return Scenario.model_validate(document)


async def measured(scenario: Scenario, folder: Path) -> run.Measured:
    quiet = Console(quiet=True)
    return await run.measure(scenario, schedule(scenario), folder, quiet)


async def test_two_tiers_are_measured_and_reported(tmp_path: Path) -> None:
    async with FakeOpenAI(lambda body, n: Reply(thought=2, answer=2, heartbeats=1)) as fake:
        scenario = a_scenario(fake.url, slo={"ttft": 60})
        document = run.finish(scenario, tmp_path, await measured(scenario, tmp_path), ["run"])
    chat = document["tiers"]["chat"]
    assert (chat["served"], chat["output_tokens"], chat["output_tokens_from"]) == (6, 24, "usage")
    assert chat["goodput"]["share"] == 1.0
    assert chat["ttft_s"]["count"] == chat["ttfo_s"]["count"] == chat["tpot_s"]["count"] == 6
    assert chat["input_tokens_told"]["mean"] == 9
    assert document["tiers"]["all"]["served"] == 10
    assert {path.split("/")[2] for path in fake.paths} == {"chat", "reasoning"}
    page = (tmp_path / "report.html").read_text()
    assert "6 / 6" in page
    assert page.count("data:image/png;base64,") == 3
    assert "queue_full" not in page
    lines = (tmp_path / "requests.jsonl").read_text().splitlines()
    assert len(lines) == 10
    assert json.loads((tmp_path / "server.jsonl").read_text().splitlines()[0])["tiers"]["chat"]
    assert len(run_dir.read(tmp_path).records) == 10


async def test_a_request_is_fixed_work_and_no_prompt_comes_twice(tmp_path: Path) -> None:
    async with FakeOpenAI() as fake:
        await measured(a_scenario(fake.url, CHAT), tmp_path)
    body = fake.bodies[0]
    assert (body["model"], body["max_tokens"], body["ignore_eos"]) == ("fake", 4, True)
    assert body["stream"]
    assert body["stream_options"] == {"include_usage": True}
    assert len({body["messages"][0]["content"] for body in fake.bodies}) == 6


async def test_any_openai_server_is_asked_at_its_v1(tmp_path: Path) -> None:
    async with FakeOpenAI(lambda body, n: Reply(usage=False), has_tiers=False) as fake:
        scenario = a_scenario(f"{fake.url}/v1", CHAT, ignore_eos=False)
        document = run.finish(scenario, tmp_path, await measured(scenario, tmp_path), [])
    assert set(fake.paths) == {"/v1/chat/completions"}
    assert "ignore_eos" not in fake.bodies[0]
    assert document["tiers"]["chat"]["output_tokens_from"] == "chunks"
    assert "no GET /api/tiers" in (tmp_path / "report.html").read_text()


async def test_lengths_are_clipped_to_what_the_server_reports(tmp_path: Path) -> None:
    async with FakeOpenAI() as fake:
        got = await measured(a_scenario(fake.url, {**CHAT, "output_tokens": 500}), tmp_path)
    assert all(record.clipped for record in got.records)
    assert {body["max_tokens"] for body in fake.bodies} == {8}


async def test_refusals_are_no_errors_and_nobody_comes_back_untold(tmp_path: Path) -> None:
    refusal = Reply(status=429, code="queue_full", retry_after="7")
    async with FakeOpenAI(lambda body, n: refusal) as fake:
        got = await measured(a_scenario(fake.url, CHAT), tmp_path)
    assert len(fake.bodies) == 6
    assert {record.outcome for record in got.records} == {Outcome.REFUSED}
    assert {record.reason for record in got.records} == {"queue_full"}
    assert got.records[0].refusals[0].retry_after_s == 7


async def test_who_is_refused_comes_back_in_time_with_the_same_words(tmp_path: Path) -> None:
    seen: set[str] = set()

    def first_no_then_yes(body: dict[str, Any], _: int) -> Reply:
        words = body["messages"][0]["content"]
        if words in seen:
            return Reply()
        seen.add(words)
        return Reply(status=429, code="wait_too_long", retry_after="0.2")

    async with FakeOpenAI(first_no_then_yes) as fake:
        scenario = a_scenario(fake.url, CHAT, retries=1)
        document = run.sum_up(scenario, tmp_path, await measured(scenario, tmp_path), [])
    chat = document["tiers"]["chat"]
    assert (chat["served"], chat["refused"]) == (6, {})
    assert chat["retry_after"]["kept_share"] == 1.0
    assert all(record.retried_for_s >= 0.2 for record in run_dir.read(tmp_path).records)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(cut=True), "broken_stream"),
        (Reply(status=500), "http_500"),
        (Reply(status=400, code="invalid_value"), "http_400:invalid_value"),
        (Reply(answer=0), "no_tokens"),
    ],
)
async def test_errors_are_distinguished(tmp_path: Path, reply: Reply, reason: str) -> None:
    async with FakeOpenAI(lambda body, n: reply) as fake:
        got = await measured(a_scenario(fake.url, {**CHAT, "requests": 2}), tmp_path)
    assert [(record.outcome, record.reason) for record in got.records] == [("error", reason)] * 2


async def test_a_closed_loop_keeps_its_clients_busy_and_no_more(tmp_path: Path) -> None:
    closed = {"kind": "closed", "concurrency": 3}
    load = {"tier": "chat", "arrivals": closed, "requests": 9}
    async with FakeOpenAI(lambda body, n: Reply(pause_s=0.005)) as fake:
        got = await measured(a_scenario(fake.url, load), tmp_path)
    assert [record.outcome for record in got.records] == ["served"] * 9
    spans = [(record.sent_s or 0.0, record.ended_s or 0.0) for record in got.records]
    at_once = [sum(a <= begin < b for a, b in spans) for begin, _ in spans]
    assert max(at_once) == 3


async def test_what_has_not_ended_after_the_drain_is_unfinished(tmp_path: Path) -> None:
    async with FakeOpenAI(lambda body, n: Reply(pause_s=1.0)) as fake:
        got = await measured(a_scenario(fake.url, {**CHAT, "requests": 2}, drain=0.1), tmp_path)
    assert [record.outcome for record in got.records] == ["unfinished"] * 2


async def test_a_server_that_is_not_there_is_said_before_anything_is_sent(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be reached"):
        await measured(a_scenario("http://127.0.0.1:9"), tmp_path)


async def test_a_folder_with_a_run_is_not_written_over(tmp_path: Path) -> None:
    async with FakeOpenAI() as fake:
        scenario = a_scenario(fake.url, {**CHAT, "requests": 1})
        await measured(scenario, tmp_path)
        with pytest.raises(UserError, match="holds a run already"):
            await measured(scenario, tmp_path)


async def test_two_runs_are_compared_with_intervals(tmp_path: Path) -> None:
    for name, pause_s in (("a", 0.0), ("b", 0.5)):
        async with FakeOpenAI(lambda body, n, pause_s=pause_s: Reply(pause_s=pause_s)) as fake:
            scenario = a_scenario(fake.url, {**CHAT, "requests": 20}, slo={"ttft": 60})
            folder = tmp_path / name
            run.sum_up(scenario, folder, await measured(scenario, folder), [])
    assert compare.run(tmp_path / "a", tmp_path / "b", tmp_path / "c", Console(quiet=True)) == 0
    reported = json.loads((tmp_path / "c" / "compare.json").read_text())
    tpot = next(row for row in reported["rows"] if row["figure"] == "TPOT p50")
    assert tpot["difference"]["low"] > 0.02
    assert tpot["ratio"]["low"] > 1
    assert "TPOT p50" in (tmp_path / "c" / "compare.html").read_text()


def test_what_is_no_run_cannot_be_compared(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished run"):
        compare.run(tmp_path, tmp_path, None, Console(quiet=True))


def test_a_run_in_which_nothing_comes_is_refused(tmp_path: Path) -> None:
    load = {"tier": "chat", "arrivals": {"kind": "poisson", "rate": 1e-6}}
    with pytest.raises(UserError, match="No request comes"):
        run.execute(a_scenario("http://a", load, duration=1), tmp_path, Console(quiet=True))
