"""The order of a run, what is thrown away, and the promises that are checked."""

import json
from collections.abc import Sequence

import pytest

from loadtest import overhead
from loadtest.__main__ import make_parser
from loadtest.overhead import Plan, make_prompts, measure
from loadtest.overhead_command import plan_of
from loadtest.results_file import bar, rows
from loadtest.sse_client import chat_body
from loadtest.stats import Repetition
from loadtest.systems import System
from tests.loadtest.builders import compared, repetition

BASE = System("bare", "http://127.0.0.1:1/v1/chat/completions", "bare-run")
OTHER = System("ours", "http://127.0.0.1:2/v1/chat/completions", "our-run")


class FakeServers:
    """Notes who was measured when; `foreign_cores` are handed out in order."""

    def __init__(self, foreign_cores: Sequence[float] = ()) -> None:
        self.order: list[tuple[str, int]] = []
        self._foreign = list(foreign_cores)

    def repeat(
        self,
        system: System,
        systems: Sequence[System],
        plan: Plan,
        concurrency: int,
        prompts: Sequence[str],
    ) -> Repetition:
        self.order.append((system.name, concurrency))
        return repetition(foreign_cores=self._foreign.pop(0) if self._foreign else 0.0)


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> FakeServers:
    fake = FakeServers()
    monkeypatch.setattr(overhead, "repeat", fake.repeat)
    monkeypatch.setattr(overhead, "idle_cores", lambda system, systems: 0.01)
    return fake


def plan(rounds: int = 2, max_repeats: int = 5) -> Plan:
    return Plan(
        rounds, {1: 4, 8: 16}, output_tokens=64, max_foreign_cores=0.2, max_repeats=max_repeats
    )


def test_the_order_turns_around_each_round(servers: FakeServers) -> None:
    measured = measure(BASE, OTHER, plan(), lambda concurrency, pair: None)

    assert servers.order == [
        ("bare", 1), ("ours", 1), ("bare", 8), ("ours", 8),
        ("ours", 1), ("bare", 1), ("ours", 8), ("bare", 8),
    ]  # fmt: skip
    assert {c: len(pairs) for c, pairs in measured.pairs.items()} == {1: 2, 8: 2}
    assert measured.idle_cores == {"bare": 0.01, "ours": 0.01}


def test_a_pair_that_others_disturbed_is_measured_again(
    servers: FakeServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    disturbed = FakeServers(foreign_cores=[0.0, 0.9])
    monkeypatch.setattr(overhead, "repeat", disturbed.repeat)

    measured = measure(BASE, OTHER, plan(), lambda concurrency, pair: None)

    assert measured.disturbed == 1
    assert [len(measured.pairs[c]) for c in (1, 8)] == [2, 2]
    assert len(disturbed.order) == 10


def test_a_machine_that_is_never_quiet_is_measured_all_the_same(
    servers: FakeServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = FakeServers(foreign_cores=[1.0] * 100)
    monkeypatch.setattr(overhead, "repeat", busy.repeat)

    measured = measure(BASE, OTHER, plan(max_repeats=3), lambda concurrency, pair: None)

    assert measured.disturbed == 3
    assert [len(measured.pairs[c]) for c in (1, 8)] == [2, 2]


def test_the_results_are_by_system_and_concurrency(servers: FakeServers) -> None:
    measured = measure(BASE, OTHER, plan(), lambda concurrency, pair: None)

    found = rows(BASE, OTHER, measured)

    assert {name: list(by_c) for name, by_c in found.items()} == {
        "bare": ["1", "8"],
        "ours": ["1", "8"],
    }
    assert set(found["ours"]["8"]) == {
        "tokens_per_s", "ttft_p50_ms", "ttft_p95_ms", "itl_p50_ms", "cpu_s_per_ktoken",
    }  # fmt: skip


def test_no_prompt_comes_twice() -> None:
    prompts = [prompt for number in range(5) for prompt in make_prompts(128, number)]

    assert len(set(prompts)) == len(prompts)


def test_a_request_is_of_fixed_work() -> None:
    body = json.loads(chat_body("chat", "hello", output_tokens=64))

    assert body["max_tokens"] == 64
    assert body["ignore_eos"] is True
    assert body["temperature"] == 0
    assert body["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    ("ratio", "added_ms", "kept"),
    [(0.97, 2.0, [True, True]), (0.969, 2.0, [False, True]), (1.0, 2.1, [True, False])],
)
def test_the_bar(ratio: float, added_ms: float, kept: list[bool]) -> None:
    assert list(bar({"1": compared(ratio, added_ms)}).values()) == kept


def test_the_command_line_chooses_the_plan() -> None:
    words = ["overhead", "--quick", "--rounds", "3", "--concurrency", "8", "16"]

    chosen = plan_of(make_parser().parse_args(words))

    assert chosen.rounds == 3
    assert chosen.requests == {8: 16, 16: 48}
