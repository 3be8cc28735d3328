"""The real sandbox on micro-r1's vocabulary, and vLLM's parameters of a grammar in their shape."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

from serve_app.config.structure import StructureConfig
from serve_app.core.structure.schema_limits import SchemaLimits
from serve_app.engine.grammar.sandbox import GrammarSandbox
from serve_app.engine.grammar.structure import GrammarSyntax, StructureBinder
from serve_app.engine.models.model_dir import MICRO_MODEL, resolve_model


def micro_tokenizer() -> Any:
    # With torch behind it: seconds, which only who runs these tests is to take.
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(resolve_model(MICRO_MODEL))


def micro_vocabulary() -> str:
    import xgrammar

    tokenizer = micro_tokenizer()
    info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=len(tokenizer))
    return info.serialize_json()


@asynccontextmanager
async def a_sandbox(vocabulary: str, **config: Any) -> AsyncIterator[GrammarSandbox]:
    # On a busy machine a worker is slow to start, and nobody is refused for that.
    sandbox = GrammarSandbox(vocabulary, StructureConfig(**{"max_wait_s": 30.0, **config}))
    try:
        yield sandbox
    finally:
        sandbox.stop()
        # The loop lets go of the socket.
        await asyncio.sleep(0.01)


def a_binder(sandbox: GrammarSandbox, limits: SchemaLimits | None = None) -> StructureBinder:
    syntax = GrammarSyntax(
        beyond_xgrammar=lambda schema: "strange" in schema,
        is_lark=lambda grammar: "::=" not in grammar,
        grammar_of_choices=lambda choices: "root ::= " + " | ".join(map(json.dumps, choices)),
    )
    return StructureBinder(sandbox, syntax, limits or SchemaLimits())


def bound_to(schema: object = None, **more: Any) -> Any:
    """StructuredOutputsParams."""
    kinds = ("json_object", "regex", "choice", "grammar", "structural_tag")
    return SimpleNamespace(**{"json": schema, **dict.fromkeys(kinds), **more})


def status_of(pid: int, field: str) -> str:
    """A line of a process' status."""
    with open(f"/proc/{pid}/status") as status:  # noqa: PTH123
        found = re.search(rf"^{field}:\s*(.*)$", status.read(), re.MULTILINE)
    assert found is not None
    return found[1]
