"""A stream that the gateway follows: its journal, and how it goes on at another replica."""

import asyncio
import json
import logging
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Send

from serve_app.api.edge import TierEdge
from serve_app.api.replay_wire import (
    JOURNAL_HEADER,
    REPLAYED_HEADER,
    RESUME_HEADER,
    Resumption,
    journal_mark,
)
from serve_app.config.answers import AnswerCacheConfig, AnswersConfig
from serve_app.core.access.lease import Amounts
from serve_app.core.generation import GENERATION
from serve_app.core.reasoning.answer_policy import AnswerPolicy
from serve_app.core.replay.journal import EngineStep, read
from tests.api.asgi import Call, FakeEngine, answers, call
from tests.api.fake_keys import TEAM, FakeKeys, FakeQuotas, a_fake_desk, a_key, bearer
from tests.api.followed import (
    DONE,
    ID,
    STREAM,
    SteppingEngine,
    Taken,
    going_on,
    marked,
    resumed,
)
from tests.builders import SECRET, a_gate, an_edge, count, idle, some_settings
from tests.virtual_time import run_virtual, virtual

# What each step of the engine leads to: nothing, as for half a character, or some events.
STEPS = st.lists(st.lists(st.text("ab:\n", max_size=3), max_size=3), min_size=1, max_size=6)
HELLO = [["He"], ["l"], [], ["lo", "!"]]


def an_edge_of(steps: list[list[str]], **engine: Any) -> tuple[TierEdge, SteppingEngine]:
    stepping = SteppingEngine(steps, **engine)
    return an_edge(FakeEngine(stepping)), stepping


def a_caching_edge() -> tuple[TierEdge, SteppingEngine]:
    engine = SteppingEngine(HELLO)
    cache = AnswerCacheConfig(enabled=True)
    settings = some_settings().model_copy(update={"answer_cache": cache})
    return an_edge(FakeEngine(engine), settings=settings), engine


def texts(taken: Taken) -> list[Any]:
    """The events, but for when they say that they were created, and that they went on."""
    said = [json.loads(event.removeprefix(b"data: ")) for event in taken.events[:-1]]
    assert taken.events[-1] + b"\n\n" == DONE
    return [each["choices"] for each in said]


# --- the journal of a stream that begins here


@virtual
async def test_each_chunk_carries_the_steps_that_led_to_it() -> None:
    edge, _ = an_edge_of(HELLO)
    made = await call(edge, payload=STREAM, headers=marked())
    assert made.headers[JOURNAL_HEADER.decode()] == "1"
    bodies = [message["body"] for message in made.messages[1:]]
    assert bodies[0].startswith(b':j 0 0 0,0\n\ndata: {"id"')
    assert bodies[1].startswith(b"data: ")
    assert bodies[3].startswith(b":j 0 0 2,2;0 0 3,3\n\ndata: ")
    taken = Taken.of(made.text)
    steps = [step for line in taken.steps for step in read(line.decode())]
    assert steps == [EngineStep(0, 0, (number, number)) for number in range(4)]
    assert idle(edge.gate)


@virtual
async def test_nobody_gets_a_journal_who_does_not_have_the_clusters_key() -> None:
    stolen = journal_mark(SECRET.key, "another").encode()
    for value in (b"1", b"", b"\xff" * 64, journal_mark(b"x" * 32, ID).encode(), stolen):
        edge, engine = an_edge_of(HELLO)
        headers = [(b"x-request-id", ID.encode()), (b"X-Tierserve-Journal", value)]
        made = await call(edge, payload=STREAM, headers=headers)
        assert engine.journals == [None]
        assert JOURNAL_HEADER.decode() not in made.headers
        assert ":j " not in made.text


@virtual
async def test_a_forged_resumption_is_taken_off_and_the_request_is_served_as_it_is() -> None:
    true = Resumption(0, 3, 1).header(SECRET.key, "another").encode()
    for value in (b"", b"1 2 3", true, Resumption(0, 3, 1).header(b"x" * 32, ID).encode()):
        engine = FakeEngine(SteppingEngine(HELLO))
        edge = an_edge(engine)
        headers = [(b"x-request-id", ID.encode()), (RESUME_HEADER, value)]
        made = await call(edge, payload=STREAM, headers=headers)
        assert len(Taken.of(made.text).events) == 7
        names = {name.lower() for name, _ in engine.scopes[0]["headers"]}
        assert names.isdisjoint({RESUME_HEADER, JOURNAL_HEADER})
        assert count(edge, "requests_total", status="200") == 1


