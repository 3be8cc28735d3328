"""Every setting with its default and its documentation.

A tier has two kinds of settings. `TierArgs` (the application's `args` in the Serve config file)
needs a new engine when it changes. `TierSettings` (the deployment's `user_config`) changes live.
Environment variables override both: `TIERSERVE_MODEL`, `TIERSERVE_ENGINE__DTYPE`,
`TIERSERVE_CHAT__MAX_NEW_TOKENS`, `TIERSERVE_REASONING__ADMISSION__MAX_WAIT_S`.
"""

import os
from collections.abc import Mapping
from types import UnionType
from typing import Any, get_args

from pydantic import BaseModel, Field
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from serve_app.core.default_model import DEFAULT_MODEL
from serve_app.core.tiers import DEFAULT_MAX_NEW_TOKENS, Tier
from serve_app.engine_config import EngineConfig, Strict

ENV_PREFIX = "TIERSERVE_"
# Read by the launcher and the model cache, or set by them; not settings of a tier.
LAUNCHER_VARIABLES = frozenset({"TIERSERVE_CACHE", "TIERSERVE_RUN_ID"})


class AdmissionConfig(Strict):
    """The gate in front of the engine of each replica."""

    max_running_sequences: int | None = Field(
        default=None,
        ge=1,
        description="Sequences that run at once; unset: derived from card and model.",
    )
    max_queued_requests: int | None = Field(
        default=None,
        ge=0,
        description="Requests that may wait; unset: as many as there are slots, or more "
        "where more drain within `max_wait_s`. Requests that come back when they were told to may "
        "exceed it by half.",
    )
    max_wait_s: float = Field(
        default=10.0, gt=0, description="Refuse a request that cannot start within this time."
    )
    heartbeat_s: float = Field(
        default=2.0, gt=0, description="Time between SSE heartbeat comments while a request waits."
    )
    relay_after_s: float = Field(
        default=0.25,
        gt=0,
        description="How often the head of the line looks for room at another replica.",
    )
    lend_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Share of its slots that a replica lends to the other tier while no request of "
        "its own waits; 0: none. Only to a tier with the same model, context and parsers.",
    )
    expected_prompt_tokens: int = Field(
        default=512, ge=1, description="Prompt length that the derived limits reckon with."
    )
    expected_new_tokens: int = Field(
        default=400,
        ge=1,
        description="Answer length that the derived limits reckon with until measured.",
    )
    min_stream_tokens_per_s: float = Field(
        default=8.0, gt=0, description="Speed that each stream keeps when all slots are busy."
    )


class ScalingConfig(Strict):
    """When the tier's replica count changes; `docs/scaling.md` has the law."""

    wait_share: float = Field(
        default=0.8,
        ge=0,
        le=1,
        description="Part of `admission.max_wait_s` that requests may be going to wait before a "
        "replica is ordered for them. Lower: earlier, and more GPU-hours.",
    )
    slots_share: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Part of the slots that may be going to be busy before a replica is ordered.",
    )
    drain_within_s: float = Field(
        default=30.0,
        gt=0,
        description="Time in which ordered replicas are to clear what is beyond both, once they "
        "serve. Lower: more of them at once.",
    )
    utilisation_down: float = Field(
        default=0.95,
        gt=0,
        le=1,
        description="A replica is given back only if the others would be busy for less than this "
        "part of their time.",
    )


class SamplingConfig(Strict):
    """Values for what a request leaves out. Unset: the model's own generation_config."""

    temperature: float | None = Field(default=None, ge=0, le=2, description="Sampling temperature.")
    top_p: float | None = Field(default=None, gt=0, le=1, description="Nucleus sampling mass.")
    top_k: int | None = Field(
        default=None, ge=-1, description="Sample among the k likeliest tokens."
    )
    min_p: float | None = Field(
        default=None, ge=0, le=1, description="Least probability, of the top's."
    )
    repetition_penalty: float | None = Field(
        default=None, gt=0, le=2, description="Above 1 discourages repetition."
    )


