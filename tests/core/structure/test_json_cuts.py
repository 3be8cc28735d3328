"""A cut of JSON is clean where no value is half-written, whatever the tokens are."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.structure.json_cuts import Cut, JsonLexer, lexers_between

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)


def cut_behind(text: str) -> Cut:
    lexer = JsonLexer()
    lexer.feed(text.encode())
    return lexer.cut


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[",
        '{"a": [',
        '{"a": "b"',
        '{"a": "b"}',
        '["x", {}',
        "[true",
        "[null",
        "[12 ",
        '"whole"',
        '<tool_call>\n{"name": "f"}',
        '<tool_call>\n{"name": "f"}\n</tool_',
        "<tool",
    ],
)
def test_behind_a_whole_value_and_where_nothing_has_begun_it_is_clean(text: str) -> None:
    assert cut_behind(text) is Cut.CLEAN


@pytest.mark.parametrize(
    "text",
    [
        "[12",
        "[-",
        "[1e",
        "tru",
        "12",
        '{"na',
        '{"na"',
        '{"a":',
        '{"a": 1,',
        '["a",',
        '["\\',
        '["\\u00e',
        '["\\ud83d',
        '["\\ud83d\\',
        '["\\ud83d\\ude0',
        '<tool_call>\n{"name": 1',
    ],
)
def test_inside_a_value_or_a_name_it_is_not(text: str) -> None:
    assert cut_behind(text) is Cut.UNCLEAN


@pytest.mark.parametrize(
    "text",
    ['"', '["a', '{"a": "b', '["\\"', '["\\\\', '["\\u00e9', '["\\ud83d\\ude00', '["é', '["😀'],
)
def test_inside_a_text_it_is_up_to_the_grammar(text: str) -> None:
    assert cut_behind(text) is Cut.TEXT


def test_a_character_of_several_bytes_is_not_divided() -> None:
    written = '["😀é'.encode()
    cuts = [lexer.cut for lexer in lexers_between([bytes((byte,)) for byte in written])]
    assert cuts[2:] == [Cut.TEXT, *[Cut.UNCLEAN] * 3, Cut.TEXT, Cut.UNCLEAN, Cut.TEXT]


def test_text_between_calls_is_no_json() -> None:
    text = '<tool_call>{"a": 1}</tool_call> he said "{ and [ then <tool_call>\n{"b'
    assert cut_behind(text[:-3]) is Cut.CLEAN
    assert cut_behind(text) is Cut.UNCLEAN


@given(VALUES, st.booleans(), st.sampled_from([None, 1]), st.data())
def test_how_it_is_divided_into_tokens_makes_no_difference(
    value: object, ascii_only: bool, indent: int | None, data: st.DataObject
) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode(
        "utf-8", "surrogatepass"
    )
    places = data.draw(st.lists(st.integers(0, len(text))).map(sorted))
    pieces = [text[a:b] for a, b in pairwise([0, *places, len(text)])]
    whole = JsonLexer()
    whole.feed(text)
    assert lexers_between(pieces)[-1] == whole


@given(VALUES)
def test_what_is_closed_at_a_clean_cut_keeps_every_value_that_was_begun(value: object) -> None:
    """Whatever stands before a clean cut is in the value as it was meant."""
    text = json.dumps(value)
    for at in range(len(text) + 1):
        lexer = JsonLexer()
        lexer.feed(text[:at].encode())
        if lexer.cut is not Cut.CLEAN:
            continue
        closed = text[:at] + "".join("]}"["[{".index(chr(b))] for b in reversed(lexer._open))
        begun = json.loads(closed) if closed.strip() else None
        assert _is_part(begun, value)


def _is_part(begun: object, value: object) -> bool:
    if begun is None:
        return True
    if isinstance(begun, dict) and isinstance(value, dict):
        return all(_is_part(begun[key], value.get(key)) for key in begun)
    if isinstance(begun, list) and isinstance(value, list):
        return len(begun) <= len(value) and all(map(_is_part, begun, value))
    return begun == value
