"""The default model, and the sizes in its own config.json, for where its files are out of reach."""

from collections.abc import Mapping

DEFAULT_MODEL = "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"
DEFAULT_MODEL_CONFIG: Mapping[str, object] = {
    "model_type": "qwen2",
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_attention_heads": 12,
    "num_hidden_layers": 28,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
    "vocab_size": 151936,
}
