"""What micro-r2 is trained on: each way in which the server has a request answered."""

import random
from typing import Any

import pytest

from loadtest.studies.micro_r1.samples import CUT_PHRASE, NO_LOSS, Sample
from loadtest.studies.micro_r1.tokenizer import BOS, EOS
from loadtest.studies.micro_r2.command import MODEL_DIR, PHASES
from loadtest.studies.micro_r2.problems import Level, draw_problem
from loadtest.studies.micro_r2.samples import TRIAL_OPENER, GradedSampleWriter
from serve_app.config.engine import DEFAULT_TRANSITION
from serve_app.core.reasoning.prompt_rules import NO_THOUGHT
from serve_app.engine.trial_answers import OPENER

PROBLEMS = 600


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(MODEL_DIR)


@pytest.fixture(scope="module")
def samples(tokenizer: Any) -> list[Sample]:
    rng = random.Random(1)
    levels = tuple(Level)
    problems = [draw_problem(rng, levels[at % 3]) for at in range(PROBLEMS)]
    return GradedSampleWriter(tokenizer, PHASES[0].mix).write(rng, problems)


def own(sample: Sample, tokenizer: Any) -> str:
    return tokenizer.decode([label for label in sample.labels if label != NO_LOSS])


def test_the_phrases_are_the_servers() -> None:
    assert CUT_PHRASE == DEFAULT_TRANSITION + "</think>"
    assert TRIAL_OPENER == OPENER


def test_every_label_is_its_token_or_none(samples: list[Sample]) -> None:
    for sample in samples:
        assert len(sample.ids) == len(sample.labels)
        assert {*map(abs, sample.labels)} - {-NO_LOSS} <= set(sample.ids)
        assert sample.labels[0] == NO_LOSS


def test_the_empty_thought_comes_in_the_templates_and_in_the_servers_tokens(
    samples: list[Sample], tokenizer: Any
) -> None:
    def ids(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    template = ids(NO_THOUGHT)
    server = [*ids("<think>\n"), *ids("\n</think>\n\n")]
    assert template != server
    for form in (template, server):
        having = [s for s in samples if s.ids[(at := begin(s, form)) : at + len(form)] == form]
        assert 40 < len(having) < 120
        for sample in having:
            last = begin(sample, form) + len(form)
            assert set(sample.labels[:last]) == {NO_LOSS}
            assert own(sample, tokenizer).count("=") == 1
            assert own(sample, tokenizer).endswith("}." + EOS)


def begin(sample: Sample, form: list[int]) -> int:
    return sample.ids.index(form[0]) if form[0] in sample.ids else len(sample.ids)


def test_a_trial_answer_is_the_value_alone(samples: list[Sample], tokenizer: Any) -> None:
    opener = tokenizer.encode(TRIAL_OPENER, add_special_tokens=False)
    closing = tokenizer.encode(CUT_PHRASE, add_special_tokens=False)
    suffix = [*closing, *opener]
    asked = 0
    for sample in samples:
        whole = tokenizer.decode(sample.ids)
        if CUT_PHRASE + TRIAL_OPENER not in whole:
            continue
        asked += 1
        last = len(sample.ids) - len(tokenizer.encode(whole.rpartition("{")[2]))
        assert sample.ids[last - len(suffix) : last] == suffix
        assert set(sample.labels[last - len(suffix) : last]) == {NO_LOSS}
        assert tokenizer.decode(sample.labels[last:]).removesuffix("}." + EOS).isdigit()
    assert 30 < asked < 100


def test_a_broken_off_thought_reaches_its_result_and_what_comes_next(
    samples: list[Sample], tokenizer: Any
) -> None:
    texts = [tokenizer.decode(sample.ids) for sample in samples]
    stubs = [text for text in texts if not text.endswith(EOS) and "<think>" in text]
    assert 100 < len(stubs) < 260
    assert all("So the result is" in text for text in stubs)
    # As often as in whole ones no check follows, or the model would always begin one.
    checked = sum("</think>" not in text for text in stubs)
    assert 0.8 < checked / len(stubs) < 0.97


def test_sheets_have_loss_on_results_alone(samples: list[Sample], tokenizer: Any) -> None:
    sheets = [sample for sample in samples if "<think>" not in tokenizer.decode(sample.ids)]
    assert len(sheets) == int(PROBLEMS * PHASES[0].mix.sheet_share)
    for sample in sheets:
        lines = tokenizer.decode(sample.ids).removeprefix(BOS).rstrip(".").split(". ")
        results = [line.partition("=")[2] for line in lines]
        assert own(sample, tokenizer) == "".join(f"{result}." for result in results)
