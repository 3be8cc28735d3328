"""What is written down of the streams that a fault met."""

import json
from dataclasses import replace
from typing import Any

from loadtest.studies.continuity.asks import asks
from loadtest.studies.continuity.faults import Done
from loadtest.studies.continuity.results import Cut, add, keep, row_of, table
from loadtest.studies.continuity.streams import Ask, Stream
from serve_app.core.tiers import Tier

DONE = Done(order_s=0.5, gone_s=9.0)
END = "data: [DONE]\n\n"
META = {"date": "2026-01-02T03:04:05", "commit": "abc", "machine": {"cores": 2, "cpu": "X"}}
KEY = {
    **{"fault": "replica", "replicas": 2, "model": "micro_r1"},
    **{"streams_at_once": 8, "tokens": 700, "as_served": False, "unbroken_runs": 3},
}


def stream(text: str, *, ends: bool = True, valid: bool = True) -> Stream:
    made = Stream(Ask("text", "/v1/chat/completions", {}, lambda _: valid), status=200)
    for number, letter in enumerate(text):
        made.feed(f'data: {{"choices": [{{"delta": {{"content": "{letter}"}}}}]}}\n\n', number)
    if ends:
        made.feed(END, len(text))
    return made


def test_a_cut_stream_a_different_one_and_one_that_breaks_its_promise_are_distinguished() -> None:
    unbroken = [stream("abc")]
    cuts = [
        Cut.of(stream("abc"), unbroken, 1, DONE),
        Cut.of(stream("ab", ends=False), unbroken, 2, DONE),
        Cut.of(stream("abd"), unbroken, 2, DONE),
        Cut.of(stream("abc", valid=False), unbroken, 1, DONE),
    ]
    found = row_of([], anew=False, **KEY)
    add(found, cuts, 3.0, META)
    add(found, [], 5.0, META)
    assert (found["streams"], found["cut"], found["differ"], found["invalid"]) == (4, 1, 1, 1)
    assert found["why_cut"] == ["text at 2: no last event"]
    assert found["how_different"] == ["text at 2: 0.content from character 2 on: 'd' for 'c'"]
    assert (found["faults"], found["gone_p50_s"], found["gone_max_s"]) == (2, 3.0, 5.0)
    # One lost its replica and was cut; none of the others did.
    assert (found["replayed"], found["silence_max_s"]) == (0, 0.0)


def test_silences_are_of_the_streams_that_went_on_elsewhere() -> None:
    unbroken = [stream("abc")]
    continued = stream("ab", ends=False)
    continued.feed('data: {"choices": [], "tierserve": {"replayed": 1}}\n\n', 7.0)
    continued.feed(END, 7.0)
    cuts = [Cut.of(stream("abc"), unbroken, 1, DONE), Cut.of(continued, unbroken, 1, DONE)]
    found = row_of([], anew=False, **KEY)
    add(found, cuts, 1.0, META)
    assert (found["streams"], found["replayed"], found["by_kind"]) == (2, 1, {"text": 1})
    assert (found["silence_p50_s"], found["silence_max_s"]) == (6.0, 6.0)
    assert (found["beside_s"], found["beside_p95_s"]) == ([1.0], 1.0)


def test_kinds_that_pause_of_themselves_have_no_silence() -> None:
    unbroken = [stream("abc")]
    found = row_of([], anew=False, **KEY)
    cut = replace(Cut.of(stream("abc"), unbroken, 1, DONE), replays=1)
    add(found, [cut, *(replace(cut, kind=kind) for kind in ("json", "tools"))], 1.0, META)
    assert (found["met"], found["silences_s"]) == (3, [1.0])


def test_slices_add_up_to_one_row_and_another_measurement_takes_its_place() -> None:
    cut = Cut.of(stream("ab", ends=False), [stream("abc")], 1, DONE)
    # Of an older form, which has percentiles only.
    rows = [{**KEY, "streams": 14, "silence_p95_s": 1.56}, {**KEY, "fault": "engine"}]
    row = row_of(rows, anew=False, **KEY)
    assert (row["streams"], len(rows)) == (0, 2)
    for commit in ("abc", "def"):
        add(row, [cut], 1.0, {**META, "commit": commit})
        keep(rows, row)
    assert [(each["fault"], each.get("met")) for each in rows] == [("engine", None), ("replica", 2)]
    assert [each["commit"] for each in row["taken"]] == ["abc", "def"]
    assert row_of(rows, anew=False, **KEY) is row
    assert row_of(rows, anew=True, **KEY)["met"] == 0
    other = row_of(rows, anew=False, **{**KEY, "tokens": 200})
    assert other["met"] == 0
    keep(rows, other)
    assert [each["fault"] for each in rows] == ["engine", "replica"]
    assert rows[1] is other


