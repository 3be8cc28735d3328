"""How the rules of the R1 distills change a conversation."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.reasoning.prompt_rules import (
    MATH_DIRECTIVE,
    NO_RULES,
    R1_RULES,
    SYSTEM_ROLES,
    shape_messages,
)

FOLD = replace(NO_RULES, fold_system=True)
STRIP = replace(NO_RULES, strip_thoughts=True)


def part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def message(role: str, content: Any, **fields: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **fields}


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}


def test_without_rules_nothing_changes() -> None:
    messages = [message("system", "S"), message("assistant", "<think>a</think>b", reasoning="a")]
    assert shape_messages(messages, NO_RULES, None) == messages


@pytest.mark.parametrize(
    ("messages", "folded"),
    [
        ([message("system", "S"), message("user", "U")], [message("user", "S\n\nU")]),
        ([message("system", "S"), message("user", "")], [message("user", "S")]),
        ([message("system", ""), message("user", "U")], [message("user", "U")]),
        (
            [message("user", "U"), message("assistant", "A"), message("developer", "D")],
            [message("user", "D\n\nU"), message("assistant", "A")],
        ),
        (
            [message("system", [part("S"), part("T")]), message("user", "U", name="n")],
            [message("user", "S\nT\n\nU", name="n")],
        ),
        (
            [message("system", "S"), message("developer", "D"), message("user", [IMAGE])],
            [message("user", [part("S\n\nD"), IMAGE])],
        ),
        ([message("system", "S")], [message("user", "S")]),
        (
            [message("assistant", "A"), message("system", "S"), message("developer", "D")],
            [message("assistant", "A"), message("user", "S\n\nD")],
        ),
    ],
)
def test_system_text_goes_in_front_of_the_first_question(
    messages: list[dict[str, Any]], folded: list[dict[str, Any]]
) -> None:
    assert shape_messages(messages, FOLD, None) == folded


@pytest.mark.parametrize(
    "messages",
    [
        [message("system", None), message("user", "U")],
        [message("system", [IMAGE]), message("user", "U")],
        [message("system", [{"type": "text"}]), message("user", "U")],
        [message("system", "S"), message("user", 1), message("user", "U")],
        [message("system", "S"), {"role": "user"}],
        ["system", None, 3, {}, {"role": ["system"]}],
        [message("assistant", 3), message("assistant", [3, "<think>", None])],
    ],
)
def test_unexpected_shapes_are_left_for_the_engine_to_refuse(messages: list[Any]) -> None:
    assert shape_messages(messages, R1_RULES, None) == messages


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        ("<think>\na\n</think>\n\nb", "b"),
        ("a\n</think>\n\nb", "b"),
        ("<think>a</think>b</think> c", "c"),
        ("<think>a", ""),
        ("b\n<think>a", "b"),
        ("<think>a</think>b <think>c", "b"),
        (" b", " b"),
        (None, None),
        ([part("<think>a"), part("c</think>\nb")], [part("b")]),
        ([part("b"), part("<think>a"), part("c")], [part("b")]),
        ([part("<think>a</think>")], ""),
        ([{"type": "thinking", "thinking": "a"}, part("b")], [part("b")]),
        ([part("<think>a"), {"type": "tool_use"}], [{"type": "tool_use"}]),
    ],
)
def test_a_thought_is_no_part_of_the_history(content: Any, answer: Any) -> None:
    messages = [message("assistant", content), message("user", "<think>mine</think>")]
    assert shape_messages(messages, STRIP, None) == [message("assistant", answer), messages[1]]


def test_a_call_stays_and_its_thought_goes() -> None:
    call = message("assistant", None, tool_calls=[{"id": "1"}])
    sent = {**call, "reasoning": "a", "reasoning_content": "a"}
    assert shape_messages([sent], STRIP, None) == [call]


def test_the_message_that_is_continued_keeps_its_thought() -> None:
    begun = message("assistant", "<think>a")
    messages = [begun, message("user", "U"), begun]
    shaped = shape_messages(messages, STRIP, None, continues_last=True)
    assert shaped == [message("assistant", ""), messages[1], begun]


@pytest.mark.parametrize(
    ("content", "directed"),
    [
        ("2+2?", f"2+2?\n{MATH_DIRECTIVE}"),
        ("", MATH_DIRECTIVE),
        (f"{MATH_DIRECTIVE} 2+2?", f"{MATH_DIRECTIVE} 2+2?"),
        (r"2+2? Use \boxed{}", r"2+2? Use \boxed{}"),
        ([part("2+2?"), IMAGE], [part(f"2+2?\n{MATH_DIRECTIVE}"), IMAGE]),
        ([part(r"a \boxed{}"), part("b")], [part(r"a \boxed{}"), part("b")]),
        ([IMAGE], [IMAGE, part(MATH_DIRECTIVE)]),
        (None, None),
    ],
)
def test_the_directive_ends_the_last_question_once(content: Any, directed: Any) -> None:
    messages = [message("user", "first"), message("user", content), message("tool", "t")]
    shaped = shape_messages(messages, NO_RULES, MATH_DIRECTIVE)
    assert shaped == [messages[0], message("user", directed), messages[2]]


def test_a_directive_of_another_kind_is_added_beside_a_boxed_answer() -> None:
    messages = [message("user", r"Use \boxed{}")]
    shaped = shape_messages(messages, NO_RULES, "Be brief.")
    assert shaped == [message("user", "Use \\boxed{}\nBe brief.")]


def test_parts_of_the_responses_endpoint_are_text_too() -> None:
    def asked(text: str) -> list[dict[str, Any]]:
        return [{"type": "input_text", "text": text}]

    def answered(text: str) -> list[dict[str, Any]]:
        return [{"type": "output_text", "text": text}]

    messages = [
        message("developer", asked("S")),
        message("user", asked("U")),
        message("assistant", answered("<think>a</think>b")),
    ]
    assert shape_messages(messages, R1_RULES, "D") == [
        message("user", [part("S"), *asked("U\nD")]),
        message("assistant", answered("b")),
    ]


def test_folded_system_text_alone_gets_the_directive() -> None:
    shaped = shape_messages([message("system", "2+2?")], R1_RULES, MATH_DIRECTIVE)
    assert shaped == [message("user", f"2+2?\n{MATH_DIRECTIVE}")]


TEXTS = st.lists(
    st.sampled_from(["<think>", "</think>", "\n", " ", "a", r"\boxed{}", "<", "ö"]), max_size=5
).map("".join)
CONTENTS = TEXTS | st.lists(st.builds(part, TEXTS), max_size=3)
WELL_FORMED = st.lists(
    st.builds(message, st.sampled_from([*SYSTEM_ROLES, "user", "assistant", "tool"]), CONTENTS),
    max_size=6,
)
JUNK = st.lists(
    st.one_of(
        st.none(),
        st.text(max_size=3),
        st.fixed_dictionaries({"role": st.sampled_from([*SYSTEM_ROLES, "user", "assistant", 1])}),
        st.builds(
            message,
            st.sampled_from([*SYSTEM_ROLES, "user", "assistant"]),
            st.one_of(
                st.none(),
                st.integers(),
                CONTENTS,
                st.lists(st.one_of(st.none(), st.builds(part, TEXTS), st.just(IMAGE)), max_size=3),
            ),
        ),
    ),
    max_size=6,
)
DIRECTIVES = st.sampled_from([None, MATH_DIRECTIVE, "Be brief."])
RULES = st.builds(
    replace, st.just(NO_RULES), fold_system=st.booleans(), strip_thoughts=st.booleans()
)


@given(messages=JUNK, rules=RULES, directive=DIRECTIVES, continued=st.booleans())
def test_the_input_stays_and_a_second_pass_changes_nothing(
    messages: list[Any], rules: Any, directive: str | None, continued: bool
) -> None:
    before = deepcopy(messages)
    once = shape_messages(messages, rules, directive, continues_last=continued)
    assert messages == before
    assert shape_messages(once, rules, directive, continues_last=continued) == once


@given(messages=WELL_FORMED, directive=DIRECTIVES)
def test_no_system_message_is_left_and_none_of_its_text_is_lost(
    messages: list[dict[str, Any]], directive: str | None
) -> None:
    shaped = shape_messages(messages, R1_RULES, directive)
    assert not any(m["role"] in SYSTEM_ROLES for m in shaped)
    system = [m for m in messages if m["role"] in SYSTEM_ROLES]
    first = next((texts_of(m) for m in shaped if m["role"] == "user"), [""])
    for text in (text for m in system for text in texts_of(m)):
        assert text in "\n".join(first)


@given(messages=WELL_FORMED)
def test_no_thought_is_left(messages: list[dict[str, Any]]) -> None:
    shaped = shape_messages(messages, STRIP, None)
    answers = [text for m in shaped if m["role"] == "assistant" for text in texts_of(m)]
    assert not any("<think>" in text or "</think>" in text for text in answers)


def texts_of(message: dict[str, Any]) -> list[str]:
    content = message["content"]
    return [content] if isinstance(content, str) else [part["text"] for part in content]


BEGUN = {"role": "assistant", "content": "Tom has"}


def test_an_answer_that_is_begun_stands_behind_an_empty_thought() -> None:
    (shaped,) = shape_messages([BEGUN], R1_RULES, None, continues_last=True)
    assert shaped["content"] == "<think>\n\n</think>\n\nTom has"
    parts = {"role": "assistant", "content": [{"type": "text", "text": "Tom has"}]}
    (shaped,) = shape_messages([parts], R1_RULES, None, continues_last=True)
    assert shaped["content"] == [{"type": "text", "text": "<think>\n\n</think>\n\nTom has"}]


def test_a_thought_that_is_begun_or_a_model_that_has_none_gets_no_other() -> None:
    thought = {"role": "assistant", "content": "<think>\nTom"}
    assert shape_messages([thought], R1_RULES, None, continues_last=True) == [thought]
    assert shape_messages([BEGUN], NO_RULES, None, continues_last=True) == [BEGUN]
