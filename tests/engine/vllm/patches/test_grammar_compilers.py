"""A compiled grammar waits for no other one."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

from serve_app.engine.vllm.patches.grammar_compilers import COMPILERS, compiling_side_by_side


def test_grammars_are_compiled_side_by_side_where_any_are_compiled() -> None:
    own = ThreadPoolExecutor(1)

    def initialize(manager: Any, tokenizer: bool) -> None:
        if tokenizer:
            manager.executor = own

    manager, without = SimpleNamespace(), SimpleNamespace()
    compiling_side_by_side(initialize)(manager, tokenizer=True)
    compiling_side_by_side(initialize)(without, tokenizer=False)
    assert manager.executor is not own
    assert manager.executor._max_workers == COMPILERS
    assert without == SimpleNamespace()
