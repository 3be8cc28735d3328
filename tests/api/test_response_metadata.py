"""What is said in an answer of how it came about, in each endpoint's own form."""

import json
from typing import Any

import pytest

from serve_app.api.response_metadata import in_chunk, in_whole
from serve_app.api.routes import CHAT_COMPLETIONS, COMPLETIONS, MESSAGES, RESPONSES, Endpoint
from serve_app.core.generation import Generation, SequenceFacts
from serve_app.core.reasoning.trace import ThoughtEnd, ThoughtMarks, ThoughtTrace

MARKS = ThoughtMarks(1, 2, (1,), (7, 2), (2,))
# The last event of an answer that is one, and one before it.
LAST: dict[Endpoint, dict[str, Any]] = {
    CHAT_COMPLETIONS: {
        "id": "chatcmpl-1",
        "choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}],
    },
    COMPLETIONS: {"id": "cmpl-1", "choices": [{"index": 0, "text": "x", "finish_reason": "stop"}]},
    MESSAGES: {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
    RESPONSES: {"response": {"id": "resp_1"}, "type": "response.completed"},
}
BEFORE: dict[Endpoint, dict[str, Any]] = {
    CHAT_COMPLETIONS: {"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": None}]},
    COMPLETIONS: {"choices": [{"index": 0, "text": "x", "finish_reason": None}]},
    MESSAGES: {"type": "message_start", "message": {"stop_reason": None}},
    RESPONSES: {"delta": "x", "type": "response.output_text.delta"},
}
EACH = pytest.mark.parametrize("endpoint", LAST, ids=lambda endpoint: endpoint.name)


def facts(
    end: ThoughtEnd | None = ThoughtEnd.COMPLETE, tokens: int = 5, repeated: bool = False
) -> SequenceFacts:
    if end is None:
        return SequenceFacts(None, repeated)
    return SequenceFacts(ThoughtTrace(MARKS, 9, tokens=tokens, end=end), repeated)


def generation_of(*sequences: SequenceFacts) -> Generation:
    return Generation(sequences=dict(enumerate(sequences)))


def event(data: dict[str, Any], name: str | None = None) -> bytes:
    head = b"" if name is None else b"event: " + name.encode() + b"\n"
    return head + b"data: " + compact(data) + b"\n\n"


def compact(data: dict[str, Any]) -> bytes:
    return json.dumps(data, separators=(",", ":")).encode()


def data_of(body: bytes) -> dict[str, Any]:
    assert body.endswith(b"}\n\n")
    return json.loads(body.decode().rpartition("data: ")[2])


# --- streams


@EACH
def test_the_last_event_of_an_answer_is_known_and_those_before_it_are_none(
    endpoint: Endpoint,
) -> None:
    assert endpoint.ending is not None
    assert endpoint.ending in event(LAST[endpoint])
    assert endpoint.ending not in event(BEFORE[endpoint])
    assert endpoint.ending not in b"data: [DONE]\n\n"


@EACH
def test_text_that_looks_like_an_end_is_none(endpoint: Endpoint) -> None:
    said = event(LAST[endpoint]).decode()
    inside = event({**BEFORE[endpoint], "content": said})
    assert endpoint.ending is not None
    assert endpoint.ending not in inside


@EACH
def test_the_last_event_has_the_reasonings_metadata_and_is_otherwise_as_it_was(
    endpoint: Endpoint,
) -> None:
    data = data_of(in_chunk(event(LAST[endpoint], "e"), endpoint, generation_of(facts(tokens=7))))
    assert data.pop("tierserve") == {"thoughts": [{"index": 0, "end": "complete", "tokens": 7}]}
    assert data == LAST[endpoint]


@EACH
def test_where_nothing_is_to_tell_the_event_stays(endpoint: Endpoint) -> None:
    for generation in (Generation(), generation_of(facts(None))):
        assert in_chunk(event(LAST[endpoint]), endpoint, generation) == event(LAST[endpoint])


def test_of_several_answers_each_last_event_has_its_own_metadata() -> None:
    generation = generation_of(facts(tokens=1), facts(ThoughtEnd.CUT, 2), facts(ThoughtEnd.OFF, 0))
    for index, end in enumerate(["complete", "cut", "off"]):
        chunk = {"choices": [{"index": index, "delta": {}, "finish_reason": "stop"}]}
        told = data_of(in_chunk(event(chunk), CHAT_COMPLETIONS, generation))["tierserve"]
        assert [(thought["index"], thought["end"]) for thought in told["thoughts"]] == [
            (index, end)
        ]


