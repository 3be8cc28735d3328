"""The plain server and the generator's own measurement, on a scale that takes a second."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path

import aiohttp
import pytest
from rich.console import Console

from loadtest.__main__ import parse
from loadtest.client.record import Outcome, Record
from loadtest.client.stream import StreamReader
from loadtest.load import limit, plain_server
from loadtest.load.summary import summarise
from loadtest.scenario import Scenario


async def test_the_plain_server_streams_what_is_asked() -> None:
    ticker = plain_server.Ticker(per_s=1000)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: plain_server.Protocol(ticker), "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    ticking = asyncio.create_task(ticker.run())
    reader = StreamReader()
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/chat/completions", json={"max_tokens": 20}) as response,
    ):
        async for block in response.content.iter_any():
            reader.feed(block, 0.0)
    ticking.cancel()
    server.close()
    assert (len(reader.token_s), reader.usage["completion_tokens"]) == (20, 20)
    assert reader.done


def test_a_rate_is_measured_with_a_server_of_its_own() -> None:
    row = limit.measure(streams=10, rate=200, length_s=1)
    assert (row["served"], row["requests"]) == (10, 10)
    # Fewer where the machine stalls.
    assert 0 < row["chunks_per_s"] < 300
    assert row["chunks_per_cpu_s"] > 0


def test_the_promise_is_judged_by_all_rates() -> None:
    def a_row(rate: float, lag_s: float, *, kept_up: bool) -> dict[str, object]:
        reported = {"chunks_per_s": rate, "chunks_per_cpu_s": 2 * rate, "in_full": kept_up}
        return {**reported, "kept_up": kept_up, "loop_lag_s": {"p50": lag_s, "p99": lag_s}}

    rows = [a_row(5_000, 0.001, kept_up=True), a_row(12_000, 0.2, kept_up=False)]
    reported = limit.verdict(rows)
    assert all(reported["bar"].values())
    assert reported["most_sustained_chunks_per_s"] == 5_000
    assert not any(limit.verdict(rows[:1])["bar"].values())


def test_the_last_rate_is_doubled_until_two_are_too_much(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def measured(_streams: int, rate: int, _length_s: int) -> Mapping[str, object]:
        row: dict[str, object] = {
            "asked_chunks_per_s": rate,
            "chunks_per_s": rate,
            "chunks_per_cpu_s": rate,
        }
        row |= {"cpu_cores": 0.5, "server_cpu_cores": 0.5, "chunks_per_read": 1.0}
        lag_s = rate / 1e6
        return row | {
            "kept_up": rate < holds,
            "in_full": True,
            "loop_lag_s": {"p50": lag_s, "p99": lag_s},
        }

    def rates(*words: str) -> list[int]:
        options = parse(["generator-limit", *words, "--out", str(out)])
        assert limit.run(options, [], Console(quiet=True)) == 0
        return [row["asked_chunks_per_s"] for row in json.loads(out.read_text())["rates"]]

    monkeypatch.setattr(limit, "measure", measured)
    out = tmp_path / "limit.json"
    holds = 100_000
    assert rates()[-3:] == [60_000, 120_000, 240_000]
    assert rates("--rates", "50000", "200000") == [50_000, 200_000, 400_000]
    assert rates("--rates", "200000", "300000") == [200_000, 300_000]
    holds = 1_000_000_000
    assert rates("--rates", "1000") == [1_000, 2_000, 4_000, 8_000, 16_000]


def test_nothing_that_ended_has_no_rates() -> None:
    load = {"tier": "chat", "arrivals": {"kind": "poisson", "rate": 1}}
    scenario = Scenario.model_validate({"duration": 1, "loads": [load]})
    reported = summarise([Record(0, 0, "chat", 0.0, 1, 1)], scenario)
    assert reported["tiers"]["chat"]["output_tokens_per_s"] is None
    assert reported["tiers"]["chat"]["unfinished"] == 1
    assert Outcome.UNFINISHED == "unfinished"
