"""Figures by hand: TPOT, goodput, honesty, lag, and what they are of."""

import asyncio
import time
from array import array
from typing import Any

import pytest

from loadtest.client.chat import RunClock
from loadtest.client.record import Outcome, Record, Refusal
from loadtest.load.lag import LoopLag, report
from loadtest.load.summary import is_good, retries_kept, summarise, timeline
from loadtest.load.targets import Target
from loadtest.report.statistics import spread
from loadtest.scenario import Scenario, Slo, slo_words

REFUSED = Refusal(sent_s=1.0, ended_s=1.1, reason="queue_full", retry_after_s=2.0)


def a_record(**more: Any) -> Record:
    """Due and sent at 1 s; tokens at 1.5, 1.6, 1.7 and 2.1 s."""
    given: dict[str, Any] = {
        **{"number": 0, "load": 0, "tier": "chat", "planned_s": 1.0, "first_sent_s": 1.0},
        **{"input_tokens_asked": 5, "output_tokens_asked": 4, "sent_s": 1.0, "ended_s": 2.2},
        **{"outcome": Outcome.SERVED, "token_s": array("d", [1.5, 1.6, 1.7, 2.1])},
        **{"output_tokens": 4, "tokens_from": "usage", "answer_s": 1.7},
    }
    return Record(**{**given, **more})


def test_latencies_by_hand() -> None:
    record = a_record()
    assert record.ttft_s == pytest.approx(0.5)
    assert record.ttfo_s == pytest.approx(0.7)
    assert record.e2e_s == pytest.approx(1.1)
    assert record.tpot_s == pytest.approx((1.1 - 0.5) / 3)
    assert record.itl_s == pytest.approx([0.1, 0.1, 0.4])


def test_tpot_is_of_tokens_not_of_chunks() -> None:
    assert a_record(output_tokens=7).tpot_s == pytest.approx(0.6 / 6)
    assert a_record(output_tokens=1).tpot_s is None


def test_a_record_survives_its_line() -> None:
    record = a_record(refusals=[REFUSED], reason="x", clipped=True)
    again = Record.from_dict(record.as_dict())
    assert list(again.token_s) == pytest.approx(list(record.token_s))
    again.token_s = record.token_s
    assert again == record


@pytest.mark.parametrize(
    ("slo", "good"),
    [
        ({"ttft": 0.5}, True),
        ({"ttft": 0.49}, False),
        ({"ttft": 0.5, "tpot": 0.21}, True),
        ({"ttft": 0.5, "tpot": 0.19}, False),
        ({"ttfo": 0.71, "e2e": 1.11}, True),
        ({"e2e": 1.0}, False),
        ({}, True),
    ],
)
def test_goodput_needs_every_limit_kept(slo: dict[str, float], good: bool) -> None:
    rounding = 1e-9
    limits = Slo(**{name: limit_s + rounding for name, limit_s in slo.items()})
    assert is_good(a_record(), limits) is good


def test_who_was_not_served_is_not_good_and_coming_back_counts_as_waiting() -> None:
    assert not is_good(a_record(outcome=Outcome.REFUSED), Slo())
    late = a_record(first_sent_s=0.0, refusals=[REFUSED])
    assert not is_good(late, Slo(ttft=1.4))
    assert is_good(late, Slo(ttft=1.6))


def test_an_slo_in_words() -> None:
    assert slo_words(Slo(ttft=2, tpot=0.1)) == "TTFT ≤ 2 s, TPOT ≤ 100 ms"


