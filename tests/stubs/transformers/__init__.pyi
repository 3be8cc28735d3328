# What the type checker takes for transformers: its real root imports two thousand files, which are
# a third of the whole check, and most of what we call of it is untyped anyway.
from typing import Any

def __getattr__(name: str) -> Any: ...
