"""What the model is trained on: the template's own text, and no loss on what it does not write."""

import random
from typing import Any

import pytest

from loadtest.studies.micro_r1.command import MODEL_DIR
from loadtest.studies.micro_r1.problems import draw_problem, held_out_problems
from loadtest.studies.micro_r1.samples import CUT_PHRASE, NO_LOSS, Sample, SampleWriter
from loadtest.studies.micro_r1.tokenizer import EOS


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(MODEL_DIR)


@pytest.fixture(scope="module")
def samples(tokenizer: Any) -> list[Sample]:
    rng = random.Random(1)
    problems = [draw_problem(rng, 2 + at % 2) for at in range(400)]
    return SampleWriter(tokenizer).write(rng, problems)


def own(sample: Sample, tokenizer: Any) -> str:
    return tokenizer.decode([label for label in sample.labels if label != NO_LOSS])


def test_each_ends_with_one_boxed_number(samples: list[Sample], tokenizer: Any) -> None:
    for sample in samples:
        assert len(sample.ids) == len(sample.labels)
        text = own(sample, tokenizer)
        assert text.count("\\boxed{") == 1
        assert text.endswith("}." + EOS)


def test_the_servers_phrase_is_whole_and_without_loss(
    samples: list[Sample], tokenizer: Any
) -> None:
    cut_ids = tokenizer.encode(CUT_PHRASE, add_special_tokens=False)
    end = tokenizer.convert_tokens_to_ids("</think>")
    cut = [s for s in samples if CUT_PHRASE in tokenizer.decode(s.ids)]
    assert 40 < len(cut) < 120
    for sample in cut:
        last = sample.ids.index(end) + 1
        assert sample.ids[last - len(cut_ids) : last] == cut_ids
        assert set(sample.labels[last - len(cut_ids) : last]) == {NO_LOSS}
        assert tokenizer.decode(sample.labels[last:]).startswith("\n\n")


def test_a_skipped_thought_comes_in_both_forms(samples: list[Sample], tokenizer: Any) -> None:
    begin = tokenizer.convert_tokens_to_ids("<think>")
    one, two = (tokenizer.encode(text, add_special_tokens=False) for text in ("\n\n", "\n"))
    end = tokenizer.convert_tokens_to_ids("</think>")
    forms = [[begin, *one, end, *one], [begin, *two, *two, end, *one]]
    for form in forms:
        having = [s for s in samples if s.ids[(at := s.ids.index(begin)) : at + len(form)] == form]
        assert having
        assert all("think>" not in own(sample, tokenizer) for sample in having)


def test_a_prompt_is_what_the_template_renders(tokenizer: Any) -> None:
    writer = SampleWriter(tokenizer)
    problem = held_out_problems(9, 1)[0]
    prompt = writer.prompt(problem.text)
    assert prompt == f"<｜begin▁of▁sentence｜><｜User｜>{problem.text}<｜Assistant｜><think>\n"
    whole = prompt + problem.thought + "\n</think>\n\n" + problem.answer + EOS
    [joined] = writer.encode([whole])
    [first, then] = writer.encode([prompt, whole.removeprefix(prompt)])
    assert joined == first + then
