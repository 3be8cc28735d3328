"""The rate of the open loop: chosen, or a share of what the bare server can."""

import pytest
from rich.console import Console
from rich.progress import Progress

from loadtest.__main__ import make_parser
from loadtest.overhead import command
from loadtest.overhead.command import with_open_loop
from loadtest.overhead.options import plan_of
from loadtest.overhead.plan import OpenLoop, Plan
from loadtest.systems import System
from tests.loadtest.builders import repetition

BARE = System("bare", "http://127.0.0.1:1", "bare-run")


def planned(*words: str) -> Plan:
    options = make_parser().parse_args(["overhead", *words])
    progress = Progress(console=Console(quiet=True))
    return with_open_loop(options, plan_of(options), BARE, [BARE], progress)


def test_it_is_half_of_what_the_faster_of_two_tries_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tries = [repetition(tokens_per_s=128), repetition(tokens_per_s=1280)]
    monkeypatch.setattr(command, "repeat", lambda *_: tries.pop())

    assert planned().levels[-1] == OpenLoop(rate_rps=10.0, requests=80)


def test_a_chosen_rate_is_not_measured() -> None:
    assert planned("--open-loop-rate", "3").levels[-1] == OpenLoop(rate_rps=3.0, requests=80)


def test_a_rate_of_0_leaves_the_open_loop_out() -> None:
    levels = planned("--open-loop-rate", "0").levels

    assert [level.name for level in levels] == ["1", "8", "32"]
