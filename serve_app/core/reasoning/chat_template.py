"""Which chat template a model is served with: its own, or ours.

A thought that a template does not open is opened behind it, by the answer guard.
"""

import re
from dataclasses import dataclass

# Where ours decides on the thought. It is set in the text, not by a variable from outside: vLLM
# lets a request give any variable that a template reads and does not set.
FORCED_THOUGHT = "{%- set force_thought = true -%}"
FREE_THOUGHT = "{%- set force_thought = false -%}"

_TURN_TOKENS = ("<｜User｜>", "<｜Assistant｜>")
_CALL_TOKEN = "<｜tool▁calls▁begin｜>"  # noqa: S105 - of the vocabulary
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
# Line ends may be written as \n or as they are.
_OPEN_THOUGHT = re.compile(r"<think>(?!(?:\s|\\n)*</think>)")


@dataclass(frozen=True, slots=True)
class TemplateChoice:
    """`text` None keeps the model's own template."""

    text: str | None
    reason: str


def choose_template(model_template: str | None, *, family_r1: bool, ours: str) -> TemplateChoice:
    """Decide for a model whose tokenizer brings `model_template`; None where it brings none."""
    if not family_r1:
        return TemplateChoice(None, "the model is not of the R1 family, so its own template stays")
    if model_template is None:
        reason = "the model brings no chat template, so the service's serves"
        return TemplateChoice(free_thought(ours), reason)
    if _writes_foreign_calls(model_template):
        opens = _OPEN_THOUGHT.search(_generation_prompt(model_template)) is not None
        text = ours if opens else free_thought(ours)
        return TemplateChoice(text, f"the model's template {_faults(model_template)}")
    return TemplateChoice(None, "the model's own template has none of the known faults")


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
