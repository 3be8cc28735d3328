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

from pydantic import BaseModel, Field, PositiveFloat
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from serve_app.config.access import AccessConfig
from serve_app.config.admission import AdmissionConfig
from serve_app.config.answers import (
    AnswerCacheConfig,
    AnswersConfig,
    LimitsConfig,
    PromptingConfig,
    SamplingConfig,
    TaskConfig,
    ThinkingConfig,
    default_tasks,
)
from serve_app.config.cors import CORS_ORIGINS, Origins
from serve_app.config.engine import EngineConfig
from serve_app.config.prefixes import PrefixConfig
from serve_app.config.replay import ReplayConfig, ResumableConfig
from serve_app.config.scaling import ScalingConfig, SloConfig
from serve_app.config.structure import StructureConfig
from serve_app.config.usage import UsageConfig
from serve_app.core.default_model import DEFAULT_MODEL
from serve_app.core.tiers import DEFAULT_MAX_NEW_TOKENS, Tier

ENV_PREFIX = "TIERSERVE_"
OTLP_ENDPOINT = (
    "Base URL of a collector of traces, OTLP over HTTP: `http://collector:4318`. Unset: that of "
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT or OTEL_EXPORTER_OTLP_ENDPOINT; without any, requests are "
    "not traced. docs/tracing.md."
)
# Read or set by the launcher and the model cache; not settings of a tier.
LAUNCHER_VARIABLES = frozenset(
    {
        "TIERSERVE_CACHE",
        "TIERSERVE_RUN_ID",
        "TIERSERVE_HAPROXY_HEADER_TIMEOUT_S",
        "TIERSERVE_HAPROXY_BODY_TIMEOUT_S",
        "TIERSERVE_HAPROXY_HOST",
        "TIERSERVE_KEYS",
        "TIERSERVE_KEYS_PEPPER",
    }
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
        description="Hub name, path of a model directory, or an embedded model: `smollm2`, "
        "`micro-r1`, `micro-r2`.",
    )
    preferred_accelerator: str | None = Field(
        default=None,
        description="Ray's accelerator type that the tier's `label_selector` requests, where there "
        "is a `fallback_strategy` too. Serve scales down replicas on other GPUs first, and the "
        "scaling policy takes that into account.",
    )
    gpu_prices_usd_per_hour: dict[str, PositiveFloat] = Field(
        default_factory=dict,
        description="Your GPU prices by Ray's accelerator type, in place of those in "
        "serve_app/core/placement/hardware.py. From prices and speeds `tierserve doctor` reports "
        "which type gives the cheapest token, and whether the tier requests it first.",
    )
    engine: EngineConfig = Field(default_factory=EngineConfig, description="See EngineConfig.")
    structure: StructureConfig = Field(
        default_factory=StructureConfig, description="See StructureConfig."
    )
    cors_origins: Origins = Field(default=(), description=CORS_ORIGINS)
    otlp_endpoint: str | None = Field(default=None, pattern="^https?://", description=OTLP_ENDPOINT)
    access: AccessConfig = Field(default_factory=AccessConfig, description="See AccessConfig.")
    resumable: ResumableConfig = Field(
        default_factory=ResumableConfig, description="See ResumableConfig."
    )


class TierSettings(_EnvironmentWins):
    """`user_config` of a tier's deployment: changes live, all of it or nothing."""

    max_new_tokens: int = Field(
        ge=1, description="Default and limit of new tokens. Default: chat 1024, reasoning 2048."
    )
    admission: AdmissionConfig = Field(
        default_factory=AdmissionConfig, description="See AdmissionConfig."
    )
    slo: SloConfig = Field(default_factory=SloConfig, description="See SloConfig.")
    scaling: ScalingConfig = Field(default_factory=ScalingConfig, description="See ScalingConfig.")
    thinking: ThinkingConfig = Field(
        default_factory=ThinkingConfig, description="See ThinkingConfig."
    )
    answers: AnswersConfig = Field(default_factory=AnswersConfig, description="See AnswersConfig.")
    prompting: PromptingConfig = Field(
        default_factory=PromptingConfig, description="See PromptingConfig."
    )
    limits: LimitsConfig = Field(default_factory=LimitsConfig, description="See LimitsConfig.")
    sampling: SamplingConfig = Field(
        default_factory=SamplingConfig, description="See SamplingConfig."
    )
    tasks: dict[str, TaskConfig] = Field(
        default_factory=default_tasks,
        description="What a request may name in `task`; see TaskConfig. Default: `math`, `code`, "
        "`service`, `creative`, as in docs/reasoning.md.",
    )
    stop_repetition: bool = Field(
        default=True,
        description="End an answer that repeats itself endlessly, unless the request sets "
        "`ignore_eos`.",
    )
    answer_cache: AnswerCacheConfig = Field(
        default_factory=AnswerCacheConfig, description="See AnswerCacheConfig."
    )
    prefixes: PrefixConfig = Field(default_factory=PrefixConfig, description="See PrefixConfig.")
    prefix_cache_isolation: bool = Field(
        default=False,
        description="Share the engine's prefix cache between requests with the same credentials "
        "only; requests without any then share nothing. Off: the time to a first token reveals "
        "whether anybody has sent the same prefix. Set it for both tiers.",
    )
    system_prompt: str | None = Field(
        default=None,
        description="System message for requests that have none. For an R1 distill it is folded "
        "into the first user message.",
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
    report_keep_s: float = Field(
        default=30.0,
        gt=0,
        description="How long the last report of a replica that is late counts, marked `stale`; a "
        "replica that Serve no longer has is dropped at once.",
    )
    heartbeat_s: float = Field(
        default=3.0,
        gt=0,
        description="Time between SSE heartbeat comments of `/v1` while a tier sends nothing, as "
        "while its first replica starts.",
    )
    max_body_bytes: int = Field(
        default=4 * 1024 * 1024, ge=1024, description="Larger request bodies are refused with 413."
    )
    body_timeout_s: float = Field(
        default=30.0, gt=0, description="Time in which a request's body must have arrived."
    )
    client_stall_s: float = Field(
        default=30.0,
        gt=0,
        description="How long a client may read nothing of a response that is ready; then its "
        "request ends.",
    )
    cors_origins: Origins = Field(default=(), description=CORS_ORIGINS)
    otlp_endpoint: str | None = Field(default=None, pattern="^https?://", description=OTLP_ENDPOINT)
    access: AccessConfig = Field(default_factory=AccessConfig, description="See AccessConfig.")
    usage: UsageConfig = Field(default_factory=UsageConfig, description="See UsageConfig.")
    replay: ReplayConfig = Field(default_factory=ReplayConfig, description="See ReplayConfig.")


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


def starting_settings(tier: Tier, max_model_len: int) -> TierSettings:
    """What a replica is built with, before Serve gives it its `user_config`: the defaults, with a
    token limit that leaves a prompt room in the engine's context. They refuse nothing: a small
    context is refused with the settings that apply, or not at all."""
    settings = tier_settings(tier, {})
    fitting = min(settings.max_new_tokens, max_model_len // 2)
    return settings.model_copy(update={"max_new_tokens": fitting})


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
                f"environment variable {name} is not a setting of tierserve; "
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
