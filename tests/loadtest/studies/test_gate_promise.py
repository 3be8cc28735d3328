"""The gate's promises, counted before a service whose waits and refusals are known."""

import argparse
import asyncio
import io
import json
from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web
from rich.console import Console

from loadtest.__main__ import parse
from loadtest.client.record import Outcome, Record
from loadtest.errors import MeasurementError, UserError
from loadtest.scenario import Poisson, Uniform
from loadtest.studies import gate_promise
from loadtest.studies.gate_promise import Kept, Mix
from tests.loadtest.studies.app_in_thread import served

SLOTS, ANSWER_S = 2, 0.1
TOKEN = b'data: {"choices":[{"delta":{"content":"1"}}]}\n\n'
LAST = b'data: {"choices":[{"delta":{},"finish_reason":"length"}]}\n\ndata: [DONE]\n\n'


class Service:
    """So many slots and no queue; who is refused may come back in a second."""

    def __init__(self) -> None:
        self.running = 0
        self.breaks = False

    async def tiers(self, _: web.Request) -> web.Response:
        settings = {"admission": {"max_wait_s": 1.0}}
        tier = {"tier": "chat", "slots": SLOTS, "settings": settings, "max_new_tokens": 64}
        return web.json_response({"tiers": [tier]})

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "chat"}]})

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if self.breaks:
            return web.Response(status=500, text="broken")
        if self.running >= SLOTS:
            return web.Response(status=429, text="full", headers={"retry-after": "1"})
        self.running += 1
        try:
            answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
            await answer.prepare(request)
            await answer.write(TOKEN)
            await asyncio.sleep(ANSWER_S)
            await answer.write(TOKEN + LAST)
        finally:
            self.running -= 1
        return answer


@pytest.fixture
def service() -> Iterator[tuple[Service, str]]:
    service, app = Service(), web.Application()
    app.router.add_get("/api/tiers", service.tiers)
    app.router.add_get("/api/chat/v1/models", service.models)
    app.router.add_post("/api/chat/v1/chat/completions", service.answer)
    with served(app) as url:
        yield service, url


def play(url: str, *more: object) -> str:
    words = ("gate-promise", "--base-url", url, "--mixes", "10/2", "--phase-s", 2, *more)
    console = Console(file=io.StringIO(), width=300)
    options = parse([str(word) for word in words])
    assert gate_promise.run(options, ["gate-promise"], console) == 0
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.slow
def test_a_service_without_a_queue_refuses_in_overload_and_is_in_time(
    service: tuple[Service, str], tmp_path: Path
) -> None:
    file = tmp_path / "kept.json"
    text = play(service[1], "--loads", 0.2, 2, "--json", file)
    low, high = json.loads(file.read_text())["kept"]
    assert low["in_time"] == high["in_time"] == high["as_promised"] == 1.0
    assert 0 < high["longest_s"] < 1
    assert high["refused"] > low["refused"]
    assert high["refused"] > 0
    assert 0 <= high["honest"] < 1
    assert high["admitted"] < high["requests"]
    assert high["per_s"] <= SLOTS / ANSWER_S
    assert "| 10/2 | 0.2 |" in text


@pytest.mark.slow
def test_a_broken_answer_ends_the_measurement(service: tuple[Service, str]) -> None:
    service[0].breaks = True
    with pytest.raises(MeasurementError, match="500"):
        play(service[1], "--loads", 1)


def test_an_unknown_tier_is_named(service: tuple[Service, str]) -> None:
    with pytest.raises(UserError, match="no tier reasoning"):
        play(service[1], "--tier", "reasoning")


def test_a_first_token_may_be_late_by_a_step() -> None:
    def a_record(first_s: float, gap_s: float) -> Record:
        record = Record(0, 0, "chat", 0.0, 10, 3, sent_s=0.0, outcome=Outcome.SERVED)
        record.token_s = array("d", [first_s, first_s + gap_s, first_s + 2 * gap_s])
        return record

    assert gate_promise._in_time(a_record(10.2, 0.3), max_wait_s=10.0)
    assert not gate_promise._in_time(a_record(10.4, 0.3), max_wait_s=10.0)
    assert not gate_promise._in_time(Record(0, 0, "chat", 0.0, 10, 3), max_wait_s=10.0)


def test_a_long_overload_is_waited_for_until_its_last_promise() -> None:
    options = argparse.Namespace(
        tier="chat", base_url="http://127.0.0.1", phase_s=180, loads=[1, 2.5], seed=0
    )
    scenario = gate_promise._scenario(options, Mix.read("10/10"), Poisson(rate=1.0))
    assert scenario.drain == 1.5 * 180 + gate_promise.LAST_ANSWER_S


def test_goodput_is_compared_with_that_at_capacity() -> None:
    def kept(load: float, per_s: float, honest: float | None) -> Kept:
        return Kept("10/10", load, 100, 90, 0.985, 0.995, 12.3, 10, honest, per_s)

    rows = gate_promise.table([kept(0.5, 2.0, None), kept(1, 4.0, 1.0), kept(3, 3.9, 0.912)])
    assert rows.splitlines()[2:] == [
        "| 10/10 | 0.5 | 100 | 98.5% | 99.5% | 12.3 s | 10 |  | 2.00 | 0.50 |",
        "| 10/10 | 1 | 100 | 98.5% | 99.5% | 12.3 s | 10 | 100.0% | 4.00 | 1.00 |",
        "| 10/10 | 3 | 100 | 98.5% | 99.5% | 12.3 s | 10 | 91.2% | 3.90 | 0.97 |",
    ]


def test_mixes_are_numbers_or_ranges() -> None:
    assert Mix.read("10-1000/400") == Mix("10-1000/400", Uniform(low=10, high=1000), 400)
    for wrong in ("10", "a/10", "10-5/10", "0/10", "1/2/3"):
        with pytest.raises(argparse.ArgumentTypeError):
            Mix.read(wrong)