class _EnvironmentWins(BaseSettings):
    """Environment variables win over the values of the config file."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_nested_delimiter="__", env_prefix=ENV_PREFIX
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return env_settings, init_settings


class TierArgs(_EnvironmentWins):
    """`args` of a tier's application: what needs a new engine."""

    tier: Tier = Field(description="`chat` or `reasoning`.")
    model: str = Field(
        default=DEFAULT_MODEL,
        description="Hub name, path of a model directory, or `smollm2` for the embedded model.",
    )
    preferred_accelerator: str | None = Field(
        default=None,
        description="Ray's name of the card that the tier's `label_selector` asks for, where there "
        "is a `fallback_strategy` too. Serve gives back replicas on other cards first, and the "
        "scaling law reckons with that.",
    )
    engine: EngineConfig = Field(default_factory=EngineConfig, description="See EngineConfig.")


class TierSettings(_EnvironmentWins):
    """`user_config` of a tier's deployment: changes live, all of it or nothing."""

    max_new_tokens: int = Field(
        ge=1, description="Default and limit of new tokens. Default: chat 1024, reasoning 2048."
    )
    admission: AdmissionConfig = Field(
        default_factory=AdmissionConfig, description="See AdmissionConfig."
    )
    scaling: ScalingConfig = Field(default_factory=ScalingConfig, description="See ScalingConfig.")
    sampling: SamplingConfig = Field(
        default_factory=SamplingConfig, description="See SamplingConfig."
    )
    system_prompt: str | None = Field(
        default=None,
        description="System message for requests that bring none. R1 distills want none.",
    )
    max_body_bytes: int = Field(
        default=4 * 1024 * 1024, ge=1024, description="Larger request bodies are refused with 413."
    )
    log_prompts: bool = Field(
        default=False,
        description="Write prompts into the log. Off: no text of a user is ever logged.",
    )


class WebArgs(_EnvironmentWins):
    """`args` of the web application: the unified /v1, status and health."""

    tiers: tuple[Tier, ...] = Field(
        default=(Tier.CHAT, Tier.REASONING),
        description="Tiers that must answer for /readyz to be 200.",
    )
    report_timeout_s: float = Field(
        default=2.0, gt=0, description="How long status and metrics wait for the replicas' reports."
    )
    heartbeat_s: float = Field(
        default=3.0,
        gt=0,
        description="Time between SSE heartbeat comments of `/v1` while a tier says nothing, as "
        "while its first replica starts.",
    )
    max_body_bytes: int = Field(
        default=4 * 1024 * 1024, ge=1024, description="Larger request bodies are refused with 413."
    )


def tier_args(args: Mapping[str, Any]) -> TierArgs:
    """Validated `args`; raises pydantic's ValidationError, or ValueError for a bad variable."""
    refuse_unknown_variables(os.environ)
    return TierArgs(**args)


def tier_settings(tier: Tier, user_config: Mapping[str, Any]) -> TierSettings:
    """Validated `user_config`; raises as `tier_args` does."""
    refuse_unknown_variables(os.environ)
    prefix = f"{ENV_PREFIX}{tier.value.upper()}__"
    values = {"max_new_tokens": DEFAULT_MAX_NEW_TOKENS[tier], **user_config}
    return TierSettings(_env_prefix=prefix, **values)  # pyright: ignore[reportCallIssue]


def refuse_unknown_variables(environment: Mapping[str, str]) -> None:
    """A misspelt TIERSERVE_ variable must not be ignored. Raises ValueError that names it."""
    tier_names = "|".join(tier.value.upper() for tier in Tier)
    for name in environment:
        if not name.startswith(ENV_PREFIX) or name in LAUNCHER_VARIABLES:
            continue
        path = name.removeprefix(ENV_PREFIX).lower().split("__")
        if path[0].upper() in tier_names.split("|"):
            known = _is_field(TierSettings, path[1:])
        else:
            known = path != ["tier"] and (_is_field(TierArgs, path) or _is_field(WebArgs, path))
        if not known:
            raise ValueError(
                f"environment variable {name} is no setting of tierserve; "
                "docs/configuration.md lists them"
            )


def _is_field(model: type[BaseModel], path: list[str]) -> bool:
    if not path or path[0] not in model.model_fields:
        return False
    inner = model.model_fields[path[0]].annotation
    if isinstance(inner, UnionType):
        inner = get_args(inner)[0]
    if isinstance(inner, type) and issubclass(inner, BaseModel):
        return len(path) == 1 or _is_field(inner, path[1:])
    return len(path) == 1
