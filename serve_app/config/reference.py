"""docs/configuration.md, written from the settings' own documentation."""

import types
from collections.abc import Iterator
from typing import Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

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
)
from serve_app.config.engine import EngineConfig, FakeEngineConfig, FakeGpuConfig
from serve_app.config.prefixes import PrefixConfig
from serve_app.config.replay import ReplayConfig, ResumableConfig
from serve_app.config.scaling import ScalingConfig, SloConfig
from serve_app.config.structure import StructureConfig
from serve_app.config.tier import (
    ENV_PREFIX,
    TierArgs,
    TierSettings,
    WebArgs,
)
from serve_app.config.usage import UsageConfig

_INTRODUCTION = f"""# Configuration

Written by `make docs-reference` from the settings in `serve_app/config/`; do not edit.

A Serve config file (`deploy/*.yaml`) holds three applications: `web`, `chat` and `reasoning`.
`args` of an application needs new replicas when it changes. `user_config` of a deployment changes
live, with no restart and no dropped request, all of it or nothing: a running replica that gets
invalid settings keeps its own, logs `settings refused`, counts `tierserve_settings_refused_total`
and reports why in `GET /api/tiers` (`settings_error`).

Environment variables of the Ray processes win over the file. A name is `{ENV_PREFIX}`, then the
path of the setting joined by `__`; live settings begin with the tier:
`{ENV_PREFIX}MODEL`, `{ENV_PREFIX}ENGINE__MAX_MODEL_LEN`, `{ENV_PREFIX}CHAT__MAX_NEW_TOKENS`,
`{ENV_PREFIX}REASONING__ADMISSION__MAX_WAIT_S`. An unknown name stops the start. The launcher also
reads `TIERSERVE_CACHE` (where the embedded model is kept; default: `tierserve` in the user's cache
folder).
"""
_SECTIONS: tuple[tuple[str, str, type[BaseModel], str], ...] = (
    ("`args` of a tier", "Needs new replicas.", TierArgs, ""),
    ("`args.engine`", "Needs new replicas.", EngineConfig, "engine."),
    ("`args.engine.fake`", "Needs new replicas.", FakeEngineConfig, "engine.fake."),
    (
        "`args.engine.fake.cards.<type>`",
        "Needs new replicas.",
        FakeGpuConfig,
        "engine.fake.cards.<type>.",
    ),
    ("`args.structure`", "Needs new replicas.", StructureConfig, "structure."),
    ("`args.resumable` of a tier", "Needs new replicas.", ResumableConfig, "resumable."),
    ("`user_config` of a tier", "Changes live.", TierSettings, ""),
    ("`user_config.admission`", "Changes live.", AdmissionConfig, "admission."),
    ("`user_config.slo`", "Changes live.", SloConfig, "slo."),
    ("`user_config.scaling`", "Changes live.", ScalingConfig, "scaling."),
    ("`user_config.thinking`", "Changes live.", ThinkingConfig, "thinking."),
    ("`user_config.answers`", "Changes live.", AnswersConfig, "answers."),
    ("`user_config.limits`", "Changes live.", LimitsConfig, "limits."),
    ("`user_config.prompting`", "Changes live.", PromptingConfig, "prompting."),
    ("`user_config.sampling`", "Changes live.", SamplingConfig, "sampling."),
    ("`user_config.tasks.<name>`", "Changes live.", TaskConfig, "tasks.<name>."),
    ("`user_config.answer_cache`", "Changes live.", AnswerCacheConfig, "answer_cache."),
    ("`user_config.prefixes`", "Changes live.", PrefixConfig, "prefixes."),
    ("`args` of web", "Needs a new replica of web.", WebArgs, ""),
    ("`args.access` of web and a tier", "Needs new replicas.", AccessConfig, "access."),
    ("`args.usage` of web", "Needs a new replica of web.", UsageConfig, "usage."),
    ("`args.replay` of web", "Needs a new replica of web.", ReplayConfig, "replay."),
)


def render() -> str:
    """The whole page as Markdown."""
    return "\n".join([_INTRODUCTION, *(_section(*section) for section in _SECTIONS)])


def _section(title: str, effect: str, model: type[BaseModel], prefix: str) -> str:
    rows = "\n".join(_rows(model, prefix))
    head = "| setting | type | default | meaning |\n|---|---|---|---|"
    return f"## {title}\n\n{effect}\n\n{head}\n{rows}\n"


def _rows(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        kind = _type_name(field.annotation)
        yield f"| `{prefix}{name}` | {kind} | {_default(field)} | {field.description} |"


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None:
        return ""
    if field.default is PydanticUndefined:
        return "required" if "Default:" not in (field.description or "") else "by tier"
    if field.default is None:
        return "unset"
    if isinstance(field.default, tuple):
        return f"`{', '.join(field.default)}`" if field.default else "none"
    # A line break would end the table's row.
    shown = str(field.default).replace("\n", "\\n")
    return f"`{shown}`"


def _type_name(annotation: object) -> str:
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join(
            _type_name(part) for part in get_args(annotation) if part is not type(None)
        )
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in get_args(annotation))
    if origin is dict:
        return "map"
    if origin is tuple:
        return "list"
    if isinstance(annotation, type):
        return "section" if issubclass(annotation, BaseModel) else annotation.__name__
    return str(annotation)
