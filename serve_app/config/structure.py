"""Limits on structured output: a client's JSON schemas, regular expressions and grammars."""

from pydantic import Field

from serve_app.config.engine import Strict


class StructureConfig(Strict):
    """What a client sends is compiled in a sandbox process first, under these limits. A change
    needs a new engine."""

    max_bytes: int = Field(
        default=256 * 1024,
        ge=1024,
        description="Refuse a schema, regular expression or grammar that is larger.",
    )
    max_nesting: int = Field(
        default=64,
        ge=4,
        le=64,
        description="Refuse one whose objects and arrays, or whose brackets, nest deeper. vLLM "
        "itself takes 64 levels.",
    )
    max_nodes: int = Field(
        default=20_000,
        ge=100,
        description="Refuse a schema with more values: keywords, properties, enum values.",
    )
    compile_timeout_s: float = Field(
        default=1.0,
        gt=0,
        description="CPU time that compiling it and walking through it may take. The engine "
        "compiles it again and is busy for as long.",
    )
    compile_memory_mib: int = Field(
        default=512, ge=32, description="Memory that compiling it may take, in MiB."
    )
    max_compiled_mib: int = Field(
        default=32,
        ge=1,
        description="Size of the compiled grammar, in MiB, of which the engine keeps several.",
    )
    max_step_ms: float = Field(
        default=4.0,
        gt=0,
        description="CPU time that a compiled grammar may take for each token of an answer. The "
        "engine takes it for each sequence, one after the other.",
    )
    cache_mib: int = Field(
        default=2,
        ge=1,
        description="Memory for cached verdicts, in MiB, about 3,000 each, without the schemas.",
    )
    workers: int = Field(
        default=2, ge=1, description="New schemas that are compiled at once, each on one core."
    )
    max_waiting: int = Field(
        default=64, ge=1, description="New schemas that may wait for a worker; 503 beyond."
    )
    max_wait_s: float = Field(
        default=5.0,
        gt=0,
        description="Refuse with 503 a new schema that no worker has taken within this time.",
    )
