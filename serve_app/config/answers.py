"""Settings that shape a tier's answers: reasoning, prompt, sampling, cache. All change live."""

from types import MappingProxyType
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from serve_app.config.engine import Strict
from serve_app.core.reasoning.answer_policy import AnswerPolicy
from serve_app.core.reasoning.prompt_rules import MATH_DIRECTIVE


class ThinkingConfig(Strict):
    """How many of its tokens a request may spend on reasoning. Only for reasoning models."""

    enabled: bool = Field(
        default=True,
        description="Whether this tier's requests reason; off, a request that wants reasoning is "
        "answered without, with a note in `x-tierserve-warning`.",
    )
    answer_share: float = Field(
        default=0.25,
        gt=0,
        lt=1,
        description="Fraction of a request's tokens that is reserved for its answer; the reasoning "
        "ends when it has used the others.",
    )
    answer_tokens: int | None = Field(
        default=None,
        ge=1,
        description="At most so many tokens are reserved; unset: `answer_share` of "
        "`max_new_tokens`.",
    )
    budget_tokens: int | None = Field(
        default=None,
        ge=0,
        description="Most reasoning tokens; unset: all that are not reserved. 0: as `enabled: "
        "false`.",
    )


class AnswersConfig(Strict):
    """How a request's tokens are spent on its answer."""

    policy: AnswerPolicy = Field(
        default=AnswerPolicy.TRUNCATE,
        description="What a request gets that names no `answer_policy`: `truncate`, reason up to "
        "the budget and then answer; `direct`, no reasoning, unless the request asks for it; "
        "`lean`, make the end of the reasoning likelier as its budget is spent; "
        "`early_exit`, end the reasoning once its trial answers agree; `pair`, a direct answer "
        "beside the reasoning, which ends once it agrees; `vote`, the answer of most of several "
        "samples. See docs/reasoning.md.",
    )
    lean_bias: float = Field(
        default=20.0,
        gt=0,
        le=100,
        description="`lean`: what is added to the logit of the reasoning's end when the budget is "
        "spent. How much it takes depends on the model (with micro-r1 12 changes nothing, and at "
        "24 every reasoning ends itself); a request may name another one.",
    )
    lean_from: float = Field(
        default=0.5,
        ge=0,
        lt=1,
        description="`lean`: the fraction of the budget from which on the bias grows from 0, "
        "evenly.",
    )
    trial_every_tokens: int = Field(
        default=64,
        ge=4,
        description="`early_exit`, `pair`: reasoning tokens from one trial answer to the next. A "
        "request may ask for more.",
    )
    trial_tokens: int = Field(
        default=24, ge=1, description="`early_exit`, `pair`: most tokens of a trial answer."
    )
    vote_samples: int = Field(
        default=3,
        ge=2,
        le=16,
        description="`vote`: most samples of an answer, each of which takes a slot and has the "
        "request's limit of new tokens. A replica with fewer slots makes fewer; a request may ask "
        "for fewer.",
    )


class LimitsConfig(Strict):
    """What happens to a request for more new tokens than the tier allows, and which deadlines it
    takes (docs/deadlines.md)."""

    when_above: Literal["refuse", "lower"] | None = Field(
        default=None,
        description="`refuse` with 400, or `lower` to the tier's limit with a note in "
        "`x-tierserve-warning`. Unset: `lower` on the routes of `/v1`, whose clients cannot know "
        "the limit, and `refuse` on `POST /api/<tier>` itself.",
    )
    least_deadline_ms: int = Field(
        default=250, ge=1, description="The shortest deadline that a request may ask for."
    )
    most_deadline_ms: int = Field(
        default=3_600_000,
        ge=1,
        le=86_400_000,
        description="The longest deadline that a request may ask for.",
    )
    least_answer_tokens: int = Field(
        default=32,
        ge=1,
        description="A request with a deadline is taken only where an answer of so many tokens, "
        "without reasoning, would be in time; and no answer is planned shorter.",
    )
    least_reasoning_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="While requests of its key wait, reasoning with a deadline is closed earlier, "
        "the more of them the earlier, but has at least this part of the tier's mean length; 1: it "
        "is not closed for others.",
    )

    @model_validator(mode="after")
    def _least_is_least(self) -> Self:
        if self.least_deadline_ms > self.most_deadline_ms:
            raise ValueError("`least_deadline_ms` must not be above `most_deadline_ms`")
        return self

    def lowers(self, *, bare: bool) -> bool:
        """Whether such a limit is lowered; `bare`: on the tier's own route."""
        return not bare if self.when_above is None else self.when_above == "lower"


class PromptingConfig(Strict):
    """Rules of the model's family for its prompts. Unset: on for R1 models, off for others."""

    fold_system: bool | None = Field(
        default=None,
        description="Put system messages into the first user message; R1 distills take none.",
    )
    strip_thoughts: bool | None = Field(
        default=None, description="Remove the reasoning from earlier answers."
    )
    force_thought: bool | None = Field(
        default=None,
        description="Begin each reply with `<think>` where the chat template does not; the model "
        "sometimes skips its reasoning otherwise. Unset: on for every reasoning model.",
    )


class TaskConfig(Strict):
    """Defaults for a request that names a task; what it sets itself wins."""

    temperature: float | None = Field(default=None, ge=0, le=2, description="Its temperature.")
    top_p: float | None = Field(default=None, gt=0, le=1, description="Its nucleus mass.")
    directive: str | None = Field(
        default=None, description="Text that is appended to the last user message."
    )


# Within the ranges that the models' authors recommend (R1's model card: 0.5 to 0.7).
_TASKS = MappingProxyType(
    {
        "math": TaskConfig(temperature=0.5, directive=MATH_DIRECTIVE),
        "code": TaskConfig(temperature=0.3),
        "service": TaskConfig(temperature=0.4),
        "creative": TaskConfig(temperature=0.7),
    }
)


class SamplingConfig(Strict):
    """Values for what a request omits. null: the model's own generation_config."""

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
    """Repeated requests answered without the engine, by each replica on its own: those with
    temperature 0 or a seed, and the same key, model, prompt and parameters."""

    enabled: bool = Field(default=False, description="Whether answers are cached.")
    max_bytes: int = Field(
        default=64 * 1024 * 1024, ge=1024, description="Memory for cached answers, in bytes."
    )
    max_age_s: float = Field(default=3600.0, gt=0, description="Maximum age of a cached answer.")


def default_tasks() -> dict[str, Any]:
    """The tasks that a tier knows where its config names none."""
    return dict(_TASKS)
