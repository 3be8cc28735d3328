"""The fake engine: a GPU's step times without the GPU, and answers that are made up.

It stands in for vLLM where more replicas are needed than fit on a machine. Nothing in it knows a
model: neither its answers nor its token counts mean anything.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.types import ASGIApp

from serve_app.config.engine import EngineConfig, FakeEngineConfig
from serve_app.core.default_model import DEFAULT_MODEL_CONFIG
from serve_app.core.generation import Generation
from serve_app.core.placement.hardware import Hardware, ModelShape, model_shape
from serve_app.core.scaling.step_time import StepModel, derived_step_model
from serve_app.engine.fake.app import KNOWN_FIELDS, make_fake_app
from serve_app.engine.fake.batch import PROMPT_TOKENS_PER_STEP, FakeBatch
from serve_app.engine.fake.prefix_cache import FakePrefixCache
from serve_app.engine.interface import EngineLoad

log = logging.getLogger(__name__)

# As of a usual vocabulary of byte pairs.
FAKE_TOKEN_CHARS = 128


@dataclass(slots=True)
class FakeEngine:
    """The same surface as vLLM's, `serve_app.engine.interface.Engine`."""

    app: ASGIApp
    load: EngineLoad
    kv_tokens: int
    max_model_len: int
    hf_config: dict[str, Any]
    known_fields: dict[str, frozenset[str]]
    token_s: float
    _stepping: asyncio.Task[None] = field(repr=False)
    compile_s: float | None = None
    thinks: bool = False
    r1: bool = False
    longest_token_chars: int = FAKE_TOKEN_CHARS
    request_schemas: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    template_variables: frozenset[str] = frozenset()
    # There is no vLLM to patch.
    patches: Mapping[str, bool] = field(default_factory=dict[str, bool])
    speculation: str = "off"

    @classmethod
    async def start(
        cls,
        config: EngineConfig,
        fake: FakeEngineConfig,
        hardware: Hardware,
        *,
        served_names: Sequence[str],
        phase: Callable[[str], AbstractContextManager[None]],
    ) -> "FakeEngine":
        """Take as long as `start_s` says, then step as `hardware` would. `phase` times it."""
        log.warning(
            "fake engine: answers are not a model's",
            extra={"phase": "start", "hardware": hardware.name, **fake.model_dump()},
        )
        with phase("load"):
            await asyncio.sleep(fake.start_s)
        shape = model_shape(DEFAULT_MODEL_CONFIG)
        step_model = _faster(derived_step_model(hardware, shape), fake.speed)
        load = EngineLoad()
        profile = fake.cards.get(hardware.accelerator_type or "")
        kv_tokens = _kv_tokens(config, hardware, shape) if profile is None else profile.kv_tokens
        batch = FakeBatch(
            step_model,
            hardware.max_sequences,
            kv_tokens,
            load,
            per_context_token_ms=(profile.per_context_ktoken_ms if profile else 0.0)
            / 1e3
            / fake.speed,
            step_tokens=profile.step_tokens if profile else PROMPT_TOKENS_PER_STEP,
            stream_interval=fake.stream_interval,
            prefix_cache=FakePrefixCache.of(kv_tokens, enabled=fake.prefix_cache),
        )
        return cls(
            app=make_fake_app(
                batch, fake, served_names=served_names, max_model_len=config.max_model_len
            ),
            load=load,
            kv_tokens=kv_tokens,
            max_model_len=config.max_model_len,
            hf_config=dict(DEFAULT_MODEL_CONFIG),
            known_fields=KNOWN_FIELDS,
            token_s=step_model.step_ms(1) / 1e3,
            _stepping=asyncio.create_task(batch.run()),
        )

    @property
    def name(self) -> str:
        return "fake"

    @property
    def dead(self) -> bool:
        return self._stepping.done()

    def has_finished(self, generation: Generation) -> bool:
        """Its answers end with their streams."""
        return False

    def structure_counts(self) -> Mapping[str, int]:
        """It binds nothing."""
        return {}

    async def check(self) -> None:
        """Raise if it no longer steps."""
        if self.dead:
            raise RuntimeError("the fake engine no longer steps")

    def shutdown(self) -> None:
        self._stepping.cancel()


def simulated_gpu(fake: FakeEngineConfig, placed_on: Hardware) -> Hardware:
    """The GPU as the settings have it, for all that is derived from its speed: what a step costs
    beside its sequences is overhead then, for they do not say how much of it reads the weights."""
    profile = fake.cards.get(placed_on.accelerator_type or "")
    if profile is None:
        return placed_on
    return replace(
        placed_on,
        bandwidth_bytes_per_s=math.inf,
        step_overhead_ms=profile.base_ms,
        step_per_sequence_ms=profile.per_sequence_ms,
        prefill_tokens_per_s=1e3 / profile.per_prompt_token_ms,
        max_sequences=profile.max_sequences,
        status="as the fake engine's settings have it",
    )


def _faster(model: StepModel, speed: float) -> StepModel:
    return replace(
        model,
        base_ms=model.base_ms / speed,
        per_sequence_ms=model.per_sequence_ms / speed,
        per_prompt_token_ms=model.per_prompt_token_ms / speed,
    )


def _kv_tokens(config: EngineConfig, hardware: Hardware, shape: ModelShape) -> int:
    """What the weights leave of the GPU's memory."""
    if hardware.accelerator_type is None:
        return config.cpu_kv_cache_gib * 1024**3 // shape.kv_bytes_per_token
    room = hardware.memory_bytes * config.gpu_memory_utilization - shape.weight_bytes
    return max(1, int(room) // shape.kv_bytes_per_token)
