"""Answers that a tier's edge gives again from its cache, and those that it does not keep."""

import asyncio
import json
from typing import Any

import pytest

from serve_app.config.answers import AnswerCacheConfig
from serve_app.config.tier import TierSettings
from serve_app.core.reasoning.trace import ThoughtEnd
from tests.api.asgi import Answering, Call, FakeEngine, answers, breaks, call, sse_data, streams
from tests.api.test_edge_answers import DONE, FIRST, HI, LAST, WHOLE, thinks
from tests.builders import an_edge, count, idle, some_settings
from tests.virtual_time import run_virtual, virtual

SURE = {"prompt": "hi", "temperature": 0}


def caching(**changed: Any) -> TierSettings:
    cache = AnswerCacheConfig(enabled=True)
    return some_settings(**changed).model_copy(update={"answer_cache": cache})


def cache_header(made: Call) -> str | None:
    return made.headers.get("x-tierserve-cache")


@virtual
async def test_a_whole_answer_is_given_again_without_the_engine() -> None:
    engine = FakeEngine(thinks(answers(WHOLE, after_s=2.0), ThoughtEnd.COMPLETE))
    edge = an_edge(engine, thinks=True, settings=caching())
    first = await call(edge, "", SURE)
    again = await call(edge, "", SURE, headers=[(b"x-request-id", b"mine")])
    assert (cache_header(first), cache_header(again)) == ("miss", "hit")
    assert len(engine.asked) == 1
    assert again.status == 200
    assert again.text == first.text.replace("chatcmpl-old", "chatcmpl-mine")
    for name in ("x-tierserve-thought", "content-type"):
        assert again.headers[name] == first.headers[name]
    assert int(again.headers["content-length"]) == len(again.text.encode())
    assert again.sent_s[0] == first.sent_s[0] == 2.0
    assert count(edge, "answer_cache_requests_total", result="hit") == 1
    assert count(edge, "requests_total", status="200") == 2
    assert idle(edge.gate)


@virtual
async def test_a_stream_is_given_again_event_by_event_and_without_its_heartbeats() -> None:
    engine = FakeEngine(thinks(streams(FIRST, LAST, DONE, every_s=1.0), ThoughtEnd.CUT))
    edge = an_edge(engine, thinks=True, settings=caching(heartbeat_s=0.5))
    blocking = Call(edge, "", {"prompt": "other", "stream": True})
    await asyncio.sleep(0)
    first = await call(edge, "", {**SURE, "stream": True})
    again = await call(edge, "", {**SURE, "stream": True})
    await blocking.done
    assert (cache_header(blocking), cache_header(first), cache_header(again)) == (
        None,
        "miss",
        "hit",
    )
    assert ": waiting" in first.text
    assert ": waiting" not in again.text
    assert again.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert again.headers["x-accel-buffering"] == "no"
    assert [m["more_body"] for m in again.messages[1:]] == [True, True, False]
    new_id = again.headers["x-request-id"]
    kept = [line.replace("chatcmpl-old", f"chatcmpl-{new_id}") for line in sse_data(first.text)]
    assert sse_data(again.text) == kept
    assert json.loads(kept[1])["tierserve"]["thoughts"][0]["end"] == "cut"


@virtual
async def test_a_kept_answer_needs_no_slot() -> None:
    engine = FakeEngine(answers(WHOLE, after_s=5.0))
    edge = an_edge(engine, settings=caching())
    await call(edge, "", SURE)
    running = Call(edge, "", {**SURE, "prompt": "other"})
    await asyncio.sleep(1)
    assert edge.gate.running_requests == 1
    again = await call(edge, "", SURE)
    assert (cache_header(again), again.sent_s[0]) == ("hit", 6.0)
    await running.done


@virtual
async def test_each_key_has_answers_of_its_own() -> None:
    engine = FakeEngine(answers(WHOLE))
    edge = an_edge(engine, settings=caching())
    for name in b"authorization", b"x-api-key":
        for value, result in (b"one", "miss"), (b"two", "miss"), (b"one", "hit"):
            assert cache_header(await call(edge, "", SURE, headers=[(name, value)])) == result
    assert cache_header(await call(edge, "", SURE)) == "miss"


@pytest.mark.parametrize("asked", [HI, {**HI, "temperature": 0.7}, {**HI, "seed": None}])
def test_what_is_random_is_neither_kept_nor_looked_for(asked: dict[str, Any]) -> None:
    engine = FakeEngine(answers(WHOLE))
    edge = an_edge(engine, settings=caching())
    for _ in range(2):
        assert cache_header(run_virtual(call(edge, "", asked))) is None
    assert len(engine.asked) == 2


@pytest.mark.parametrize(
    "answering",
    [
        answers({"error": {"message": "no"}}, status=400),
        breaks(RuntimeError("engine")),
        streams(FIRST, then=RuntimeError("engine")),
        streams(FIRST, b'data: {"error": {"message": "broke"}}\n\n', DONE),
        streams(),
    ],
    ids=["an error", "a fault", "a fault in a stream", "an error in a stream", "nothing"],
)
def test_an_answer_that_failed_is_not_kept(answering: Answering) -> None:
    engine = FakeEngine(answering)
    edge = an_edge(engine, settings=caching())

    async def scene() -> None:
        for _ in range(2):
            made = Call(edge, "", {**SURE, "stream": True})
            await asyncio.wait({made.done})
            # A fault is raised for the server's log too.
            made.done.exception()
            assert cache_header(made) != "hit"

    run_virtual(scene())
    assert len(engine.asked) == 2
    assert edge.cache.size_bytes == 0


@virtual
async def test_an_answer_whose_client_disconnected_is_not_kept() -> None:
    edge = an_edge(FakeEngine(streams(FIRST, LAST, DONE, every_s=1.0)), settings=caching())
    leaving = Call(edge, "", {**SURE, "stream": True})
    await asyncio.sleep(1.5)
    leaving.leave()
    await leaving.done
    assert edge.cache.size_bytes == 0
    assert cache_header(await call(edge, "", {**SURE, "stream": True})) == "miss"
