"""Which chat template is served, and why."""

from pathlib import Path
from typing import Any

import pytest

from serve_app.core.reasoning.chat_template import (
    FORCED_THOUGHT,
    FREE_THOUGHT,
    TemplateChoice,
    choose_template,
)

ORIGINAL = (Path(__file__).parents[2] / "engine" / "golden" / "original.jinja").read_text()
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
    options = {"family_r1": True, "ours": OURS, **options}
    return choose_template(template, **options)


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
def test_the_familys_template_is_replaced_and_its_errors_are_named(template: str) -> None:
    opens = "<think>" in template
    assert choose(template) == TemplateChoice(
        OURS if opens else FREE,
        "the model's template writes tool calls with <｜tool▁calls▁begin｜>, which the distills' "
        "vocabulary lacks, never closes a single tool call, loses the calls of a message whose "
        "content is not null and adds no assistant prompt after a tool result",
    )


def test_only_the_errors_that_a_template_has_are_named() -> None:
    fixed = JANUARY.replace("and not ns.is_tool", "")
    assert choose(fixed).text == FREE
    assert "after a tool result" not in choose(fixed).reason
    tokens_only = PLAIN + "<｜tool▁calls▁begin｜>" + ASSISTANT
    assert choose(tokens_only).reason.endswith("which the distills' vocabulary lacks")


def test_a_model_without_a_template_gets_ours() -> None:
    choice = choose(None)
    assert choice.text == FREE
    assert "no chat template" in choice.reason


OPENING = (
    r"{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\n' }}{% endif %}",
    "{% if add_generation_prompt %}<｜Assistant｜><think>\n{% endif %}",
    r"{{ '<｜Assistant｜><think>\n' if add_generation_prompt else '' }}",
)


@pytest.mark.parametrize("ending", [ASSISTANT, QWEN3_ENDING, *OPENING])
def test_a_template_without_faults_stays(ending: str) -> None:
    choice = choose(PLAIN + ending)
    assert choice.text is None
    assert "none of the known faults" in choice.reason


@pytest.mark.parametrize("ending", OPENING)
def test_a_thought_that_a_faulty_template_opens_stays_open(ending: str) -> None:
    assert choose(PLAIN + "<｜tool▁calls▁begin｜>" + ending).text == OURS


def test_a_thought_in_the_history_is_not_one_that_is_opened() -> None:
    history = r"{% if '</think>' in '<think>' %}{{ '<think>\n' }}{% endif %}"
    assert choose(history + "<｜tool▁calls▁begin｜><｜User｜>" + ASSISTANT).text == FREE
