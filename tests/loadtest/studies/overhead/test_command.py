"""What is fitted to the bare server's rate: the open loop, and the length of a repetition."""

import pytest
from rich.console import Console
from rich.progress import Progress

from loadtest.__main__ import parse
from loadtest.servers.systems import System
from loadtest.studies.overhead import command
from loadtest.studies.overhead.command import with_rates
from loadtest.studies.overhead.measure import Turn
from loadtest.studies.overhead.options import plan_of
from loadtest.studies.overhead.plan import ClosedLoop, Level, OpenLoop, Plan
from tests.loadtest.builders import repetition

BARE = System("bare", "http://127.0.0.1:1", "bare-run")


def planned(*words: str) -> Plan:
    options = parse(["overhead", *words])
    progress = Progress(console=Console(quiet=True))
    return with_rates(options, plan_of(options), BARE, [BARE], progress)


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The levels that were measured, at 640 tokens a second of each stream; the first try of each
    has a tenth of it."""
    names: list[str] = []

    def repeat(
        _system: object, _systems: object, _plan: object, level: Level, turn: Turn
    ) -> object:
        names.append(level.name)
        share = 0.1 if turn.attempt == 0 else 1.0
        return repetition(tokens_per_s=640.0 * level.streams * share)

    monkeypatch.setattr(command, "repeat", repeat)
    return names


def test_the_open_loop_is_half_of_what_the_faster_of_two_tries_answers() -> None:
    assert planned().levels[-1] == OpenLoop(rate_rps=160.0, requests=640)


def test_a_chosen_rate_is_kept() -> None:
    assert planned("--open-loop-rate", "3").levels[-1] == OpenLoop(rate_rps=3.0, requests=80)


def test_a_rate_of_0_leaves_the_open_loop_out() -> None:
    levels = planned("--open-loop-rate", "0").levels

    assert [level.name for level in levels] == ["1", "8", "32", "32-unequal"]


def test_a_repetition_takes_the_baseline_server_four_seconds_in_whole_waves() -> None:
    # Ten requests a second of each stream; thirteen tokens, and it is a little more than 49.
    assert planned().levels[:4] == (
        ClosedLoop(1, 40),
        ClosedLoop(8, 320),
        ClosedLoop(32, 1280),
        ClosedLoop(32, 1280, unequal=True),
    )
    levels = planned("--output-tokens", "13", "--concurrency", "8").levels
    assert levels[0] == ClosedLoop(8, 1576)


def test_a_slow_server_gets_the_requests_of_the_plan() -> None:
    levels = planned("--output-tokens", "6400").levels

    assert levels[:3] == (ClosedLoop(1, 8), ClosedLoop(8, 40), ClosedLoop(32, 96))


def test_quick_rounds_are_short(asked: list[str]) -> None:
    levels = planned("--quick").levels

    assert levels[:3] == (ClosedLoop(1, 4), ClosedLoop(8, 16), ClosedLoop(32, 64))
    assert asked == ["32", "32"]


def test_quick_rounds_of_a_chosen_rate_measure_nothing_before(asked: list[str]) -> None:
    assert planned("--quick", "--open-loop-rate", "3").levels[-1].requests == 40
    assert asked == []