@virtual
async def test_a_whole_answer_carries_no_journal() -> None:
    journals: list[object] = []

    async def answering(payload: dict[str, Any], send: Send) -> None:
        generation = GENERATION.get()
        assert generation is not None
        journals.append(generation.journal)
        await answers({"choices": []})(payload, send)

    edge = an_edge(FakeEngine(answering))
    made = await call(edge, payload={"prompt": "hi"}, headers=marked())
    assert journals == [None]
    assert JOURNAL_HEADER.decode() not in made.headers


@virtual
async def test_an_engine_that_cannot_go_on_with_a_journal_is_given_none() -> None:
    edge, engine = an_edge_of(HELLO)
    edge.reader.journals = False
    made = await call(edge, payload=STREAM, headers=marked())
    assert engine.journals == [None]
    assert JOURNAL_HEADER.decode() not in made.headers


@virtual
async def test_the_cache_keeps_the_answer_and_not_the_journal() -> None:
    edge, engine = a_caching_edge()
    payload = {**STREAM, "temperature": 0}
    first = await call(edge, payload=payload, headers=marked())
    again = await call(edge, payload=payload, headers=marked())
    assert engine.runs == 1
    assert ":j " in first.text
    assert ":j " not in again.text
    assert JOURNAL_HEADER.decode() not in again.headers
    assert Taken.of(first.text).events == Taken.of(again.text).events


# --- going on


async def _whole_and_cut(
    steps: list[list[str]], cuts: list[int], together: bool
) -> tuple[Taken, Taken]:
    whole = Taken.of((await call(an_edge_of(steps)[0], payload=STREAM)).text)
    edge, _ = an_edge_of(steps, together=together)
    made = await call(edge, payload=STREAM, headers=marked())
    taken = Taken.of(made.text, most_events=cuts[0])
    for replays, cut in enumerate([*cuts[1:], 100], 1):
        edge, engine = an_edge_of(steps, together=together)
        engine.runs = 10 * replays
        later = going_on(edge, taken, replays=replays)
        await later.done
        assert later.headers[REPLAYED_HEADER.decode()] == str(replays)
        assert count(edge, "replay_mismatches_total") == 0
        assert count(edge, "resumed_streams_total") == 1
        assert idle(edge.gate)
        taken = taken.then(Taken.of(later.text, most_events=cut))
    return whole, taken


@settings(max_examples=60, deadline=None)
@given(STEPS, st.lists(st.integers(0, 12), min_size=1, max_size=3), st.booleans())
def test_wherever_it_is_cut_the_client_has_each_event_once_and_in_order(
    steps: list[list[str]], cuts: list[int], together: bool
) -> None:
    most = 3 + sum(map(len, steps))
    whole, taken = run_virtual(
        _whole_and_cut(steps, [min(cut, most - 1) for cut in cuts], together)
    )
    assert texts(taken) == texts(whole)
    assert [step for line in taken.steps for step in read(line.decode())] == [
        EngineStep(0, 0, (number, number)) for number in range(len(steps))
    ]
    created = {json.loads(event.removeprefix(b"data: "))["created"] for event in taken.events[:-1]}
    assert len(created) == 1


@virtual
async def test_the_last_chunk_says_how_often_it_went_on() -> None:
    edge, _ = an_edge_of(HELLO)
    later = going_on(edge, Taken([b"data: 1"], [b"0 0 0,0"]), replays=2)
    await later.done
    last = json.loads(Taken.of(later.text).events[-2].removeprefix(b"data: "))
    assert last["tierserve"] == {"replayed": 2}


@virtual
async def test_a_stream_goes_on_where_the_tiers_policy_has_become_a_vote() -> None:
    """It was begun under another one, which is set live: nobody votes on the rest."""
    whole = Taken.of((await call(an_edge_of(HELLO)[0], payload=STREAM)).text)
    begun = await call(an_edge_of(HELLO)[0], payload=STREAM, headers=marked())
    taken = Taken.of(begun.text, most_events=3)
    engine = SteppingEngine(HELLO, pause_s=1.0)
    voting = some_settings().model_copy(
        update={"answers": AnswersConfig(policy=AnswerPolicy.VOTE, vote_samples=3)}
    )
    edge = an_edge(FakeEngine(engine), gate=a_gate(slots=4), settings=voting)
    later = going_on(edge, taken)
    await asyncio.sleep(0.5)
    assert edge.gate.running_sequences == 1
    await later.done
    assert later.status == 200
    assert engine.journals[0] is not None
    assert len(engine.journals[0].past) == len(taken.steps)
    assert texts(taken.then(Taken.of(later.text))) == texts(whole)


