"""A stream is read as its client reads it, and compared with the same one unbroken."""

import json

import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestServer
from aiohttp.web import Application, Request, StreamResponse

from loadtest.studies.continuity.streams import Ask, Stream, differences, percentile, read

ASK = Ask("text", "/v1/chat/completions", {"model": "chat"})


def event(**fields: object) -> str:
    return f"data: {json.dumps(fields)}\n\n"


def chat(content: str, **fields: object) -> str:
    return event(id="c-1", choices=[{"index": 0, "delta": {"content": content}}], **fields)


def stream(*texts: str, ask: Ask = ASK, first_s: float = 10.0) -> Stream:
    """One second between two texts."""
    made = Stream(ask, status=200)
    for number, text in enumerate(texts):
        made.feed(text, first_s + number)
    return made


def test_a_whole_stream_has_its_last_event_and_no_error() -> None:
    assert stream(chat("a"), "data: [DONE]\n\n").whole
    assert stream(event(type="message_delta"), event(type="message_stop")).whole
    assert not stream(chat("a")).whole
    assert not stream(chat("a"), event(error={"code": "replica_lost"}), "data: [DONE]\n\n").whole
    broken = stream(chat("a"), "data: [DONE]\n\n")
    broken.fault = "reset"
    assert not broken.whole


def test_events_are_read_wherever_they_are_cut_and_comments_are_none() -> None:
    whole = chat("one") + ": heartbeat\n\n" + chat("two") + "data: [DONE]\n\n"
    cut = stream(*whole)
    assert [data for _, data in cut.events] == [data for _, data in stream(whole).events]
    assert cut.text == {"0.content": "onetwo"}


def test_the_gap_is_the_longest_silence_that_ended_after_the_fault() -> None:
    found = stream(chat("a"), ": x\n\n", ": x\n\n", chat("b"), chat("c"), "data: [DONE]\n\n")
    assert found.gap_s(since_s=9.0, until_s=20.0) == 3.0
    assert found.gap_s(since_s=13.5, until_s=20.0) == 1.0
    assert found.gap_s(since_s=99.0, until_s=99.0) == 0.0
    # What begins when all is over has another cause.
    assert found.gap_s(since_s=13.5, until_s=13.0) == 0.0


def test_every_part_of_an_answer_counts_as_its_text() -> None:
    call = {"index": 0, "function": {"name": "f", "arguments": '{"a":'}}
    parts = stream(
        event(choices=[{"index": 1, "delta": {"reasoning": "so"}}]),
        event(choices=[{"index": 0, "delta": {"tool_calls": [call]}}]),
        event(choices=[{"index": 0, "text": "plain", "finish_reason": "length"}]),
        event(type="content_block_delta", index=2, delta={"type": "text_delta", "text": "hi"}),
        event(type="response.output_text.delta", output_index=3, delta="ho"),
        event(choices=[{"index": 0, "delta": {}, "logprobs": {"content": [{"token": "x"}]}}]),
    ).text
    assert parts == {
        "1.reasoning": "so",
        "0.call0.name": "f",
        "0.call0.arguments": '{"a":',
        "0.text": "plain",
        "0.finish_reason": "length",
        "2.text": "hi",
        "3.response.output_text.delta": "ho",
        "0.logprobs": "x",
    }


def test_a_stream_that_went_on_as_if_nothing_had_happened_does_not_differ() -> None:
    usage = {"completion_tokens": 2}
    one = stream(chat("ab"), chat("c", usage=usage))
    other = stream(chat("a"), chat("bc"), event(choices=[], usage=usage))
    assert differences(one, other) == []


def test_a_token_twice_a_missing_one_other_usage_and_another_id_differ() -> None:
    unbroken = stream(chat("abc", usage={"completion_tokens": 3}))
    twice = stream(chat("abbc", usage={"completion_tokens": 3}))
    assert differences(twice, unbroken) == ["0.content from character 2 on: 'bc' for 'c'"]
    missing = stream(chat("ab", usage={"completion_tokens": 2}))
    assert differences(missing, unbroken) == [
        "0.content from character 2 on: '' for 'c'",
        "usage {'completion_tokens': 2} for {'completion_tokens': 3}",
    ]
    end = event(id="c-2", choices=[], usage={"completion_tokens": 3})
    assert differences(stream(chat("abc"), end), unbroken) == ["ids ['c-1', 'c-2']"]


def test_a_stream_that_is_as_another_unbroken_run_was_does_not_differ() -> None:
    assert differences(stream(chat("b")), stream(chat("a")), stream(chat("b"))) == []
    assert differences(stream(chat("c")), stream(chat("a")), stream(chat("b"))) != []


def test_replays_are_what_the_service_says() -> None:
    assert stream(chat("a"), event(choices=[], tierserve={"replayed": 2})).replays == 2
    assert stream(chat("a", tierserve={"reasoning": "closed"})).replays == 0


@pytest.mark.parametrize(("percent", "value"), [(50, 5.0), (95, 10.0), (10, 1.0)])
def test_a_percentile_is_one_of_the_values(percent: int, value: float) -> None:
    assert percentile([float(each) for each in range(10, 0, -1)], percent) == value
    assert percentile([], percent) == 0.0


async def test_a_stream_that_breaks_on_the_way_says_so() -> None:
    async def answer(request: Request) -> StreamResponse:
        response = StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(chat("a").encode())
        if (await request.json())["break"]:
            assert request.transport is not None
            request.transport.abort()
        else:
            await response.write(b"data: [DONE]\n\n")
        return response

    app = Application()
    app.router.add_post("/v1/chat/completions", answer)
    async with TestServer(app) as server, ClientSession() as session:
        url = str(server.make_url("/")).rstrip("/")
        for broken in (False, True):
            ask = Ask("text", "/v1/chat/completions", {"break": broken})
            found = await read(session, url, Stream(ask))
            assert found.whole is not broken
            assert bool(found.fault) is broken
            assert found.text == {"0.content": "a"}
        missing = await read(session, url, Stream(Ask("text", "/v1/none", {})))
        assert missing.fault.startswith("404: ")
