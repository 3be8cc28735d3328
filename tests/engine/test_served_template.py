"""The chat template that lies beside a model, and the one that it is served with."""

import json
from pathlib import Path

import pytest

from serve_app.engine.templates.chat_templates import OUR_R1_TEMPLATE, own_template, served_template

OURS = OUR_R1_TEMPLATE.read_text(encoding="utf-8")
R1 = "{# </think> #}{{'<｜User｜>'}}{% if add_generation_prompt %}{{'<｜Assistant｜>'}}{% endif %}"
R1_OPENS = R1.replace("<｜Assistant｜>", "<｜Assistant｜><think>\\n")
# It writes calls with a token that the distills' vocabulary lacks.
R1_CALLS = R1 + "{# <｜tool▁calls▁begin｜> #}"
R1_CALLS_AND_OPENS = "{# <｜tool▁calls▁begin｜> #}" + R1_OPENS
CHATML = "{{'<|im_start|>assistant\\n'}}"


def a_directory(folder: Path, jinja: str | None = None, config: object = None) -> str:
    if jinja is not None:
        (folder / "chat_template.jinja").write_text(jinja, encoding="utf-8")
    if config is not None:
        text = config if isinstance(config, str) else json.dumps(config)
        (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
    return str(folder)


# --- the model's own


def test_a_template_of_its_own_file_goes_before_the_one_of_the_tokenizer(tmp_path: Path) -> None:
    model = a_directory(tmp_path, R1, {"chat_template": CHATML})
    assert own_template(model) == R1


def test_a_template_may_lie_in_the_tokenizers_configuration(tmp_path: Path) -> None:
    assert own_template(a_directory(tmp_path, config={"chat_template": R1})) == R1


@pytest.mark.parametrize(
    "config", [None, {}, {"chat_template": [{"name": "default", "template": R1}]}, "{not json"]
)
def test_what_brings_no_template_that_can_be_read_has_none(tmp_path: Path, config: object) -> None:
    assert own_template(a_directory(tmp_path, config=config)) is None


def test_a_hub_name_has_no_template_yet() -> None:
    assert own_template("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B") is None


# --- what is served


def test_a_model_of_another_family_keeps_its_own(tmp_path: Path) -> None:
    template, reason, r1 = served_template(a_directory(tmp_path, CHATML))
    assert (template, r1) == (None, False)
    assert "not of the R1 family" in reason


@pytest.mark.parametrize("own", [R1, R1_OPENS])
def test_a_distill_whose_template_has_no_fault_keeps_it(tmp_path: Path, own: str) -> None:
    template, _, r1 = served_template(a_directory(tmp_path, own))
    assert (template, r1) == (None, True)


def test_a_distill_whose_template_opens_the_thought_gets_ours_with_it_open(tmp_path: Path) -> None:
    template, reason, r1 = served_template(a_directory(tmp_path, R1_CALLS_AND_OPENS))
    assert (template, r1) == (str(OUR_R1_TEMPLATE), True)
    assert "vocabulary lacks" in reason


@pytest.mark.parametrize("model", ["hub", "directory"])
def test_otherwise_a_distill_gets_ours_with_the_thought_left_to_the_guard(
    tmp_path: Path, model: str
) -> None:
    name = "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"
    named = name if model == "hub" else a_directory(tmp_path, R1_CALLS)
    template, _, r1 = served_template(named)
    assert r1
    assert template is not None
    file = Path(template)
    try:
        text = file.read_text(encoding="utf-8")
    finally:
        file.unlink()
    assert file.suffix == ".jinja"
    assert text != OURS
    assert text.replace("force_thought = false", "force_thought = true") == OURS