def test_the_table_has_a_row_for_each_fault_and_says_how_it_was_measured() -> None:
    row = row_of([], anew=False, **KEY)
    add(row, [Cut.of(stream("abc"), [stream("abc")], 1, DONE)], 0.25, META)
    row["control"] = {"streams": 8, "differ": 0}
    header, _, line, _, caption = table({"meta": META, "faults": [row]}).splitlines()
    assert line == (
        "| `kill -9` of a replica | micro_r1 | 2 | 1 | 1 | 0 | 0 | 0 | 0 | 0.0 s | 0.0 s | 0.0 s "
        "| 1.0 s | 0.2 s | 0.2 s | 2026-01-02, abc |"
    )
    assert header.count("|") == line.count("|")
    for part in (
        "8 streams of `/v1` at once",
        "in 3 unbroken",
        "of 8 streams 0 were not the same",
        "2 cores of X",
    ):
        assert part in caption


def test_requests_are_greedy_streamed_different_and_the_same_for_a_seed() -> None:
    made = asks(Tier.CHAT, 16, 0)
    assert made[0].body == asks(Tier.CHAT, 16, 0)[0].body != asks(Tier.CHAT, 16, 1)[0].body
    assert {ask.kind for ask in made} == {
        *("text", "budget", "json", "n = 2", "tools", "stop strings"),
        *("logprobs", "completions", "messages"),
    }
    assert all(ask.body["stream"] for ask in made)
    assert all(ask.body["temperature"] == 0 or ask.body["top_k"] == 1 for ask in made)
    assert len({str(ask.body) for ask in made}) == 16
    assert all(ask.body["max_tokens"] <= 200 for ask in asks(Tier.CHAT, 16, 0, 200))


def an_ask(kind: str) -> Ask:
    return next(ask for ask in asks(Tier.CHAT, 16, 0) if ask.kind == kind)


def answer(ask: Ask, *deltas: dict[str, Any], usage: dict[str, Any] | None = None) -> bool:
    made = Stream(ask, status=200)
    for number, delta in enumerate(deltas):
        choice = {"index": number if "n" in ask.body else 0, "delta": delta}
        choice["finish_reason"] = delta.pop("end", None)
        event = {"choices": [choice], "usage": usage}
        made.feed(f"data: {json.dumps(event)}\n\n", 0.0)
    return ask.is_valid(made)


def test_an_answer_is_judged_by_its_kind() -> None:
    json_ask, call_ask, two = an_ask("json"), an_ask("tools"), an_ask("n = 2")
    assert answer(json_ask, {"content": '{"thing": 1}'})
    assert not answer(json_ask, {"content": '{"thing": 1'})

    def call(arguments: str) -> dict[str, Any]:
        return {"tool_calls": [{"index": 0, "function": {"name": "note", "arguments": arguments}}]}

    assert answer(call_ask, call('{"thing": 1}'))
    assert not answer(call_ask, call('{"thing": 1'))
    assert not answer(call_ask, {"content": "{}"})
    assert answer(two, {"end": "length"}, {"end": "length"})
    assert not answer(two, {"end": "length"})


def test_a_limit_and_a_reasoning_budget_are_kept() -> None:
    budget = an_ask("budget")
    most = budget.body["thinking_token_budget"]

    def used(made: int, reasoning: int) -> dict[str, Any]:
        details = {"reasoning_tokens": reasoning}
        return {"completion_tokens": made, "completion_tokens_details": details}

    assert answer(budget, {}, usage=used(700, most))
    assert not answer(budget, {}, usage=used(701, most))
    assert not answer(budget, {}, usage=used(700, most + 1))
    assert not answer(budget, {})
