"""Which chat template is served, and what the endings that are put behind one render."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

from serve_app.core.chat_template import (
    FORCED_THOUGHT,
    FREE_THOUGHT,
    TemplateChoice,
    choose_template,
)

ORIGINAL = (Path(__file__).parents[1] / "engine" / "golden" / "original.jinja").read_text()
JANUARY = ORIGINAL.replace(r"<think>\n'}}", "'}}")
OURS = FORCED_THOUGHT + "{{ 'ours' }}"
FREE = FREE_THOUGHT + "{{ 'ours' }}"
PLAIN = "{% for m in messages %}<｜User｜>{{ m }}{% endfor %}"
ASSISTANT = "{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}"
QWEN3_ENDING = (
    "{%- if add_generation_prompt %}\n    {{- '<｜Assistant｜>' }}\n"
    "    {%- if enable_thinking is defined and enable_thinking is false %}\n"
    r"        {{- '<think>\n\n</think>\n\n' }}"
    "\n    {%- endif %}\n{%- endif %}\n"
)


def choose(template: str | None, **options: Any) -> TemplateChoice:
    options = {"family_r1": True, "force_thought": True, "ours": OURS, **options}
    return choose_template(template, **options)


def render(template: str | None, **options: Any) -> str:
    assert template is not None
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    options = {"messages": ["Hi"], "add_generation_prompt": True, **options}
    return environment.from_string(template).render(**options)


@pytest.mark.parametrize("template", [None, ORIGINAL, PLAIN])
def test_a_model_of_another_family_keeps_its_own(template: str | None) -> None:
    choice = choose(template, family_r1=False)
    assert choice.text is None
    assert "not of the R1 family" in choice.reason


VARIATIONS = {
    "as it is": ORIGINAL,
    "of January 2025": JANUARY,
    "spaced": ORIGINAL.replace("{%", "\n  {%").replace("%}", " %}").replace("{{'", "{{ '"),
    "trimmed": ORIGINAL.replace("{%-", "{%").replace("-%}", "%}"),
    "with line ends of Windows": ORIGINAL.replace("{%", "\r\n{%") + "\r\n",
    "in double quotes": JANUARY.replace("'", '"'),
}


@pytest.mark.parametrize("template", VARIATIONS.values(), ids=VARIATIONS)
def test_the_familys_template_is_replaced_and_its_faults_are_told(template: str) -> None:
    assert choose(template) == TemplateChoice(
        OURS,
        "the model's template writes tool calls with <｜tool▁calls▁begin｜>, which the distills' "
        "vocabulary lacks, never closes a single tool call, loses the calls of a message whose "
        "content is not null and adds no assistant prompt after a tool result",
    )


def test_only_the_faults_that_a_template_has_are_told() -> None:
    mended = JANUARY.replace("and not ns.is_tool", "")
    assert choose(mended).text == OURS
    assert "after a tool result" not in choose(mended).reason
    tokens_only = PLAIN + "<｜tool▁calls▁begin｜>" + ASSISTANT
    assert choose(tokens_only).reason.endswith("which the distills' vocabulary lacks")


@pytest.mark.parametrize(("template", "text"), [(ORIGINAL, OURS), (JANUARY, FREE), (None, FREE)])
def test_a_thought_that_is_not_forced_stays_the_models_choice(
    template: str | None, text: str
) -> None:
    assert choose(template, force_thought=False).text == text


def test_a_model_without_a_template_gets_ours() -> None:
    choice = choose(None)
    assert choice.text == OURS
    assert "no chat template" in choice.reason


@pytest.mark.parametrize(
    "ending",
    [
        r"{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\n' }}{% endif %}",
        "{% if add_generation_prompt %}<｜Assistant｜><think>\n{% endif %}",
        r"{{ '<｜Assistant｜><think>\n' if add_generation_prompt else '' }}",
    ],
)
def test_a_template_that_opens_the_thought_stays(ending: str) -> None:
    choice = choose(PLAIN + ending)
    assert choice.text is None
    assert "already" in choice.reason


def test_a_thought_in_the_history_is_not_one_that_is_opened() -> None:
    history = r"{% if '</think>' in '<think>' %}{{ '<think>\n' }}{% endif %}"
    assert choose(history + ASSISTANT).text is not None


@pytest.mark.parametrize("ending", [ASSISTANT, QWEN3_ENDING])
def test_a_template_that_opens_none_stays_where_none_is_forced(ending: str) -> None:
    assert choose(PLAIN + ending, force_thought=False).text is None


@pytest.mark.parametrize("ending", [ASSISTANT, QWEN3_ENDING])
@pytest.mark.parametrize("space", ["", "\n", "\n\n", "\r\n", "  \n ", "\n{#- end #}\n"])
def test_the_thought_is_opened_right_behind_the_prompt(ending: str, space: str) -> None:
    choice = choose(PLAIN + ending + space)
    prompt = "<｜User｜>Hi<｜Assistant｜>"
    assert "skip its thought" in choice.reason
    assert render(choice.text) == prompt + "<think>\n"
    assert render(choice.text, enable_thinking=True) == prompt + "<think>\n"
    assert render(choice.text, enable_thinking=False) == prompt + "<think>\n\n</think>\n\n"
    assert render(choice.text, add_generation_prompt=False) == "<｜User｜>Hi"


@given(
    before=st.sampled_from(["{%", "{%-"]),
    after=st.sampled_from(["%}", "-%}"]),
    space=st.text(" \t\n", max_size=4),
    ask=st.booleans(),
)
def test_the_ending_changes_nothing_in_front_of_it(
    before: str, after: str, space: str, ask: bool
) -> None:
    template = PLAIN + f"\n{before} if add_generation_prompt %}}A{before} endif {after}"
    own = render(template, add_generation_prompt=ask)
    forced = render(choose(template + space).text, add_generation_prompt=ask)
    assert forced == own + "<think>\n" * ask


def test_a_second_choice_keeps_what_the_first_one_made() -> None:
    for ending in (ASSISTANT, QWEN3_ENDING):
        assert choose(choose(PLAIN + ending).text).text is None
