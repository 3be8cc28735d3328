"""What the installed vLLM can read of quantized weights, without importing it: that takes seconds,
and the doctor has no use for an engine."""

import ast
import importlib.util
from pathlib import Path

_LIST = "QuantizationMethods"
_FILE = "model_executor/layers/quantization/__init__.py"


def known_to_vllm() -> frozenset[str] | None:
    """vLLM's names, with `gguf` where its plugin is installed; None where no vLLM is."""
    found = importlib.util.find_spec("vllm")
    if found is None or found.origin is None:
        return None
    tree = ast.parse((Path(found.origin).parent / _FILE).read_text())
    names = {
        value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and _is_list(node)
        for value in ast.walk(node.value)
        if isinstance(value, ast.Constant) and isinstance(value.value, str)
    }
    plugin = {"gguf"} if importlib.util.find_spec("vllm_gguf_plugin") is not None else set[str]()
    return frozenset(names | plugin)


def _is_list(node: ast.Assign) -> bool:
    return any(isinstance(target, ast.Name) and target.id == _LIST for target in node.targets)
