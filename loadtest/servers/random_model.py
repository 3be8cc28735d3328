"""A small random Qwen2 with short steps, so that the cost of serving shows beside the engine's."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from filelock import FileLock

from serve_app.engine.models.model_dir import EMBEDDED_MODEL, default_cache_dir, resolve_model

HIDDEN = 128
LAYERS = 4
HEADS = 4
MAX_POSITIONS = 4096
SEED = 20
# Raised when the directory's content changes, so that old ones are left alone.
_LAYOUT = 2
_MARKER = "random-model.json"


def make_random_qwen2(
    directory: Path | None = None,
    *,
    tokenizer_dir: Path | None = None,
    hidden: int = HIDDEN,
    layers: int = LAYERS,
    heads: int = HEADS,
) -> Path:
    """The model's directory, made at the first call: complete or absent, never half written.

    By default it lies beside the embedded model, whose tokenizer and chat template it takes. One of
    another size needs a `directory` of its own.
    """
    target = directory or default_cache_dir() / "models" / f"random-qwen2-7m-v{_LAYOUT}"
    target.parent.mkdir(parents=True, exist_ok=True)
    # Tests and a benchmark may come here at once: one writes, all wait.
    with FileLock(target.with_suffix(".lock")):
        if not (target / _MARKER).is_file():
            tokenizer = tokenizer_dir or Path(resolve_model(EMBEDDED_MODEL))
            _write(target, tokenizer, (hidden, layers, heads))
    return target


def _write(target: Path, tokenizer_dir: Path, size: tuple[int, int, int]) -> None:
    shutil.rmtree(target, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(prefix=".random-", dir=target.parent))
    try:
        parameters = _write_model(staging, tokenizer_dir, size)
        (staging / _MARKER).write_text(json.dumps({"parameters": parameters, "seed": SEED}))
        staging.chmod(0o755)
        staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _write_model(directory: Path, tokenizer_dir: Path, size: tuple[int, int, int]) -> int:
    # Seconds of import that a caller who finds the directory made does not pay.
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    hidden, layers, heads = size
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    assert tokenizer is not None
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=2,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        model = Qwen2ForCausalLM(config).bfloat16()
    with torch.no_grad():
        # Input and output share these rows: one of zeros is never the likeliest token.
        rows: torch.Tensor = model.get_parameter("model.embed_tokens.weight")
        rows[_textless(tokenizer)] = 0
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return model.num_parameters()


def _textless(tokenizer: Any) -> list[int]:
    """Special tokens and parts of characters, which leave gaps in a stream."""
    texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    special = set(tokenizer.all_special_ids)
    return [t for t, text in enumerate(texts) if t in special or not text or "\ufffd" in text]