@virtual
async def test_its_response_begins_with_the_first_event_that_comes_again() -> None:
    edge, _ = an_edge_of(HELLO, hangs_at=2)
    so_far = Taken([b"data: 1", b"data: 2", b"data: 3"], [b"0 0 0,0", b"0 0 1,1"])
    later = going_on(edge, so_far)
    await asyncio.sleep(1)
    assert later.status == 200
    assert later.text == ""
    later.leave()
    await later.done
    assert idle(edge.gate)


@pytest.mark.parametrize("journal", [b"0 0 a", b"0", b"\xff\xff", b"0 0 1 stop"])
def test_a_journal_that_cannot_be_read_is_an_error_that_says_so(journal: bytes) -> None:
    edge, engine = an_edge_of(HELLO)
    made = run_virtual(_done(edge, Taken([b"data: 1"], [journal]), STREAM))
    assert made.status == 400
    assert made.error["code"] == "invalid_journal"
    assert engine.runs == 0


async def _done(edge: TierEdge, so_far: Taken, payload: dict[str, Any], **how: Any) -> Call:
    later = going_on(edge, so_far, payload, **how)
    await later.done
    return later


@virtual
async def test_a_whole_answer_cannot_go_on() -> None:
    edge, engine = an_edge_of(HELLO)
    made = await _done(edge, Taken([b"data: 1"], [b"0 0 0,0"]), {"prompt": "hi"})
    assert (made.status, made.error["code"]) == (400, "invalid_journal")
    assert engine.runs == 0


@virtual
async def test_the_journal_does_not_count_as_the_clients_body() -> None:
    steps = [["x"]] * 300
    edge, _ = an_edge_of(steps)
    edge.settings = some_settings(max_body_bytes=1024)
    so_far = Taken([b"data: 1"] * 290, [b"0 0 %d,%d" % (number, number) for number in range(290)])
    made = await _done(edge, so_far, STREAM)
    assert made.status == 200
    assert len(Taken.of(made.text).events) == 303 - 290


def test_events_that_do_not_come_again_are_counted_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    edge, _ = an_edge_of(HELLO)
    with caplog.at_level(logging.ERROR):
        run_virtual(_done(edge, Taken([b"data: 1"] * 5, [b"0 0 0,0"]), STREAM))
    assert count(edge, "replay_mismatches_total") == 1
    (record,) = [each for each in caplog.records if each.message == "a replay differs"]
    assert record.__dict__["request_id"] == ID
    assert record.__dict__["why"].startswith("3 of its client's events")


@virtual
async def test_an_error_in_a_replay_is_not_taken_for_an_event_that_the_client_has() -> None:
    async def refusing(payload: dict[str, Any], send: Send) -> None:
        said = b'data: {"error":{"message":"no","type":"BadRequestError","code":400}}\n\n'
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": said, "more_body": True})
        await send({"type": "http.response.body", "body": DONE, "more_body": False})

    made = await _done(an_edge(FakeEngine(refusing)), Taken([b"data: 1"], [b"0 0 0,0"]), STREAM)
    assert made.status == 400
    assert made.error["message"] == "no"


@virtual
async def test_the_end_of_a_stream_that_went_on_is_not_kept_in_the_cache() -> None:
    payload = {**STREAM, "temperature": 0}
    made = await call(an_edge_of(HELLO)[0], payload=payload, headers=marked())
    edge, engine = a_caching_edge()
    await _done(edge, Taken.of(made.text, most_events=2), payload)
    await call(edge, payload=payload)
    assert engine.runs == 2
    # And what is kept is no answer to the rest of one.
    body, headers = resumed(payload, Taken.of(made.text, most_events=2))
    await call(edge, body=body, headers=headers)
    assert engine.runs == 3


@virtual
async def test_the_rest_of_a_stream_whose_replica_was_lost_is_taken_over_at_its_key() -> None:
    """One that is handed over is settled where it was, and its rest is a reservation as any."""
    for only_with_room in (False, True):
        quotas = FakeQuotas()
        edge, _ = an_edge_of(HELLO)
        keys = FakeKeys({TEAM: a_key(tokens_per_day=10_000)})
        edge.access = a_fake_desk(keys, quotas)
        body, headers = resumed(STREAM, Taken(), only_with_room=only_with_room)
        made = await call(edge, body=body, headers=[*headers, *bearer(TEAM)])
        assert made.status == 200
        rest = Amounts(tokens=edge.settings.max_new_tokens)
        assert quotas.taken_over == ([] if only_with_room else [(ID, rest)])
        assert [grant.need for grant in quotas.grants] == ([rest] if only_with_room else [])
