"""The models that lie in the package: small, whole, and made as the code here says."""

import json
import unicodedata
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.studies.micro_r1.command import MODEL_DIR
from loadtest.studies.micro_r1.problems import held_out_problems
from loadtest.studies.micro_r1.tokenizer import BOS, EOS, KEPT_TOKENS, VOCABULARY
from loadtest.studies.micro_r2.command import MODEL_DIR as GRADED_MODEL_DIR

LARGEST_BYTES = 8_000_000


@pytest.fixture(scope="module", params=[MODEL_DIR, GRADED_MODEL_DIR], ids=lambda path: path.name)
def directory(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture(scope="module")
def tokenizer(directory: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory)


@pytest.fixture(scope="module")
def log() -> dict[str, Any]:
    return json.loads((MODEL_DIR / "training_log.json").read_text(encoding="utf-8"))


def read_json(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


def test_all_files_together_are_small(directory: Path) -> None:
    assert sum(file.stat().st_size for file in directory.iterdir()) <= LARGEST_BYTES


def test_the_template_ends_a_prompt_with_an_open_thought(tokenizer: Any) -> None:
    messages = [
        {"role": "user", "content": "What is 2 + 3?"},
        {"role": "assistant", "content": "thought</think>\n\nIt is 5."},
        {"role": "user", "content": "And 5 + 4?"},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<｜begin▁of▁sentence｜><｜User｜>What is 2 + 3?<｜Assistant｜>\n\nIt is 5."
        "<｜end▁of▁sentence｜><｜User｜>And 5 + 4?<｜Assistant｜><think>\n"
    )


@given(text=st.text())
def test_every_text_comes_back(directory: Path, tokenizer: Any, text: str) -> None:
    # Characters in their composed form, as with Qwen2's own tokenizer.
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == unicodedata.normalize("NFC", text)
    assert max(ids, default=0) < read_json(directory / "config.json")["vocab_size"]


def test_another_models_end_token_is_mere_text(tokenizer: Any) -> None:
    assert len(tokenizer.encode("<|endoftext|>")) > 1


def test_the_fast_tokenizer_and_the_models_own_agree(directory: Path, tokenizer: Any) -> None:
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast.from_pretrained(directory)
    text = BOS + "Mia has 47 apples.\n\n" + "".join(KEPT_TOKENS) + '{"a": [1, 2]} déjà 日本' + EOS
    assert fast.encode(text) == tokenizer.encode(text)
    assert len(fast) == len(tokenizer)


def test_digits_are_single_tokens(tokenizer: Any) -> None:
    assert len(tokenizer.encode("9" * 40, add_special_tokens=False)) == 40


def test_only_the_ends_are_special(tokenizer: Any) -> None:
    text = BOS + "".join(KEPT_TOKENS) + EOS
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert len(ids) == 2 + len(KEPT_TOKENS)
    assert tokenizer.decode(ids, skip_special_tokens=True) == "".join(KEPT_TOKENS)
    assert len(tokenizer) <= VOCABULARY


def test_nothing_is_put_before_a_text(tokenizer: Any) -> None:
    assert tokenizer.encode("7") == tokenizer.encode("7", add_special_tokens=False)


def test_the_configurations_name_the_tokenizers_ids(directory: Path, tokenizer: Any) -> None:
    config = read_json(directory / "config.json")
    generation = read_json(directory / "generation_config.json")
    assert config["architectures"] == ["Qwen2ForCausalLM"]
    assert config["dtype"] == "bfloat16"
    assert config["tie_word_embeddings"] is True
    assert config["max_position_embeddings"] == 4096
    assert config["vocab_size"] == len(tokenizer)
    assert tokenizer.pad_token == tokenizer.eos_token == EOS
    for name in ("bos_token_id", "eos_token_id"):
        assert config[name] == generation[name] == getattr(tokenizer, name)
    assert (generation["temperature"], generation["top_p"]) == (0.6, 0.95)


def test_the_held_out_problems_are_those_of_the_logged_seed(log: dict[str, Any]) -> None:
    lines = (MODEL_DIR / "held_out.jsonl").read_text(encoding="utf-8").splitlines()
    written = [json.loads(line) for line in lines]
    drawn = held_out_problems(log["seed"])
    assert [(w["problem"], w["answer"], w["steps"]) for w in written] == [
        (p.text, str(p.result), p.steps) for p in drawn
    ]
    assert len({w["id"] for w in written}) == 500


def test_the_logged_accuracy_passes_the_bar_and_rises_with_the_budget(log: dict[str, Any]) -> None:
    assert log["accuracy"]["greedy"] >= 0.95
    assert log["accuracy"]["sampled_mean"] >= 0.93
    curve = [point["accuracy"] for point in log["by_budget"]]
    assert curve[0] < 0.3
    # 500 answers: a point may lie a little below the one before it.
    assert all(later > earlier - 0.02 for earlier, later in pairwise(curve))
    assert curve[-1] == log["accuracy"]["greedy"]
