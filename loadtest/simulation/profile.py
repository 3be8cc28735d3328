"""A GPU's figures: what the simulation steps by, and what `loadtest calibrate` measures."""

from bisect import bisect_left
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from loadtest.errors import UserError
from serve_app.core.scaling.step_time import StepModel

PROFILES = Path(__file__).parent.parent / "profiles"
TOTAL = "total"
# `given`: a setting of the engine or a published price, of which nothing can be measured.
Status = Literal["measured", "derived", "given"]
# Measured: what `validate` lets throughput be off by. Derived: as much as the 4090's first profile
# was off at a full batch (docs/calibration.md).
DEFAULT_UNCERTAINTY: Mapping[Status, float] = {"measured": 0.1, "derived": 0.3, "given": 0.0}
MOST_UNCERTAINTY = 1.0


class _ProfileModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _Uncertain(_ProfileModel):
    """How a figure is known, and how well."""

    status: Status
    source: str = Field(min_length=1)
    uncertainty: float | None = Field(
        default=None,
        ge=0,
        le=MOST_UNCERTAINTY,
        description="As a share u: the true value is expected from 1 / (1 + u) of it to (1 + u) "
        "times it. null, as in files that are older than this field: 0.1 of what was measured, 0.3 "
        "of what was derived, 0 of what was given.",
    )
    least: bool = Field(
        default=False, description="It is a bound: the true value is not below it, only above."
    )

    @property
    def share(self) -> float:
        """Its uncertainty, or the default of its status."""
        return DEFAULT_UNCERTAINTY[self.status] if self.uncertainty is None else self.uncertainty

    @property
    def lowest(self) -> float:
        """The smallest part of the value that is expected."""
        return 1.0 if self.least else 1 / (1 + self.share)

    @property
    def highest(self) -> float:
        """The largest multiple of the value that is expected."""
        return 1 + self.share


class ProfileFigure(_Uncertain):
    """A number, how it is known, and where it is from."""

    value: float = Field(ge=0)


def _above_0(figure: ProfileFigure) -> ProfileFigure:
    if figure.value <= 0:
        raise ValueError(f"the value is to be above 0, not {figure.value:g}")
    return figure


def _whole(figure: ProfileFigure) -> ProfileFigure:
    if figure.value < 1 or figure.value != int(figure.value):
        raise ValueError(f"the value is to be a whole number above 0, not {figure.value:g}")
    return figure


def _with_total(phases: Mapping[str, ProfileFigure]) -> Mapping[str, ProfileFigure]:
    if TOTAL not in phases:
        raise ValueError(f"is to have `{TOTAL}`, the seconds of the whole start")
    return phases


Count = Annotated[ProfileFigure, AfterValidator(_whole)]


class StepTimeCurve(_Uncertain):
    """What a step with no context takes, by how many sequences it has, where that is no straight
    line: `step_ms` between its points by interpolation, below the first one as much as there, and
    beyond the last one as between the last two."""

    step_ms: Mapping[int, float]

    @model_validator(mode="after")
    def _rises(self) -> Self:
        sequences, values = list(self.step_ms), list(self.step_ms.values())
        if len(sequences) < 2 or sequences != sorted(sequences) or sequences[0] < 1:
            raise ValueError("step_ms is to be for two numbers of sequences or more, rising from 1")
        if values[0] <= 0 or any(after < before for before, after in pairwise(values)):
            raise ValueError("step_ms is to be above 0 and not to fall with more sequences")
        return self

    def at(self, sequences: float) -> float:
        known = list(self.step_ms)
        if sequences <= known[0]:
            return self.step_ms[known[0]]
        after = min(bisect_left(known, sequences), len(known) - 1)
        low, high = known[after - 1], known[after]
        low_ms, high_ms = self.step_ms[low], self.step_ms[high]
        return low_ms + (high_ms - low_ms) * (sequences - low) / (high - low)


class MeasuredOn(_ProfileModel):
    """What a calibrated profile was measured on, and the command that measures it again."""

    machine: Mapping[str, str | int | float]
    date: str
    versions: Mapping[str, str]
    commit: str
    command: str


