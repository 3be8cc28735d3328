"""The measurement of fairness before a service whose first tokens are known."""

import asyncio
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from aiohttp import web
from rich.console import Console

from loadtest.__main__ import parse
from loadtest.errors import MeasurementError
from loadtest.studies import fairness
from loadtest.studies.other_key import OtherCounts
from tests.loadtest.studies.app_in_thread import served

# Real servers and real seconds.
pytestmark = pytest.mark.slow
MOST_STREAMS = 6
ALONE_S, BESIDE_S = 0.01, 0.1
TOKEN = b'data: {"choices":[{"delta":{"content":"1"}}]}\n\n'


class Service:
    """Refuses the key `flood` above MOST_STREAMS; a first token takes longer beside others."""

    def __init__(self, *, breaks: bool = False) -> None:
        self.streams = 0
        self.breaks = breaks

    async def answer(self, request: web.Request) -> web.StreamResponse:
        is_flood = request.headers["authorization"] == "Bearer flood"
        if self.breaks:
            return web.Response(status=500, text="broken")
        if is_flood and self.streams >= MOST_STREAMS:
            return web.Response(status=429, text="full")
        first_s = BESIDE_S if self.streams else ALONE_S
        self.streams += is_flood
        try:
            answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
            await answer.prepare(request)
            await answer.write(b": heartbeat\n\n")
            await asyncio.sleep(first_s)
            await answer.write(TOKEN)
            await asyncio.sleep(0.05)
            await answer.write(b"data: [DONE]\n\n")
        finally:
            self.streams -= is_flood
        return answer


@pytest.fixture
def service() -> Iterator[tuple[Service, str]]:
    service, app = Service(), web.Application()
    app.router.add_post("/v1/chat/completions", service.answer)
    with served(app) as url:
        yield service, f"{url}/v1"


def measured(url: str, tmp_path: Path) -> tuple[str, dict[str, fairness.Phase]]:
    argv = ["fairness", "--url", url, "--light-key", "light", "--flood-key", "flood"]
    argv += [
        "--rate",
        "20",
        "--busy-streams",
        "4",
        "--flood-clients",
        "20",
        "--rounds",
        "1",
        "--flood-times",
        "3",
    ]
    argv += ["--phase-s", "1", "--json", str(tmp_path / "out.json")]
    console = Console(file=io.StringIO(), width=200)
    assert fairness.run(parse(argv), argv, console) == 0
    document = json.loads((tmp_path / "out.json").read_text())
    assert "--light-key … --flood-key … --rate" in document["meta"]["command"], "people keep it"
    phases = {
        name: fairness.Phase(phase["ttft_s"], phase["refused"], OtherCounts(**phase["other"]))
        for name, phase in document["phases"].items()
    }
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue(), phases


def test_each_phase_meets_its_load_and_the_table_compares_them(
    service: tuple[Service, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fairness, "SETTLES_S", 0.2)
    shown, phases = measured(service[1], tmp_path)

    alone, busy, flood = (phases[name].other for name in ("alone", "busy", "flood"))
    assert (alone.served, alone.refused) == (0, 0)
    assert busy.served > 0
    assert busy.refused == 0
    assert flood.refused > 0
    # No faster than asked for, whatever else the machine does.
    assert (flood.served + flood.refused - 20) / flood.seconds <= 3 * busy.served / busy.seconds
    assert flood.cpu_s > 0
    first_s = {name: phase.ttft_s for name, phase in phases.items()}
    # Some of those that were asked alone may have come late, for the machine's sake.
    assert max(first_s["flood"]) >= BESIDE_S > min(first_s["alone"])
    row = next(line for line in shown.splitlines() if line.startswith("| flood |"))
    ratio = float(row.split("|")[6].split("(")[0])
    p95_s = [np.percentile(first_s[name], 95) for name in ("flood", "alone")]
    assert ratio == pytest.approx(p95_s[0] / p95_s[1], abs=0.01)


def test_an_error_of_the_service_is_no_measurement(
    service: tuple[Service, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fairness, "SETTLES_S", 0.2)
    service[0].breaks = True
    with pytest.raises(MeasurementError, match="500: broken"):
        measured(service[1], tmp_path)
