"""What a replica needs of an engine, vLLM or the fake one, and what an engine says of its load."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import nan
from typing import Any, Protocol

from starlette.types import ASGIApp

from serve_app.core.generation import Generation


class EngineWatch(Protocol):
    """Who hears of each step and of each request that ended by itself."""

    def step(
        self, *, took_ms: float, sequences: int, prompt_tokens: int, tokens: int | None = None
    ) -> None:
        """A step that followed another one without a pause, and made so many tokens: by default one
        for each sequence."""
        ...

    def finished(self, *, prompt_tokens: int, new_tokens: int) -> None: ...


@dataclass(slots=True)
class EngineLoad:
    """What the engine last reported of itself. None until the first report."""

    running: int | None = None
    waiting: int | None = None
    kv_cache_usage: float | None = None
    # Tokens of prompts that were looked for in the prefix cache, and found there, since the start.
    prefix_queries: int = 0
    prefix_hits: int = 0
    output_tokens: int = 0
    # Of the drafts that were verified, all tokens and those that were accepted.
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    reported_s: float | None = None
    watch: EngineWatch | None = None
    # Called after each step, once what it has made is known.
    after_step: Callable[[], None] = lambda: None

    @property
    def prefix_hit_rate(self) -> float:
        """0 to 1; NaN before the first prompt."""
        return self.prefix_hits / self.prefix_queries if self.prefix_queries else nan


class Engine(Protocol):
    """A started engine. `kv_tokens` is the size of its KV cache, `max_model_len` its context,
    `known_fields` what its request schemas know by route, `token_s` the warm-up's seconds a
    token, `compile_s` how long it compiled while it loaded, None if it did not or is not known;
    `thinks` whether its model thinks before it answers, `r1` whether it is an R1 distill; `app`
    answers below `/v1`; `longest_token_chars` is the length of the longest token's text,
    `request_schemas` the JSON schemas of bodies by route, `template_variables` what its chat
    template can be given; `patches` says of each patch and fast path of vLLM whether it is
    active, `speculation` by which method tokens are drafted, `off` where none are."""

    app: ASGIApp
    load: EngineLoad
    kv_tokens: int
    max_model_len: int
    hf_config: dict[str, Any]
    known_fields: dict[str, frozenset[str]]
    token_s: float
    compile_s: float | None
    thinks: bool
    r1: bool
    longest_token_chars: int
    request_schemas: dict[str, dict[str, Any]]
    template_variables: frozenset[str]
    patches: Mapping[str, bool]
    speculation: str

    @property
    def name(self) -> str:
        """`vllm`, or `fake` where answers are made up."""
        ...

    @property
    def dead(self) -> bool: ...

    def has_finished(self, generation: Generation) -> bool:
        """Whether the engine has done all that it was asked for a request; its client may not have
        taken it yet."""
        ...

    async def check(self) -> None:
        """Raise if the engine is dead."""
        ...

    def structure_counts(self) -> Mapping[str, int]:
        """What became of the grammars that clients asked for, since the start, by result."""
        ...

    def shutdown(self) -> None: ...
