"""Which answers are kept, under what, how long, and how they are given again."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.api.answer_cache import OVERHEAD_BYTES, AnswerCache, KeptAnswer
from serve_app.api.request_context import client_of
from serve_app.api.routes import CHAT_COMPLETIONS, COMPLETIONS, Endpoint
from serve_app.api.rules import PreparedRequest
from serve_app.config.answers import AnswerCacheConfig
from serve_app.core.reasoning.budget import ThinkingPlan

ASKED = {"messages": [{"role": "user", "content": "hi"}], "temperature": 0}
PLAN = ThinkingPlan(enabled=True, answer_tokens=20, answer_share=0.25)


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def a_cache(clock_s: Any = None, **config: Any) -> AnswerCache:
    return AnswerCache(AnswerCacheConfig(enabled=True, **config), clock_s or Clock())


def key(
    payload: dict[str, Any] | None = None,
    *,
    headers: list[tuple[bytes, bytes]] | None = None,
    endpoint: Endpoint = CHAT_COMPLETIONS,
    plan: ThinkingPlan | None = None,
    stop_repetition: bool = False,
    cache: AnswerCache | None = None,
) -> str | None:
    asked = ASKED if payload is None else payload
    prepared = PreparedRequest(asked, 1, 10, False, plan, stop_repetition)
    return (cache or a_cache()).key(client_of({"headers": headers or []}), endpoint, prepared)


def an_answer(text: bytes = b"x", streamed: bool = False) -> KeptAnswer:
    return KeptAnswer(streamed, (), [text])


# --- what is kept


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        ({"temperature": 0}, True),
        ({"temperature": 0.0}, True),
        ({"temperature": 0.6, "seed": 7}, True),
        ({"temperature": 0.6, "seed": 0}, True),
        ({"temperature": 0.6}, False),
        ({"temperature": 0.6, "seed": None}, False),
        ({"temperature": None}, False),
        ({}, False),
    ],
)
def test_only_what_would_come_out_the_same_again_is_kept(
    sampling: dict[str, Any], kept: bool
) -> None:
    assert (key({"messages": [], **sampling}) is not None) is kept


def test_a_cache_that_is_off_keeps_nothing() -> None:
    assert key(cache=AnswerCache(AnswerCacheConfig())) is None


# --- under what


def test_the_same_question_in_another_order_of_its_fields_is_the_same() -> None:
    assert key(dict(reversed(ASKED.items()))) == key()


@pytest.mark.parametrize("name", [b"authorization", b"x-api-key", b"Authorization"])
def test_an_answer_never_goes_to_another_key(name: bytes) -> None:
    mine, yours = [(name, b"Bearer one")], [(name, b"Bearer two")]
    assert key(headers=mine) == key(headers=mine)
    assert len({key(headers=mine), key(headers=yours), key()}) == 3


def test_the_two_names_of_a_key_are_not_the_same() -> None:
    assert key(headers=[(b"authorization", b"a")]) != key(headers=[(b"x-api-key", b"a")])


def test_other_headers_make_no_difference() -> None:
    assert key(headers=[(b"x-request-id", b"a"), (b"user-agent", b"b")]) == key()


@pytest.mark.parametrize("change", [
    {"endpoint": COMPLETIONS}, {"plan": PLAN}, {"stop_repetition": True},
    {"payload": {**ASKED, "stream": True}}, {"payload": {**ASKED, "max_tokens": 5}},
    {"payload": {**ASKED, "model": "other"}}, {"payload": {**ASKED, "seed": 1}},
])  # fmt: skip
def test_whatever_shapes_the_answer_makes_another_question(change: dict[str, Any]) -> None:
    assert key(**change) != key()


def test_a_plan_with_another_budget_makes_another_question() -> None:
    other = ThinkingPlan(enabled=True, answer_tokens=20, answer_share=0.25, most_tokens=5)
    assert key(plan=PLAN) != key(plan=other)


# --- how long


def test_a_kept_answer_is_found_until_it_is_too_old() -> None:
    clock = Clock()
    cache = a_cache(clock, max_age_s=10)
    answer = an_answer()
    cache.keep("one", answer)
    clock.now_s = 9.9
    assert cache.get("one") is answer
    assert cache.get("two") is None
    clock.now_s = 10.1
    assert cache.get("one") is None


def test_the_least_recently_used_goes_first() -> None:
    cache = a_cache(max_bytes=3 * (OVERHEAD_BYTES + 100))
    for name in ("one", "two", "three"):
        cache.keep(name, an_answer(b"x" * 100))
    assert cache.get("one") is not None
    cache.keep("four", an_answer(b"x" * 100))
    kept = [name for name in ("one", "two", "three", "four") if cache.get(name) is not None]
    assert kept == ["one", "three", "four"]


@given(st.lists(st.integers(0, 3000), max_size=30))
def test_all_together_are_never_larger_than_allowed(sizes: list[int]) -> None:
    cache = a_cache(max_bytes=4096)
    for name, size in enumerate(sizes):
        cache.keep(str(name), an_answer(b"x" * size))
        assert cache.size_bytes <= 4096
        assert cache.get(str(name)) is not None


def test_what_is_larger_than_the_cache_is_not_kept_and_costs_no_other() -> None:
    cache = a_cache(max_bytes=1024)
    cache.keep("small", an_answer())
    cache.keep("large", an_answer(b"x" * 1024))
    assert cache.get("large") is None
    assert cache.get("small") is not None


def test_an_answer_of_nothing_is_not_kept() -> None:
    cache = a_cache()
    cache.keep("none", KeptAnswer(True))
    assert cache.get("none") is None


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"error": {"message": "broke"}}\n\n',
        b'data: {"error":{"message":"broke"}}\n\n',
        b'event: error\ndata: {"type":"error"}\n\n',
        b'event: response.failed\ndata: {"type":"response.failed"}\n\n',
    ],
)
def test_a_stream_that_ended_with_an_error_is_not_kept(event: bytes) -> None:
    cache = a_cache()
    cache.keep("broken", KeptAnswer(True, (), [b'data: {"id":"chatcmpl-1"}\n\n', event]))
    assert cache.get("broken") is None


def test_an_answer_that_speaks_of_an_error_is_kept() -> None:
    cache = a_cache()
    said = json.dumps({"content": 'data: {"error":1}\n\nevent: error\n'}).encode()
    for name, streamed in ("whole", False), ("stream", True):
        cache.keep(name, an_answer(b"data: " + said + b"\n\n" if streamed else said, streamed))
        assert cache.get(name) is not None


# --- given again


@pytest.mark.parametrize(
    ("first", "new"),
    [
        ("chatcmpl-old", "chatcmpl-new"),
        ("cmpl-old", "cmpl-new"),
        ("resp_old", "resp_new"),
        ("msg_old", "msg_new"),
    ],
)
def test_an_answer_is_given_again_under_an_id_of_its_own(first: str, new: str) -> None:
    events = [b'data: {"id":"%s","x":%d}\n\n' % (first.encode(), at) for at in range(2)]
    again = KeptAnswer(True, (), [*events, b"data: [DONE]\n\n"]).renamed("new")
    expected = [event.replace(first.encode(), new.encode()) for event in events]
    assert again == [*expected, b"data: [DONE]\n\n"]


def test_ids_of_calls_inside_it_stay() -> None:
    body = b'{"id":"chatcmpl-old","tool_calls":[{"id":"chatcmpl-tool-5"}]}'
    (again,) = KeptAnswer(False, (), [body]).renamed("new")
    assert again == body.replace(b"chatcmpl-old", b"chatcmpl-new")


def test_an_answer_without_an_id_is_given_as_it_is() -> None:
    assert KeptAnswer(False, (), [b'{"a":1}']).renamed("new") == [b'{"a":1}']


@given(st.lists(st.integers(0, 90), max_size=6))
def test_a_stream_is_given_event_by_event_however_it_came(cuts: list[int]) -> None:
    events = [b'data: {"id":"chatcmpl-old","x":%d}\n\n' % at for at in range(3)]
    whole = b"".join(events)
    at = [0, *sorted(cuts), len(whole)]
    parts = [whole[a:b] for a, b in itertools.pairwise(at)]
    expected = [event.replace(b"old", b"new") for event in events]
    assert KeptAnswer(True, (), parts).renamed("new") == expected
