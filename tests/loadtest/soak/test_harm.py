"""Whether replicas were kept, by their pids; and what is done where something is missing."""

from typing import Any

import pytest

from loadtest.soak import harm
from loadtest.soak.harm import MeasurementError, _kept
from loadtest.soak.plan import FAULTS, Turn


@pytest.mark.parametrize(
    ("before", "now", "kept"),
    [
        ({1, 2}, {1, 2}, True),
        ({1, 2}, {1, 3}, False),
        ({1, 2}, {1}, True),
        ({1, 2}, {3}, False),
        ({1}, {1, 2}, True),
        ({1}, set(), False),
    ],
)
def test_fewer_replicas_are_kept_ones_and_others_are_not(
    before: set[int], now: set[int], kept: bool
) -> None:
    assert _kept({"chat": before}, {"chat": now}) is kept


@pytest.mark.parametrize("name", ["settings", "engine", "controller"])
async def test_a_server_that_reports_nothing_cannot_be_harmed(name: str) -> None:
    class Silent:
        async def tiers(self) -> None:
            return None

    class Traffic:
        tiers = ("chat",)

    turn = Turn(next(fault for fault in FAULTS if fault.name == name), 0)
    with pytest.raises(MeasurementError, match="api/tiers"):
        await harm.harm(turn, Silent(), Traffic())  # pyright: ignore[reportArgumentType]


async def test_settings_change_and_change_back_and_are_over_then() -> None:
    class Server:
        limit = 9
        deployed: list[int]

        def __init__(self) -> None:
            self.deployed = []

        async def tiers(self) -> Any:
            replica = {"pid": 1, "ready": True}
            return {"chat": {"max_new_tokens": self.limit, "replicas": [replica]}}

        async def deploy(self, change: Any) -> None:
            settings = {"max_new_tokens": 9}
            change(settings)
            self.deployed.append(settings["max_new_tokens"])

    class Traffic:
        tiers = ("chat",)

    server = Server()
    turn = Turn(next(fault for fault in FAULTS if fault.name == "settings"), 0)
    done = await harm.harm(turn, server, Traffic())  # pyright: ignore[reportArgumentType]
    assert not await done.is_over()
    server.limit = 8
    assert not await done.is_over()
    assert server.deployed == [8, 9]
    assert not await done.is_over()
    server.limit = 9
    assert await done.is_over()
