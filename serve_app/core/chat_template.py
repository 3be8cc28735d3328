"""Which chat template a model is served with: its own, its own with a thought opened, or ours."""

import re
from dataclasses import dataclass

# Appended to a template of the family whose generation prompt leaves the model free to skip its
# thought. A request's `enable_thinking: false` gets the empty thought that the models know.
THOUGHT_ENDING = (
    r"{% if add_generation_prompt %}"
    r"{{ '<think>\n\n</think>\n\n' if enable_thinking is defined and enable_thinking is false"
    r" else '<think>\n' }}{% endif %}"
)
# The same for a template that writes the empty thought itself.
OPEN_THOUGHT_ENDING = (
    r"{% if add_generation_prompt and not (enable_thinking is defined and enable_thinking is false)"
    r" %}{{ '<think>\n' }}{% endif %}"
)
# Where ours decides on the thought. It is set in the text, not by a variable from outside: vLLM
# lets a request give any variable that a template reads and does not set.
FORCED_THOUGHT = "{%- set force_thought = true -%}"
FREE_THOUGHT = "{%- set force_thought = false -%}"

_TURN_TOKENS = ("<｜User｜>", "<｜Assistant｜>")
_CALL_TOKEN = "<｜tool▁calls▁begin｜>"
# Looked for in a template without white space, white-space control and double quotes.
_FAULTS = (
    (
        # The closing token stands in the branch that only a second call reaches.
        "never closes a single tool call",
        r"\{%else%\}[^%]*<｜tool▁calls▁end｜>[^%]*\{%endif%\}\{%endfor%\}",
    ),
    (
        "loses the calls of a message whose content is not null",
        r"isnone%\}(?:\{%set[^%]*%\})*\{%for[^%]*tool_calls",
    ),
    ("adds no assistant prompt after a tool result", r"add_generation_promptandnot[\w.]*is_tool"),
)
_THOUGHT = "<think>"
# Line ends may be written as \n or as they are.
_OPEN_THOUGHT = re.compile(r"<think>(?!(?:\s|\\n)*</think>)")


@dataclass(frozen=True, slots=True)
class TemplateChoice:
    """`text` None keeps the model's own template."""

    text: str | None
    reason: str


def choose_template(
    model_template: str | None, *, family_r1: bool, force_thought: bool, ours: str
) -> TemplateChoice:
    """Decide for a model whose tokenizer brings `model_template`; None where it brings none."""
    if not family_r1:
        return TemplateChoice(None, "the model is not of the R1 family, so its own template stays")
    if model_template is None:
        text = ours if force_thought else free_thought(ours)
        return TemplateChoice(text, "the model brings no chat template, so the service's serves")
    prompt = _generation_prompt(model_template)
    opens = _OPEN_THOUGHT.search(prompt) is not None
    if _writes_foreign_calls(model_template):
        text = ours if force_thought or opens else free_thought(ours)
        return TemplateChoice(text, f"the model's template {_faults(model_template)}")
    if opens:
        return TemplateChoice(None, "the model's own template opens the thought already")
    if not force_thought:
        return TemplateChoice(None, "the model's own template stays: no thought is to be forced")
    # White space at the end of a file is seldom meant, and jinja itself drops the last line end:
    # in front of the thought it would be one more token that the model has not learnt.
    ending = OPEN_THOUGHT_ENDING if _THOUGHT in prompt else THOUGHT_ENDING
    return TemplateChoice(
        model_template.rstrip() + ending,
        "the model's own template lets it skip its thought, so `<think>` is put at its end",
    )


def free_thought(ours: str) -> str:
    """Our template with the thought left to the model, as in the template that ours replaces."""
    return ours.replace(FORCED_THOUGHT, FREE_THOUGHT)


def _generation_prompt(template: str) -> str:
    """The template from the tag on that asks for the generation prompt last."""
    at = template.rfind("add_generation_prompt")
    if at < 0:
        return ""
    return template[max(0, template.rfind("{{", 0, at), template.rfind("{%", 0, at)) :]


def _squeezed(template: str) -> str:
    bare = re.sub(r"\s+", "", template).replace('"', "'")
    return re.sub(r"(?<=\{[{%])[-+]|[-+](?=[}%]\})", "", bare)


def _writes_foreign_calls(template: str) -> bool:
    bare = _squeezed(template)
    return all(token in bare for token in (_CALL_TOKEN, *_TURN_TOKENS))


def _faults(template: str) -> str:
    bare = _squeezed(template)
    found = [words for words, pattern in _FAULTS if re.search(pattern, bare)]
    always = f"writes tool calls with {_CALL_TOKEN}, which the distills' vocabulary lacks"
    *most, last = [always, *found]
    return f"{', '.join(most)} and {last}" if most else last
