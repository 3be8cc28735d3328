"""Which models are DeepSeek-R1 distills, and what an endless repetition is."""

import pytest

from serve_app.core.model_family import is_r1
from serve_app.core.reasoning.repetition import ENDLESS


@pytest.mark.parametrize(
    ("name", "template", "r1"),
    [
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", None, True),
        ("/models/my-deepseek-r1-awq", "{{ messages }}", True),
        ("/models/mine", "{{'<｜Assistant｜><think>\n'}}", True),
        ("/models/mine", "{{'<|im_start|>assistant\n'}}", False),
        ("/models/mine", None, False),
        ("Qwen/Qwen3-0.6B", None, False),
    ],
)
def test_a_distill_is_known_by_its_name_or_by_its_template(
    name: str, template: str | None, r1: bool
) -> None:
    assert is_r1(name, template) is r1


def test_numbers_and_dots_are_no_endless_repetition_and_short_loops_are_found_too() -> None:
    assert ENDLESS.least_tokens > len("000000")
    # A loop of any shorter length also repeats at a multiple that is looked for.
    for length in range(1, ENDLESS.least_tokens):
        assert any(
            multiple % length == 0
            for multiple in range(ENDLESS.least_tokens, ENDLESS.most_tokens + 1)
        )