class GpuProfile(_ProfileModel):
    """One GPU with one model on it.

    A step takes `base + per_sequence * sequences + per_context_ktoken * context tokens of all
    sequences / 1000 + per_prompt_token * prompt tokens`. `overhead_ms` is a request's way outside
    the engine's steps: HTTP, tokenizer, first chunk.

    A CPU is not so straight. There `by_sequences` takes the place of `base + per_sequence *
    sequences`, which production's gate still goes by; a prompt token has to read those before it,
    `per_prompt_mpair_ms`; and each prompt costs the others some time however short it is,
    `per_prompt_ms`.
    """

    name: str = Field(min_length=1, pattern=r"^[\w.-]+$", description="As in `--gpus T4=2`.")
    accelerator_type: str | None = Field(description="Ray's name of the GPU; null is a CPU.")
    model: str = Field(min_length=1, description="The model that the figures are for.")
    base_ms: Annotated[ProfileFigure, AfterValidator(_above_0)] = Field(
        description="What a step takes whatever is in it: the weights are read."
    )
    per_sequence_ms: ProfileFigure = Field(description="For each sequence that gets a token.")
    per_prompt_token_ms: ProfileFigure = Field(description="For each prompt token: prefill.")
    per_context_ktoken_ms: ProfileFigure = Field(
        description="For each 1,000 tokens in the contexts of all sequences: the KV cache is read."
    )
    by_sequences: StepTimeCurve | None = Field(default=None, description="null: the straight line.")
    per_prompt_mpair_ms: ProfileFigure | None = Field(
        default=None,
        description="For each million pairs of a prompt token and one before it: null is 0.",
    )
    per_prompt_ms: ProfileFigure | None = Field(
        default=None, description="For each prompt that begins, beside its tokens: null is 0."
    )
    step_tokens: Count = Field(description="Most tokens in a step: vLLM's max_num_batched_tokens.")
    kv_tokens: Count = Field(description="What the KV cache holds.")
    max_sequences: Count = Field(description="Most sequences in a step: vLLM's max_num_seqs.")
    overhead_ms: ProfileFigure = Field(description="A request's way outside the engine's steps.")
    start_s: Annotated[Mapping[str, ProfileFigure], AfterValidator(_with_total)] = Field(
        description="From the replica's process to its readiness: `total`, and its phases."
    )
    price_usd_per_hour: ProfileFigure | None = Field(default=None, description="null: not known.")
    measured_on: MeasuredOn | None = Field(default=None, description="null: not calibrated.")

    @property
    def start_total_s(self) -> float:
        return self.start_s[TOTAL].value

    @property
    def fake_engine_figures(self) -> dict[str, float | int]:
        """Of the fake engine in its place, as `args.engine.fake` takes them for a type of GPU."""
        return {
            "base_ms": self.base_ms.value,
            "per_sequence_ms": self.per_sequence_ms.value,
            "per_prompt_token_ms": self.per_prompt_token_ms.value,
            "per_context_ktoken_ms": self.per_context_ktoken_ms.value,
            "step_tokens": int(self.step_tokens.value),
            "kv_tokens": int(self.kv_tokens.value),
            "max_sequences": int(self.max_sequences.value),
        }

    @property
    def step_model(self) -> StepModel:
        """Production's model of a step, which has no term for context."""
        return StepModel(
            base_ms=self.base_ms.value,
            per_sequence_ms=self.per_sequence_ms.value,
            per_prompt_token_ms=self.per_prompt_token_ms.value,
        )

    def step_ms(
        self,
        sequences: float,
        *,
        context_tokens: float = 0.0,
        prompt_tokens: float = 0.0,
        prompt_pairs: float = 0.0,
    ) -> float:
        """`context_tokens` are those of all sequences together, `prompt_pairs` as `pairs` counts
        them."""
        prompt_ms = self.per_prompt_token_ms.value * prompt_tokens
        read_ms = self.per_context_ktoken_ms.value * context_tokens / 1e3
        return self.batch_ms(sequences) + prompt_ms + read_ms + self.pairs_ms(prompt_pairs)

    def batch_ms(self, sequences: float) -> float:
        """Of a step without contexts and prompts."""
        if self.by_sequences is not None:
            return self.by_sequences.at(sequences)
        return self.base_ms.value + self.per_sequence_ms.value * sequences

    def token_ms(self, sequences: int, context_tokens: float = 0.0) -> float:
        """A token's part of a step with so many sequences, each with this context."""
        read_ms = self.per_context_ktoken_ms.value * context_tokens / 1e3
        return self.batch_ms(sequences) / sequences + read_ms

    def prompt_ms(self, prompt_tokens: float) -> float:
        """What a prompt adds to its steps."""
        own_ms = self.per_prompt_token_ms.value * prompt_tokens
        return own_ms + self.pairs_ms(pairs(0, prompt_tokens)) + self.begin_ms

    @property
    def begin_ms(self) -> float:
        return 0.0 if self.per_prompt_ms is None else self.per_prompt_ms.value

    def pairs_ms(self, prompt_pairs: float) -> float:
        per_mpair = self.per_prompt_mpair_ms
        return 0.0 if per_mpair is None else per_mpair.value * prompt_pairs / 1e6


def pairs(before: float, tokens: float) -> float:
    """Each of these prompt tokens with each of those before it, `before` of them in earlier
    steps."""
    return tokens * (before + tokens / 2)


def known_profiles() -> Mapping[str, GpuProfile]:
    """The profiles that come with the package, by name."""
    found = [read_profile(path) for path in sorted(PROFILES.glob("*.json"))]
    return {profile.name: profile for profile in found}


def read_profile(path: Path) -> GpuProfile:
    """Raises UserError."""
    try:
        return GpuProfile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        lines = [f"  {_place(one['loc'])}{_reason(one)}" for one in error.errors()]
        raise UserError("\n".join([f"{path} is no profile of a GPU:", *lines])) from None


def write_profile(path: Path, profile: GpuProfile) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(profile.model_dump_json(indent=1) + "\n", encoding="utf-8")


def _place(location: tuple[int | str, ...]) -> str:
    return f"{'.'.join(map(str, location))}: " if location else ""


def _reason(error: Mapping[str, object]) -> str:
    if error["type"] == "extra_forbidden":
        return "there is no such key"
    if error["type"] == "missing":
        return "is missing"
    return str(error["msg"]).removeprefix("Value error, ")