def test_an_answer_that_the_engine_does_not_tell_of_stays() -> None:
    chunk = event({"choices": [{"index": 3, "delta": {}, "finish_reason": "stop"}]})
    assert in_chunk(chunk, CHAT_COMPLETIONS, generation_of(facts())) == chunk


@pytest.mark.parametrize("endpoint", [CHAT_COMPLETIONS, COMPLETIONS], ids=lambda e: e.name)
def test_a_repetition_is_an_openai_stop_with_metadata_beside_it(endpoint: Endpoint) -> None:
    text = '"finish_reason":"repetition"'
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": "repetition"}
    body = in_chunk(
        event({"choices": [choice]}), endpoint, generation_of(facts(None, repeated=True))
    )
    data = data_of(body)
    assert data["choices"] == [{**choice, "finish_reason": "stop"}]
    assert data["tierserve"] == {"finish_reasons": {"0": "repetition"}}


def test_a_message_whose_end_anthropic_has_no_word_for_has_metadata_too() -> None:
    chunk = event({"type": "message_delta", "delta": {"stop_reason": None}}, "message_delta")
    assert MESSAGES.ending is not None
    assert MESSAGES.ending in chunk
    told = data_of(in_chunk(chunk, MESSAGES, generation_of(facts(repeated=True))))["tierserve"]
    assert told["finish_reasons"] == {"0": "repetition"}
    ended = in_chunk(chunk, MESSAGES, generation_of(facts(repeated=True)))
    assert data_of(ended)["delta"] == {"stop_reason": "end_turn"}


# --- whole answers


def whole(
    answer: dict[str, Any], generation: Generation, endpoint: Endpoint = CHAT_COMPLETIONS
) -> tuple[dict[str, Any], dict[bytes, bytes]]:
    body, headers = in_whole(compact(answer), endpoint, generation)
    return json.loads(body), dict(headers)


@EACH
def test_a_whole_answer_has_metadata_in_a_field_and_a_header(
    endpoint: Endpoint,
) -> None:
    generation = generation_of(facts(tokens=3), facts(ThoughtEnd.CUT, 8))
    answer, headers = whole({"id": "x", "text": "日本"}, generation, endpoint)
    assert answer == {
        "id": "x",
        "text": "日本",
        "tierserve": {
            "thoughts": [
                {"index": 0, "end": "complete", "tokens": 3},
                {"index": 1, "end": "cut", "tokens": 8},
            ]
        },
    }
    assert headers == {b"x-tierserve-thought": b"complete, cut"}


@EACH
def test_a_whole_answer_of_a_model_that_does_not_think_is_as_it_was(endpoint: Endpoint) -> None:
    body = compact({"choices": [], "text": "日本"})
    told, headers = in_whole(body, endpoint, generation_of(facts(None)))
    assert (json.loads(told), headers) == (json.loads(body), [])


@pytest.mark.parametrize("endpoint", [CHAT_COMPLETIONS, COMPLETIONS], ids=lambda e: e.name)
def test_a_whole_repetition_is_an_openai_stop_with_metadata_beside_it(endpoint: Endpoint) -> None:
    choices = [
        {"index": 0, "finish_reason": "length"},
        {"index": 1, "finish_reason": "repetition"},
    ]
    generation = generation_of(facts(None), facts(None, repeated=True))
    answer, headers = whole({"choices": choices}, generation, endpoint)
    assert [choice["finish_reason"] for choice in answer["choices"]] == ["length", "stop"]
    assert answer["tierserve"] == {"finish_reasons": {"1": "repetition"}}
    assert headers == {}


@pytest.mark.parametrize(
    ("message", "content"),
    [
        ({"content": None, "reasoning": "so"}, ""),
        ({"content": "4"}, "4"),
        ({"content": None, "tool_calls": [{"id": "1"}]}, None),
        ({"content": None, "tool_calls": []}, ""),
    ],
)
def test_content_is_text_unless_a_call_stands_in_its_place(
    message: dict[str, Any], content: str | None
) -> None:
    answer, _ = whole({"choices": [{"message": message}]}, Generation())
    assert answer["choices"][0]["message"]["content"] == content
