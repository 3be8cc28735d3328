"""What a load test does, as a YAML file says it: unknown keys are refused."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

_SECONDS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_FORM = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(/?)\s*(ms|s|m|h)?\s*")


def seconds(value: float | str) -> float:
    """A plain number is seconds. Raises ValueError."""
    if not isinstance(value, str):
        return float(value)
    match = _FORM.fullmatch(value)
    if match is None or match[2]:
        raise ValueError(f"{value!r} is no time: write 100ms, 2s, 5m or 1h")
    return float(match[1]) * _SECONDS[match[3] or "s"]


def per_second(value: float | str) -> float:
    """A plain number is a second's. Raises ValueError."""
    if not isinstance(value, str):
        return float(value)
    match = _FORM.fullmatch(value)
    if match is None or (match[3] and not match[2]) or (match[2] and not match[3]):
        raise ValueError(f"{value!r} is no rate: write 3/s, 90/m or 100/h")
    return float(match[1]) / _SECONDS[match[3] or "s"]


def _above_0(value: float) -> float:
    if value <= 0:
        raise ValueError(f"{value:g} is not above 0")
    return value


Time = Annotated[float, BeforeValidator(seconds), Field(ge=0)]
Rate = Annotated[float, BeforeValidator(per_second), AfterValidator(_above_0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Poisson(_Strict):
    """Independent arrivals: exponential gaps."""

    kind: Literal["poisson"] = "poisson"
    rate: Rate = Field(description="Arrivals a second.")


class Constant(_Strict):
    """Equal gaps."""

    kind: Literal["constant"]
    rate: Rate = Field(description="Arrivals a second.")


class Ramp(_Strict):
    """Independent arrivals whose rate goes linearly from `rate` to `to` over the load's time."""

    kind: Literal["ramp"]
    rate: Rate = Field(description="Arrivals a second at the beginning.")
    to: Rate = Field(description="Arrivals a second at the end.")


class Burst(_Strict):
    """Independent arrivals at `rate`, and at `burst_rate` for the last `length` of each `every`."""

    kind: Literal["burst"]
    rate: Rate = Field(description="Arrivals a second between bursts.")
    burst_rate: Rate = Field(description="Arrivals a second within a burst.")
    every: Time = Field(description="From the end of one burst to the end of the next.")
    length: Time = Field(description="How long a burst is.")

    @model_validator(mode="after")
    def _fits(self) -> "Burst":
        if not 0 < self.length < self.every:
            raise ValueError("`length` must be above 0 and below `every`")
        return self


class TraceFile(_Strict):
    """Recorded arrivals and lengths: CSV, gzipped or not, arrival_s,input_tokens,output_tokens."""

    kind: Literal["trace"]
    file: Path = Field(description="The file; relative to the scenario's.")
    speed: Annotated[float, AfterValidator(_above_0)] = Field(
        default=1.0, description="How many times as fast as recorded."
    )


class Closed(_Strict):
    """No arrivals: so many clients, each of which asks again when its answer has ended."""

    kind: Literal["closed"]
    concurrency: int = Field(description="Clients.", gt=0)
    pause: Time = Field(
        default=0.0, description="What a client waits between an answer and its next."
    )


Arrivals = Annotated[
    Poisson | Constant | Ramp | Burst | TraceFile | Closed, Field(discriminator="kind")
]


class Uniform(_Strict):
    """Whole numbers from `low` to `high`, both included, all as likely."""

    low: int = Field(gt=0, description="The shortest.")
    high: int = Field(gt=0, description="The longest.")

    @model_validator(mode="after")
    def _ordered(self) -> "Uniform":
        if self.low > self.high:
            raise ValueError("`low` is above `high`")
        return self


class Lognormal(_Strict):
    """Half are below `median`, 95 % below `p95`: what recorded lengths look like."""

    median: int = Field(gt=0, description="Half are shorter.")
    p95: int = Field(gt=0, description="95 % are shorter.")

    @model_validator(mode="after")
    def _ordered(self) -> "Lognormal":
        if self.median > self.p95:
            raise ValueError("`median` is above `p95`")
        return self


def _kind_of_length(value: Any) -> str:
    if isinstance(value, Uniform | Lognormal):
        return type(value).__name__.lower()
    if isinstance(value, dict):
        return "lognormal" if {"median", "p95"} & value.keys() else "uniform"
    return "number"


# By what is there, so that a mistake is not reported once for each of the three.
Tokens = Annotated[
    Annotated[int, Field(gt=0), Tag("number")]
    | Annotated[Uniform, Tag("uniform")]
    | Annotated[Lognormal, Tag("lognormal")],
    Discriminator(_kind_of_length),
]


class Slo(_Strict):
    """A request is good if it meets all that are set; refused and failed ones are not."""

    ttft: Time | None = Field(default=None, description="Sent to first token, reasoning included.")
    ttfo: Time | None = Field(default=None, description="Sent to first token of the answer.")
    tpot: Time | None = Field(default=None, description="Mean time of a token after the first.")
    e2e: Time | None = Field(default=None, description="Sent to last token.")


def slo_words(slo: Slo) -> str:
    """`TTFT ≤ 2 s, TPOT ≤ 100 ms`."""
    limits = [(name.upper(), limit_s) for name, limit_s in slo if limit_s is not None]
    return ", ".join(
        f"{name} ≤ {limit_s * 1e3:g} ms" if limit_s < 1 else f"{name} ≤ {limit_s:g} s"
        for name, limit_s in limits
    )


class Load(_Strict):
    """One stream of requests to one tier. Several may go to the same tier."""

    tier: str = Field(
        min_length=1,
        pattern=r"^[\w.-]+$",
        description="Its name; the server's, if it has tiers. A trace with a column `tier` names "
        "its own.",
    )
    arrivals: Arrivals = Field(description="When requests come.")
    input_tokens: Tokens = Field(default=128, description="Length of prompts; a trace has its own.")
    output_tokens: Tokens = Field(
        default=128, description="Length of answers; a trace has its own."
    )
    start: Time = Field(default=0.0, description="When it begins, from the run's beginning.")
    duration: Time | None = Field(
        default=None, description="How long; to the run's end if not given."
    )
    requests: int | None = Field(default=None, gt=0, description="At most so many.")
    slo: Slo | None = Field(default=None, description="For goodput; the scenario's if not given.")
    model: str | None = Field(
        default=None, description="The first that the server lists if not given."
    )
    max_new_tokens: int | None = Field(
        default=None,
        gt=0,
        description="Longer answers are clipped; what the server reports if not given.",
    )
    context_tokens: int | None = Field(
        default=None, gt=0, description="Prompts are clipped to it less the answers' limit."
    )


class Scenario(_Strict):
    """A run: where the requests go and what comes there."""

    name: str = Field(default="run", description="In reports and folder names.")
    base_url: str = Field(
        default="http://127.0.0.1:8000",
        pattern=r"^https?://[^/\s]+",
        description="With /v1 at its end: any OpenAI server, all tiers go there. Without: a "
        "server with tiers, asked at /api/TIER/v1.",
    )
    duration: Time | None = Field(
        default=None, description="How long requests come; a trace alone may go without."
    )
    seed: int = Field(default=0, description="Same seed, same arrivals and lengths.")
    loads: tuple[Load, ...] = Field(min_length=1, description="What comes.")
    slo: Slo | None = Field(default=None, description="For goodput.")
    warm_up: Time = Field(
        default=0.0, description="Requests that come in it do not count in the summary."
    )
    drain: Time = Field(default=300.0, description="How long the last answers are waited for.")
    timeout: Time = Field(default=600.0, description="The longest a request may take.")
    retries: int = Field(
        default=0,
        ge=0,
        description="How often a refused request is retried, at its Retry-After.",
    )
    ignore_eos: bool = Field(
        default=True,
        description="Answers of exactly the asked length; vLLM's field, off for others.",
    )
    fresh_prompts: bool = Field(
        default=True, description="No run repeats another's prompts, so that no cache knows them."
    )

    @model_validator(mode="after")
    def _ends(self) -> "Scenario":
        for number, load in enumerate(self.loads):
            bounded = self.duration or load.duration or load.requests
            if not bounded and load.arrivals.kind != "trace":
                raise ValueError(f"loads.{number} has no end: give `duration` or `requests`")
            if load.arrivals.kind == "ramp" and not (self.duration or load.duration):
                raise ValueError(f"loads.{number} is a ramp and needs a `duration`")
            if self.duration and load.start >= self.duration:
                raise ValueError(f"loads.{number} starts after the end of the run")
        return self

    def slo_of(self, load: Load) -> Slo | None:
        return load.slo or self.slo

    def length_s(self, load: Load) -> float | None:
        """How long the load's requests come; None where only its trace or count ends it."""
        left = None if self.duration is None else self.duration - load.start
        ends = [value for value in (left, load.duration) if value is not None]
        return min(ends, default=None)
