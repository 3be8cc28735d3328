"""Bodies are read within bounds: values, keys, integers, and the time that the loop is held."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.api.request_body import MAX_KEYS, MAX_VALUES, as_json, parse_object
from serve_app.errors import RequestError

MIB = 1024 * 1024
HELD_S = 0.1


def refusal(body: bytes) -> RequestError:
    with pytest.raises(RequestError) as caught:
        parse_object(body)
    assert caught.value.status == 400
    return caught.value


# Each fills the largest body that is taken.
WORST = {
    "lists": b'{"a":[' + b"[]," * (4 * MIB // 3 - 10) + b"[]]}",
    "objects": b'{"a":[' + b"{}," * (4 * MIB // 3 - 10) + b"{}]}",
    "integers": b'{"a":[' + b"1," * (2 * MIB - 10) + b"1]}",
    "large integers": b'{"a":[' + b"9" * 19 + b",1234567890123456789" * 200_000 + b"]}",
    "floats": b'{"a":[' + b"1.2345678901234567," * 200_000 + b"1]}",
    "keys": b"{" + b",".join(b'"%x":1' % i for i in range(400_000)) + b"}",
    "nested": b'{"a":' + b"[" * (2 * MIB - 5) + b"]" * (2 * MIB - 5) + b"}",
    "quotes": b'{"a":"' + b'\\"' * (2 * MIB - 10) + b'"}',
    "colons": b'{"a":"' + b":" * (4 * MIB - 10) + b'"}',
    "escapes": b'{"a":"' + b"\\u00e9" * (4 * MIB // 6 - 10) + b'"}',
    "half a string": b'{"a":"' + b"\\" * (4 * MIB - 10),
    "digits": b'{"a":' + b"9" * (4 * MIB - 10) + b"}",
    "no json": b"9" * (4 * MIB),
    "most values": b'{"a":[' + b"[]," * (MAX_VALUES // 2 - 10) + b"[]]}",
    "most keys": b"{" + b",".join(b'"%x":{}' % i for i in range(MAX_KEYS)) + b"}",
}


@pytest.mark.parametrize("name", WORST)
def test_no_body_holds_the_event_loop_for_long(name: str) -> None:
    body = WORST[name]
    assert len(body) <= 4 * MIB
    took_s, refused = [], set[int]()
    for _ in range(3):
        began_s = time.thread_time()
        try:
            as_json(parse_object(body))
        except RequestError as error:
            refused.add(error.status)
        took_s.append(time.thread_time() - began_s)
    assert min(took_s) < HELD_S
    assert refused <= {400}


def test_too_many_values_or_keys_are_refused_with_the_limit() -> None:
    assert refusal(WORST["lists"]).code == "request_too_complex"
    assert f"at most {MAX_VALUES:,}" in refusal(WORST["integers"]).message
    keys = b"{" + b",".join(b'"%x":1' % i for i in range(MAX_KEYS + 1)) + b"}"
    assert f"at most {MAX_KEYS:,}" in refusal(keys).message


def test_the_punctuation_of_a_text_counts_for_nothing() -> None:
    text = ',:[{"\\' * 100_000
    assert parse_object(as_json({"prompt": text})) == {"prompt": text}


@given(st.integers(max_value=-(2**63) - 1) | st.integers(min_value=2**63))
def test_an_integer_beyond_64_bits_is_refused_wherever_it_stands(number: int) -> None:
    for payload in ({"top_k": number}, {"tools": [{"a": {"maximum": [1, number]}}]}):
        error = refusal(as_json(payload))
        assert (error.code, error.param) == ("integer_too_large", next(iter(payload)))


def test_digits_inside_a_text_are_no_integer() -> None:
    assert parse_object(b'{"prompt": "123456789012345678901234567890"}')
