"""Settings of a tier that shape its answers: thought, prompt, sampling, cache. All change live."""

from types import MappingProxyType
from typing import Any, Literal

from pydantic import Field

from serve_app.config.engine import Strict
from serve_app.core.reasoning.prompt_rules import MATH_DIRECTIVE


class ThinkingConfig(Strict):
    """How much of its tokens a request may think. Only for models that think."""

    enabled: bool = Field(
        default=True,
        description="Whether this tier's requests think; one that asks for it is told otherwise "
        "in `x-tierserve-warning`.",
    )
    answer_share: float = Field(
        default=0.25,
        gt=0,
        lt=1,
        description="Share of a request's tokens that is kept for its answer; the thought is "
        "closed when it has used the others.",
    )
    answer_tokens: int | None = Field(
        default=None,
        ge=1,
        description="At most so many tokens are kept; unset: `answer_share` of `max_new_tokens`.",
    )
    budget_tokens: int | None = Field(
        default=None,
        ge=0,
        description="Most tokens of a thought; unset: all that are not kept. 0: as `enabled: "
        "false`.",
    )


class LimitsConfig(Strict):
    """What a request gets that asks for more new tokens than the tier gives."""

    when_above: Literal["refuse", "lower"] | None = Field(
        default=None,
        description="`refuse` with 400, or `lower` to the tier's limit and say so in "
        "`x-tierserve-warning`. Unset: `lower` on the routes of `/v1`, whose clients cannot know "
        "the limit, and `refuse` on `POST /api/<tier>` itself.",
    )

    def lowers(self, *, bare: bool) -> bool:
        """Whether such a limit is lowered; `bare`: on the tier's own route."""
        return not bare if self.when_above is None else self.when_above == "lower"


class PromptingConfig(Strict):
    """Rules of the model's family for its prompts. Unset: on for R1 models, off for others."""

    fold_system: bool | None = Field(
        default=None,
        description="Put system messages into the first user message; R1 distills want none.",
    )
    strip_thoughts: bool | None = Field(
        default=None, description="Take the thoughts out of earlier answers."
    )
    force_thought: bool | None = Field(
        default=None,
        description="Begin each reply with `<think>` where the chat template does not; the model "
        "sometimes skips its thought otherwise. Unset: on for every model that thinks.",
    )


class TaskConfig(Strict):
    """What a request gets that names a task; what it sets itself wins."""

    temperature: float | None = Field(default=None, ge=0, le=2, description="Its temperature.")
    top_p: float | None = Field(default=None, gt=0, le=1, description="Its nucleus mass.")
    directive: str | None = Field(
        default=None, description="Text that is added to the last user message."
    )


# Within the ranges that the model's makers and the project's sources give (R1's card: 0.5 to 0.7).
_TASKS = MappingProxyType(
    {
        "math": TaskConfig(temperature=0.5, directive=MATH_DIRECTIVE),
        "code": TaskConfig(temperature=0.3),
        "service": TaskConfig(temperature=0.4),
        "creative": TaskConfig(temperature=0.7),
    }
)


class SamplingConfig(Strict):
    """Values for what a request leaves out. null: the model's own generation_config."""

    temperature: float | None = Field(default=0.6, ge=0, le=2, description="Sampling temperature.")
    top_p: float | None = Field(default=0.95, gt=0, le=1, description="Nucleus sampling mass.")
    top_k: int | None = Field(
        default=None, ge=-1, description="Sample among the k likeliest tokens."
    )
    min_p: float | None = Field(
        default=None, ge=0, le=1, description="Least probability, of the top's."
    )
    repetition_penalty: float | None = Field(
        default=None, gt=0, le=2, description="Above 1 discourages repetition."
    )


class AnswerCacheConfig(Strict):
    """Repeated questions answered without the engine, in each replica for itself: those of
    temperature 0 or with a seed, with the same key, model, prompt and parameters."""

    enabled: bool = Field(default=False, description="Whether answers are kept.")
    max_bytes: int = Field(
        default=64 * 1024 * 1024, ge=1024, description="Memory for kept answers, in bytes."
    )
    max_age_s: float = Field(default=3600.0, gt=0, description="Longest life of a kept answer.")


def default_tasks() -> dict[str, Any]:
    """The tasks that a tier knows where its config names none."""
    return dict(_TASKS)
