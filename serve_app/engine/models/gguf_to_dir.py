"""Writes a GGUF file out as a dense model directory; run in a process of its own."""

import sys
from pathlib import Path


def write_model_dir(gguf: Path, target: Path) -> None:
    """Weights as bfloat16 safetensors, config, tokenizer and its chat template."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    folder, name = str(gguf.parent), gguf.name
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        gguf_file=name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
    )
    model.save_pretrained(target)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    if tokenizer is None or not tokenizer.chat_template:
        raise SystemExit(f"{name} carries no chat template")
    tokenizer.save_pretrained(target)


if __name__ == "__main__":
    write_model_dir(Path(sys.argv[1]), Path(sys.argv[2]))
