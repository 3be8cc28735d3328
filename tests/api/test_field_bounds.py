"""What a field may hold: nothing that could not fit, and nothing that costs others their time."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.api.field_rules import MAX_ENTRIES, FieldBounds, refuse_excess, refuse_many_ids
from serve_app.api.routes import CHAT_COMPLETIONS
from serve_app.api.rules import MAX_UNKNOWN_FIELDS, RuleBook, prepare
from serve_app.core.tiers import Tier
from serve_app.errors import RequestError
from tests.builders import KNOWN_FIELDS, some_settings

BOUNDS = FieldBounds(context_tokens=4096, prompt_chars=4096 * 81)
HELD_S = 0.1


def refusal(payload: dict[str, object]) -> RequestError:
    with pytest.raises(RequestError) as caught:
        refuse_excess(payload, BOUNDS)
    assert caught.value.status == 400
    return caught.value


@pytest.mark.parametrize("field", MAX_ENTRIES)
def test_a_field_with_too_many_entries_is_named_with_its_limit(field: str) -> None:
    most = MAX_ENTRIES[field]
    refuse_excess({field: ["x"] * min(most, 4000)}, BOUNDS)
    error = refusal({field: {str(i): 1 for i in range(most + 1)}})
    assert error.param == field
    assert f"at most {most:,}" in error.message


@pytest.mark.parametrize(
    "payload",
    [
        {"prompt": "a " * 400_000},
        {"input": "a" * 400_000},
        {"messages": [{"role": "user", "content": "x"}] * 5000},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": ""}] * 5000}]},
        {"messages": [{"role": "user", "content": "x" * 100}] * 4000},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x" * 400_000}]}]},
        {"system": "x" * 400_000},
        {"tools": [{"description": "x" * 400_000}]},
    ],
    ids=lambda payload: next(iter(payload)),
)
def test_a_prompt_that_cannot_fit_the_context_is_refused(payload: dict[str, object]) -> None:
    error = refusal(payload)
    assert (error.code, error.param) == ("context_length_exceeded", next(iter(payload)))
    assert "4,096 tokens" in error.message


@pytest.mark.parametrize("stop", ["x" * 4097, ["a", "x" * 4097]])
def test_a_long_text_to_be_looked_for_is_refused(stop: object) -> None:
    assert refusal({"stop": stop}).param == "stop"


def test_ids_to_detokenize_have_a_limit() -> None:
    refuse_many_ids({"tokens": [1] * 4096}, BOUNDS)
    with pytest.raises(RequestError, match="at most 4,096"):
        refuse_many_ids({"tokens": [1] * 4097}, BOUNDS)


VALUES = st.none() | st.integers() | st.text() | st.lists(st.text() | st.integers())


@given(st.dictionaries(st.sampled_from([*MAX_ENTRIES, "messages", "prompt", "input"]), VALUES))
def test_whatever_is_small_is_for_the_schema_to_judge(payload: dict[str, object]) -> None:
    refuse_excess(payload, BOUNDS)


def field_named(number: int) -> str:
    """Names of the letters of `request_id`, in ever other orders."""
    letters, name = list("request_id"), ""
    while letters:
        number, at = divmod(number, len(letters))
        name += letters.pop(at)
    return name


WORST = {
    "unknown fields": {f"field_{i}": 1 for i in range(20_000)},
    "anagrams of a known field": {field_named(i): 1 for i in range(20_000)},
    "most unknown fields": {field_named(i * 7919): 1 for i in range(MAX_UNKNOWN_FIELDS)},
    "a long name": {"request_id" * 100_000: 1},
    "long names": {f"{'request_id' * 6}{i}": 1 for i in range(MAX_UNKNOWN_FIELDS)},
    "messages": {"messages": [{"role": "user", "content": "x"}] * 4000},
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * 4000}]},
    "empty messages": {"messages": [{}] * 100_000},
    "no messages": {"messages": [1] * 200_000},
    "one long message": {"messages": [{"role": "user", "content": "<think>" * 40_000}]},
    "thoughts": {"messages": [{"role": "assistant", "content": "<think>" * 40_000}] * 2},
    "token ids": {"messages": [{"role": "user", "content": [1] * 200_000}]},
    "stop strings": {"stop": ["x" * 1024] * 64},
}


@pytest.mark.parametrize("name", WORST)
def test_no_rule_holds_the_event_loop_for_long(name: str) -> None:
    book = RuleBook(
        Tier.CHAT,
        some_settings(system_prompt="Be brief."),
        8,
        "chat",
        KNOWN_FIELDS,
        thinks=True,
        r1=True,
        bounds=BOUNDS,
    )
    took_s, refused = [], set[int]()
    for _ in range(3):
        payload = {"messages": [{"role": "user", "content": "x"}], **WORST[name]}
        began_s = time.thread_time()
        try:
            prepare(payload, CHAT_COMPLETIONS, book)
        except RequestError as error:
            refused.add(error.status)
        took_s.append(time.thread_time() - began_s)
    assert min(took_s) < HELD_S
    assert refused <= {400}
