"""The chat template of a model's directory, and the one that it is served with."""

import json
from pathlib import Path
from tempfile import NamedTemporaryFile

from serve_app.core.model_family import is_r1
from serve_app.core.reasoning.chat_template import choose_template

OUR_R1_TEMPLATE = Path(__file__).parent / "deepseek_r1.jinja"


def own_template(model: str) -> str | None:
    """The template that lies beside a model's weights; None for a hub name, or where none lies."""
    folder = Path(model)
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    template = config.get("chat_template")
    return template if isinstance(template, str) else None


def served_template(model: str) -> tuple[str | None, str, bool]:
    """What vLLM is given as `--chat-template` (None: nothing), why, and whether the model is an R1
    distill. Opening the thought is left to the answer guard, which does it by live settings."""
    own = own_template(model)
    r1 = is_r1(model, own)
    ours = OUR_R1_TEMPLATE.read_text(encoding="utf-8")
    choice = choose_template(own, family_r1=r1, ours=ours)
    if choice.text is None or choice.text == ours:
        return choice.text and str(OUR_R1_TEMPLATE), choice.reason, r1
    with NamedTemporaryFile("w", suffix=".jinja", delete=False, encoding="utf-8") as file:
        file.write(choice.text)
    return file.name, choice.reason, r1