def test_a_summary_counts_each_kind_of_end() -> None:
    records = [
        a_record(),
        a_record(outcome=Outcome.REFUSED, reason="queue_full", refusals=[REFUSED]),
        a_record(outcome=Outcome.ERROR, reason="http_500", ended_s=6.0),
        a_record(outcome=Outcome.UNFINISHED),
        a_record(tier="reasoning", tokens_from="chunks"),
        a_record(counts=False),
    ]
    load = {"tier": "chat", "arrivals": {"kind": "poisson", "rate": 1}, "slo": {"ttft": 1}}
    scenario = Scenario.model_validate({"duration": 9, "loads": [load]})
    reported = summarise(records, scenario)
    chat = reported["tiers"]["chat"]
    assert (reported["window_s"], reported["warm_up_requests"]) == (5.0, 1)
    assert (chat["requests"], chat["served"], chat["unfinished"]) == (4, 1, 1)
    assert (chat["refused"], chat["errors"]) == ({"queue_full": 1}, {"http_500": 1})
    assert chat["output_tokens_per_s"] == pytest.approx(4 / 5)
    assert chat["goodput"] == {
        **{"slo": "TTFT ≤ 1 s", "good": 1, "of": 4},
        **{"share": 0.25, "per_s": pytest.approx(0.2)},
    }
    assert reported["tiers"]["all"]["output_tokens_from"] == "chunks and usage"
    assert chat["itl_s"]["count"] == 3


def test_a_timeline_puts_everything_where_it_happened() -> None:
    refused = a_record(outcome=Outcome.REFUSED, refusals=[REFUSED], token_s=array("d"))
    reported = timeline([a_record(), refused], [], ([0.5, 1.5], [0.1, 0.3]))
    chat = reported["tiers"]["chat"]
    assert reported["step_s"] == 1.0
    assert chat["arrivals_per_s"] == [0, 2, 0]
    assert chat["refusals_per_s"] == [0, 1, 0]
    assert chat["tokens_per_s"] == [0, 3, 1]
    assert chat["in_flight"] == [0, 2, 0]
    assert reported["lag_s"] == pytest.approx([0.1, 0.3, 0])


def test_honesty_is_about_the_first_return() -> None:
    back = {"sent_s": 3.0}
    reported = retries_kept(
        [
            a_record(refusals=[REFUSED], **back),
            a_record(refusals=[REFUSED, REFUSED], **back),
            a_record(refusals=[REFUSED], outcome=Outcome.ERROR, **back),
            a_record(refusals=[REFUSED], outcome=Outcome.REFUSED),
            a_record(),
        ]
    )
    assert (reported["refused_requests"], reported["came_back"]) == (4, 3)
    assert (reported["served_at_first_return"], reported["refused_again"]) == (1, 1)
    assert reported["failed_at_return"] == 1
    assert reported["kept_share"] == pytest.approx(1 / 3, abs=1e-4)
    assert reported["told_s"]["p50"] == 2.0


def test_without_returns_the_word_is_not_tested() -> None:
    assert (
        retries_kept([a_record(refusals=[REFUSED], outcome=Outcome.REFUSED)])["kept_share"] is None
    )


async def test_lag_rises_when_the_loop_is_blocked() -> None:
    async def measured(block_s: float) -> LoopLag:
        lag = LoopLag(RunClock())
        task = asyncio.create_task(lag.run())
        for _ in range(4):
            await asyncio.sleep(0.03)
            time.sleep(block_s)  # noqa: ASYNC251 (what is tested)
        await asyncio.sleep(0.03)
        task.cancel()
        return lag

    blocked = report((await measured(0.15)).lag_s, [], 0.1)
    assert blocked["loop_lag_s"]["max"] > 0.1
    assert not blocked["kept_up"]
    assert "event loop was late" in blocked["why_not"]
    free = await measured(0.0)
    assert spread(free.lag_s)["p50"] < 0.05


def test_late_sending_and_a_full_core_are_reported() -> None:
    reported = report(array("d", [0.0]), [0.0, 0.2, None], 0.95)
    assert (
        reported["why_not"] == "it sent requests 198 ms late (p99); it used 0.95 cores, and has one"
    )
    assert report(array("d"), [], 0.0)["kept_up"]
    assert "other programs" in report(array("d", [0.2]), [], 0.1)["why_not"]


@pytest.mark.parametrize(
    ("asked", "fitting"),
    [((10, 10), (10, 10, False)), ((10, 999), (10, 50, True)), ((99, 10), (50, 10, True))],
)
def test_lengths_are_clipped_to_the_tier(
    asked: tuple[int, int], fitting: tuple[int, int, bool]
) -> None:
    assert Target("", "", max_new_tokens=50, context_tokens=100).fit(*asked) == fitting
    assert Target("", "", None, None).fit(*asked) == (*asked, False)
