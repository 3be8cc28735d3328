"""The requests of a repetition: of fixed work, never twice, the same for every system."""

import asyncio
import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence

import pytest

from loadtest.client.chat import chat_body
from loadtest.client.record import Record
from loadtest.servers.systems import System, at_v1
from loadtest.studies.overhead import measure as repetition
from loadtest.studies.overhead.command import beside
from loadtest.studies.overhead.measure import (
    Turn,
    arrivals_s,
    idle_cores,
    label_of,
    make_prompts,
    repeat,
)
from loadtest.studies.overhead.plan import ClosedLoop, OpenLoop, quick_plan


def test_no_prompt_comes_twice() -> None:
    labels = [
        f"{level}/{number}.{attempt}"
        for level in (1, 8)
        for number in range(3)
        for attempt in range(2)
    ]
    prompts = [prompt for label in labels for prompt in make_prompts(128, label)]

    assert len(set(prompts)) == len(prompts)
    assert make_prompts(4, labels[0]) == make_prompts(4, labels[0])


def test_a_server_that_is_measured_twice_in_a_round_gets_no_prompt_again() -> None:
    bare, ours = System("bare", "", "bare-run"), System("ours", "", "ours-run")
    level, turn = ClosedLoop(8, 40), Turn(0)
    alone, again, theirs, at_their_v1 = (
        make_prompts(level.requests, label_of(system, level, turn))
        for system in (bare, beside(bare, ours), ours, at_v1(ours))
    )

    assert alone == theirs
    assert set(alone).isdisjoint(again)
    assert set(theirs).isdisjoint(at_their_v1)


def test_a_request_is_of_fixed_work() -> None:
    body = json.loads(chat_body("chat", "hello", output_tokens=64))

    assert body["max_tokens"] == 64
    assert body["ignore_eos"] is True
    assert body["temperature"] == 0
    assert body["stream_options"] == {"include_usage": True}


def test_answers_of_one_length_are_of_one_length() -> None:
    assert ClosedLoop(2, 3).lengths_tokens(64, 0) == [64, 64, 64]
    assert ClosedLoop(2, 3).run_in == 0


def test_unequal_lengths_are_the_same_for_every_server_and_others_in_every_round() -> None:
    level = ClosedLoop(32, 2000, unequal=True)

    lengths_tokens = level.lengths_tokens(64, 0)

    assert lengths_tokens == level.lengths_tokens(64, 0) != level.lengths_tokens(64, 1)
    run_in, counted = lengths_tokens[: level.run_in], lengths_tokens[level.run_in :]
    assert len(run_in) == 32
    assert min(run_in) < 32
    assert (min(counted), max(counted)) == (32, 96)
    assert sum(counted) / len(counted) == pytest.approx(64, rel=0.03)


async def test_the_times_of_the_run_in_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    async def run_closed_loop(
        url: str, bodies: Sequence[bytes], *, concurrency: int
    ) -> list[Record]:
        asked.extend(json.loads(body)["max_tokens"] for body in bodies)
        records = [Record(number, 0, "", 0.0, 0, 0) for number in range(len(bodies))]
        for record in records:
            record.sent_s, record.output_tokens = 0.0, 1
            record.token_s.append(float(record.number))
        return records

    monkeypatch.setattr(repetition, "run_closed_loop", run_closed_loop)
    monkeypatch.setattr(repetition, "frozen", lambda run_ids: contextlib.nullcontext())
    monkeypatch.setattr(repetition, "await_quiet", lambda system, plan: None)
    monkeypatch.setattr(repetition, "cpu_by_part_s", lambda run_id: {"ray": 0.0})
    bare, level = System("bare", "", "bare-run"), ClosedLoop(2, 3, unequal=True)

    done = await asyncio.to_thread(repeat, bare, [bare], quick_plan(), level, Turn(0))

    assert asked == [8, 8, *level.lengths_tokens(64, 0)]
    assert list(done.ttft_s) == [2.0, 3.0, 4.0]
    assert done.output_tokens == 5


def test_arrivals_are_the_same_for_every_system_and_others_in_every_round() -> None:
    level = OpenLoop(rate_rps=20.0, requests=2000)

    due_s = arrivals_s(level, 0)

    assert due_s == arrivals_s(level, 0) == sorted(due_s)
    assert due_s != arrivals_s(level, 1)
    assert due_s[-1] == pytest.approx(2000 / 20.0, rel=0.1)


def test_who_stands_by_is_awake_and_its_cpu_time_is_no_strangers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asleep: list[set[str]] = []
    used_s = {"bare-run": 0.0, "ours-run": 0.0, "other-run": 0.0}

    def a_second_goes_by(seconds: float) -> None:
        used_s.update({"bare-run": used_s["bare-run"] + 0.1, "ours-run": used_s["ours-run"] + 0.2})

    @contextlib.contextmanager
    def frozen(run_ids: Iterable[str]) -> Iterator[None]:
        asleep.append(set(run_ids))
        yield

    monkeypatch.setattr(repetition, "frozen", frozen)
    monkeypatch.setattr(repetition, "cpu_by_part_s", lambda run_id: {"ray": used_s[run_id]})
    monkeypatch.setattr(repetition.time, "sleep", a_second_goes_by)
    bare, ours, other = (System(name, "", f"{name}-run") for name in ("bare", "ours", "other"))
    systems = [bare, beside(bare, ours), ours, other]

    cores = [idle_cores(system, systems, seconds=1.0) for system in systems[:2]]

    assert asleep == [{"ours-run", "other-run"}, {"other-run"}]
    assert cores == pytest.approx([0.1, 0.3])
