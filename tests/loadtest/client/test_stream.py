"""The reader of streams: wherever the bytes are cut, and whatever is no token."""

import json

import pytest

from loadtest.client.stream import StreamReader
from tests.loadtest.load.fake_openai import Reply, chunk, event, events

STREAM = b": waiting, 2 ahead\n\n" + b"".join(events(Reply(thought=2, answer=3)))


def read(data: bytes, size: int) -> StreamReader:
    reader = StreamReader()
    for place in range(0, len(data), size):
        reader.feed(data[place : place + size], float(place))
    reader.close(float(len(data)))
    return reader


@pytest.mark.parametrize("size", [1, 2, 7, 100, 10_000])
@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
def test_a_stream_is_read_wherever_it_is_cut(size: int, ending: bytes) -> None:
    reader = read(STREAM.replace(b"\n", ending), size)
    assert len(reader.token_s) == 5
    assert reader.done
    assert reader.finish_reason == "length"
    assert reader.usage["completion_tokens"] == 5
    assert reader.error is None


def test_the_answer_begins_after_the_thought() -> None:
    reader = StreamReader()
    for at_s, data in enumerate(events(Reply(thought=2, answer=1))):
        reader.feed(data, at_s)
    assert list(reader.token_s) == [1, 2, 3]
    assert reader.answer_s == 3


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_a_thought_that_looks_like_an_answer_is_none(field: str) -> None:
    reader = StreamReader()
    reader.feed(chunk({field: 'say "content":"x"', "content": None}), 1)
    reader.feed(chunk({field: "", "content": "\n\n"}), 2)
    reader.feed(chunk({field: None, "content": '"reasoning":"'}), 3)
    assert list(reader.token_s) == [1, 2, 3]
    assert reader.answer_s == 3


def test_a_thought_inside_the_content_ends_with_its_tag() -> None:
    reader = StreamReader()
    for at_s, text in enumerate(["<think>", "so", "</think>", "\n", "42"]):
        reader.feed(chunk({"content": text}), at_s)
    assert len(reader.token_s) == 5
    assert reader.answer_s == 4


def test_a_heartbeat_is_no_token_whatever_it_says() -> None:
    reader = StreamReader()
    reader.feed(b': {"content":"x"}\n\n:\n\n', 1)
    assert not reader.token_s
    reader.feed(b": beat\n" + chunk({"content": "a"}), 2)
    assert list(reader.token_s) == [2]


def test_a_tool_call_is_a_token() -> None:
    reader = StreamReader()
    reader.feed(chunk({"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]}), 1)
    assert list(reader.token_s) == [1]
    assert reader.answer_s is None


def test_an_error_event_is_kept_with_its_code() -> None:
    reader = StreamReader()
    reader.feed(event({"error": {"message": "too long", "code": "wait_too_long"}}), 1)
    assert reader.error is not None
    assert (reader.error.code, reader.error.message) == ("wait_too_long", "too long")


def test_what_is_no_json_is_an_error() -> None:
    reader = StreamReader()
    reader.feed(b"data: {oops\n\n", 1)
    assert reader.error is not None
    assert reader.error.code == "no_json"


def test_a_last_event_without_its_empty_line_counts() -> None:
    reader = read(STREAM.removesuffix(b"\n\n"), 50)
    assert reader.done


def test_the_reason_of_the_end_may_come_with_the_last_token() -> None:
    reader = read(chunk({"content": "a"}, "stop") + b"data: [DONE]\n\n", 1000)
    assert reader.finish_reason == "stop"


def test_spaces_in_the_json_do_not_matter() -> None:
    document = {"choices": [{"index": 0, "delta": {"content": "a"}}]}
    reader = read(b"data: " + json.dumps(document, indent=1).encode() + b"\n\n", 1000)
    assert len(reader.token_s) == 1
