"""The tokenizer: byte-level BPE with Qwen2's splits and DeepSeek-R1's special tokens."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

BOS = "<｜begin▁of▁sentence｜>"
EOS = "<｜end▁of▁sentence｜>"
# Kept by skip_special_tokens, as in the real model: a parser must see them.
KEPT_TOKENS = (
    "<｜User｜>",
    "<｜Assistant｜>",
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
)
VOCABULARY = 1024
# Qwen2's: words with the space before them, each digit alone, runs of signs, white space.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_tokenizer(texts: Iterable[str], template: Path) -> "PreTrainedTokenizerFast":
    from tokenizers import AddedToken, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = [AddedToken(text, special=True, normalized=False) for text in (BOS, EOS)]
    kept = [AddedToken(text, special=False, normalized=False) for text in KEPT_TOKENS]
    tokenizer = _untrained()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(special) - len(kept),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=2,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens(kept)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=EOS,
        # Never used; without it transformers would add Qwen's, past the model's last embedding.
        unk_token=EOS,
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
    )
    fast.chat_template = template.read_text(encoding="utf-8")
    return fast


def _untrained() -> "Tokenizer":
    """Qwen2's pipeline to the letter: as that, transformers loads any Qwen2 model's tokenizer."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def token_ids(tokenizer: "PreTrainedTokenizerFast") -> dict[str, Any]:
    """What the model's configurations say of the tokens that begin, end and fill a text."""
    return {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
