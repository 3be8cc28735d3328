"""What tabs cost, measured on an application that a tab slows by a known part."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from loadtest.__main__ import main, parse
from loadtest.errors import MeasurementError
from loadtest.studies import tab_cost
from tests.api.loopback import served

# A real server and real seconds.
pytestmark = pytest.mark.slow
TOKEN_S = 0.005
TABS = 4


@dataclass
class Slowed:
    """Its tokens come in as much time again for each tab that is open."""

    tabs: int = 0
    asked_history: int = 0
    refuses: bool = False

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self.chat, methods=["POST"]),
                Route("/api/history", self.history),
                Route("/api/tiers/events", self.events),
            ]
        )

    async def chat(self, request: Request) -> Response:
        length = (await request.json())["max_tokens"]

        async def stream() -> AsyncIterator[bytes]:
            event = {"choices": [{"index": 0, "delta": {"content": "x"}}]}
            for _ in range(length):
                await asyncio.sleep(TOKEN_S * (1 + self.tabs))
                yield b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"

        return StreamingResponse(stream(), media_type="text/event-stream")

    async def history(self, request: Request) -> Response:
        self.asked_history += 1
        return JSONResponse({"samples": []}, status_code=403 if self.refuses else 200)

    async def events(self, request: Request) -> Response:
        async def stream() -> AsyncIterator[bytes]:
            self.tabs += 1
            try:
                while True:
                    yield b"data: {}\n\n"
                    await asyncio.sleep(0.1)
            finally:
                self.tabs -= 1

        return StreamingResponse(stream(), media_type="text/event-stream")


async def measured(service: Slowed) -> list[tuple[tab_cost.Half, tab_cost.Half]]:
    async with served(service.app()) as url:
        argv = ["tabs", "--url", url, "--tabs", str(TABS), "--rounds", "1", "--round-s", "1"]
        return await tab_cost.measured(parse([*argv, "--streams", "2", "--output-tokens", "50"]))


async def test_the_halves_with_tabs_are_distinguished_from_those_without() -> None:
    service = Slowed()
    rounds = await measured(service)
    assert service.tabs == 0
    assert service.asked_history == TABS
    for without, with_tabs in rounds:
        # A fifth, or less of a difference where the machine stalls without them.
        assert 0 < with_tabs.tokens_per_s < 0.75 * without.tokens_per_s
        assert without.cpu_ms_per_s[tab_cost.CLIENT] > 0


async def test_a_status_that_is_refused_ends_the_measurement() -> None:
    with pytest.raises(MeasurementError, match="/api/history: 403"):
        await measured(Slowed(refuses=True))


def test_a_service_that_is_not_there_is_said_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tabs", "--url", "http://127.0.0.1:9", "--rounds", "1"]) == 1
    assert "127.0.0.1:9" in capsys.readouterr().out
