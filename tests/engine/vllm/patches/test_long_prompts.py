"""Long prompts are refused by their begin, with the real tokenizers of both embedded models."""

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.engine.models.model_dir import resolve_model
from serve_app.engine.vllm.patches.long_prompts import (
    CUT_TOKENS,
    fits_by_its_begin,
    refusing_long_prompts,
)

CONTEXT = 64


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(resolve_model("micro-r1"))


@dataclass
class Params:
    """As vLLM's TokenizeParams."""

    max_total_tokens: int | None = CONTEXT
    truncate_prompt_tokens: int | None = None


class Counting:
    """A tokenizer's length of a text, and how many characters it was given."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.chars = 0

    def __call__(self, text: str) -> int:
        self.chars += len(text)
        return len(self._tokenizer(text)["input_ids"])


@given(text=st.text(max_size=3000) | st.text("a 1\n", max_size=3000))
@settings(deadline=None)
def test_no_text_that_fits_is_refused_by_its_begin(tokenizer: Any, text: str) -> None:
    count = Counting(tokenizer)
    fits, _ = fits_by_its_begin(text, CONTEXT, count)
    assert fits or count(text) > CONTEXT


@pytest.mark.parametrize("unit", ["a ", "word ", "€", "1", "\n", "👩‍👩‍👧"])
def test_of_a_very_long_text_only_a_begin_is_tokenized(tokenizer: Any, unit: str) -> None:
    text = unit * (1_000_000 // len(unit))
    count = Counting(tokenizer)
    fits, tokens = fits_by_its_begin(text, CONTEXT, count)
    assert not fits
    assert tokens > CONTEXT + CUT_TOKENS
    assert count.chars < 20 * CONTEXT


def test_a_short_text_is_not_counted_at_all(tokenizer: Any) -> None:
    count = Counting(tokenizer)
    assert fits_by_its_begin("short", CONTEXT, count) == (True, 0)
    assert count.chars == 0


@pytest.mark.parametrize(
    ("params", "most"),
    [(Params(), 64), (Params(None), 256), (Params(CONTEXT, truncate_prompt_tokens=8), 256)],
)
def test_a_refusal_says_how_many_tokens_are_taken(
    tokenizer: Any, params: Params, most: int
) -> None:
    passed: list[Any] = []
    tokenize = refusing_long_prompts(
        lambda prompt, _: passed.append(prompt),
        Counting(tokenizer),
        CONTEXT,
        4,
        ValueError,
    )
    with pytest.raises(ValueError, match=f"at most {most} are taken"):
        tokenize({"prompt": "a " * 5000}, params)
    tokenize({"prompt": "a " * (most // 2 - 1)}, params)
    tokenize({"prompt_token_ids": [1]}, params)
    assert len(passed) == 2
