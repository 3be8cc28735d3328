"""What the service's template for the R1 distills renders, against golden files and the original.

`GOLDEN=write pytest tests/engine/test_chat_template.py` writes the golden files anew; the reason
for each stands beside its case in chat_cases.py.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2.nodes
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import Environment

import serve_app.engine
from serve_app.core.reasoning.chat_template import free_thought
from serve_app.core.reasoning.prompt_rules import NO_RULES, shape_messages
from tests.engine.chat_cases import (
    CASES,
    CLOCK,
    QUESTION,
    WEATHER,
    Case,
    Messages,
    result,
    said,
    system,
    user,
)

GOLDEN = Path(__file__).parent / "golden"
OURS = (Path(serve_app.engine.__file__).parent / "templates" / "deepseek_r1.jinja").read_text()
ORIGINAL = (GOLDEN / "original.jinja").read_text()
BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"


def render(template: str, messages: Messages, **options: Any) -> str:
    """As a tokenizer renders it."""
    options = {"add_generation_prompt": True, "bos_token": BOS, **options}
    from transformers.utils.chat_template_utils import render_jinja_template

    rendered, _ = render_jinja_template([messages], chat_template=template, **options)
    return rendered[0]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_prompt_is_the_golden_one(case: Case) -> None:
    shaped = shape_messages(case.messages, case.rules, case.directive)
    prompt = render(OURS, shaped, tools=case.tools, **case.options)
    file = GOLDEN / f"{case.name}.txt"
    if os.environ.get("GOLDEN") == "write":
        file.write_text(prompt, newline="")
    assert prompt.encode() == file.read_bytes()


def test_no_golden_file_is_left_without_its_case() -> None:
    assert {file.stem for file in GOLDEN.glob("*.txt")} == {case.name for case in CASES}


TEXTS = st.lists(
    st.sampled_from(["<think>", "</think>", "\n", " ", "{{ x }}", "<｜User｜>", "ä", "text"]),
    max_size=6,
).map("".join)
TURNS = st.builds(
    lambda role, text: {"role": role, "content": text},
    st.sampled_from(["system", "user", "assistant"]),
    TEXTS,
)


@given(messages=st.lists(TURNS, min_size=1, max_size=6), ask=st.booleans())
def test_without_tools_it_renders_what_the_original_renders(messages: Messages, ask: bool) -> None:
    ours = render(OURS, messages, add_generation_prompt=ask)
    assert ours == render(ORIGINAL, messages, add_generation_prompt=ask)


@pytest.mark.parametrize("ask", [True, False])
def test_a_silent_assistant_message_is_rendered_as_the_original_does(ask: bool) -> None:
    messages = [user("Hi"), said(None), user("Hello?")]
    ours = render(OURS, messages, add_generation_prompt=ask)
    assert ours == render(ORIGINAL, messages, add_generation_prompt=ask)


def test_the_thought_can_be_left_to_the_model() -> None:
    january = ORIGINAL.replace(r"<think>\n'}}", "'}}")
    assert january != ORIGINAL
    free = free_thought(OURS)
    assert render(free, [user("Hi")]) == render(january, [user("Hi")])
    assert render(free, [user("Hi")]).endswith("<｜Assistant｜>")
    assert render(free, [user("Hi")], enable_thinking=False).endswith("</think>\n\n")


def test_a_request_cannot_free_a_forced_thought() -> None:
    prompt = render(OURS, [user("Hi")], force_thought=False)
    assert prompt == render(OURS, [user("Hi")])


CALL: tuple[str, Any] = ("clock", "{}")
END_OF_CALLS = "<｜tool▁calls▁end｜>"


def test_fault_a_single_call_is_never_closed() -> None:
    messages = [QUESTION, said(None, CALL)]
    assert END_OF_CALLS not in render(ORIGINAL, messages)
    assert END_OF_CALLS in render(ORIGINAL, [QUESTION, said(None, CALL, CALL)])
    ours = render(OURS, messages, add_generation_prompt=False)
    assert ours.endswith(f"</tool_call>{EOS}")


def test_fault_the_model_is_not_asked_to_go_on_after_a_result() -> None:
    messages = [QUESTION, said(None, CALL), result("12:00")]
    assert "<｜Assistant｜><think>" not in render(ORIGINAL, messages)
    assert render(OURS, messages).endswith("</tool_response><｜Assistant｜><think>\n")


def test_fault_calls_beside_empty_content_are_lost() -> None:
    messages = [QUESTION, said("", CALL)]
    assert "clock" not in render(ORIGINAL, messages)
    assert "clock" in render(OURS, messages)


def test_fault_tools_are_not_offered_at_all() -> None:
    assert "weather" not in render(ORIGINAL, [QUESTION], tools=[WEATHER])
    assert "weather" in render(OURS, [QUESTION], tools=[WEATHER])


def test_no_token_outside_the_vocabulary_is_written() -> None:
    everything = [QUESTION, said("", CALL, CALL), result("1"), result("2", 1), said("Done.")]
    assert "<｜tool" in render(ORIGINAL, [QUESTION, said(None, CALL), result("1")])
    assert "<｜tool" not in render(OURS, everything, tools=[WEATHER, CLOCK])


def test_a_closed_thought_is_the_one_difference_between_continuing_and_history() -> None:
    answer = said("<think>\nA greeting.\n</think>\n\nHello")
    history = render(OURS, [user("Hi"), answer], add_generation_prompt=False)
    assert history == f"{BOS}<｜User｜>Hi<｜Assistant｜>\n\nHello{EOS}"
    with pytest.raises(ValueError, match="does not appear in the chat"):
        render(
            ORIGINAL,
            [user("Hi"), answer],
            add_generation_prompt=False,
            continue_final_message=True,
        )


def as_parts(message: dict[str, Any]) -> dict[str, Any]:
    if message["content"] is None:
        return message
    return {**message, "content": [{"type": "text", "text": message["content"]}]}


STRINGS = [case for case in CASES if case.rules == NO_RULES and case.name != "text_parts"]


@pytest.mark.parametrize("case", STRINGS, ids=lambda case: case.name)
def test_contents_as_parts_render_as_strings_do(case: Case) -> None:
    """vLLM hands parts over where `--chat-template-content-format openai` is set."""
    prompt = render(OURS, list(map(as_parts, case.messages)), tools=case.tools, **case.options)
    assert prompt == render(OURS, case.messages, tools=case.tools, **case.options)


def test_vllm_takes_it_for_a_template_of_strings() -> None:
    """vLLM hands contents over as parts to a template that loops over a message's content."""
    loops = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(OURS)
    over = [loop.iter for loop in loops.find_all(jinja2.nodes.For)]
    assert not any("content" in _names(node) for node in over)


def _names(node: jinja2.nodes.Node) -> Sequence[str]:
    constants = [str(constant.value) for constant in node.find_all(jinja2.nodes.Const)]
    return [*constants, *(name.name for name in node.find_all(jinja2.nodes.Name))]


def test_of_several_system_messages_the_last_one_counts_as_in_the_original() -> None:
    messages = [system("First."), system("Second."), user("Hi")]
    assert render(OURS, messages) == render(ORIGINAL, messages)
    assert "First." not in render(OURS, messages)
